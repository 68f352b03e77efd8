"""The eviction orders: equal to libcachesim decision by decision, and their own edges."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import libcachesim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcache.cache.policy import POLICIES, Lru, Policy, PolicyName, S3Fifo
from streamcache.cache.queues import SCHEMA, MemoryQueues, Queues, SqliteQueues
from tests.cache.traces import PureCache, Trace, footprint, media_trace, object_name

REFERENCE = {"s3fifo": libcachesim.S3FIFO, "lru": libcachesim.LRU}
BOTH: list[PolicyName] = ["s3fifo", "lru"]


def compare(policy: PolicyName, trace: Trace, capacity: int) -> tuple[int, int]:
    """Replay on both; each decision must be the same. Returns hits and evictions."""
    ours = PureCache(POLICIES[policy](MemoryQueues(), capacity))
    theirs = REFERENCE[policy](cache_size=capacity, hashpower=16)
    hits = evictions = 0
    request = libcachesim.Request()
    for step, (number, size) in enumerate(trace):
        request.obj_id, request.obj_size = number, size
        hit, evicted = ours.get(object_name(number), size)
        assert theirs.get(request) == hit, (step, number)
        hits += hit
        evictions += len(evicted)
        # The same number of objects and bytes, and what we evicted is not there: the same set.
        assert theirs.get_n_obj() == len(ours.present), (step, number)
        assert theirs.get_occupied_byte() == ours.used, (step, number)
        for name in evicted:
            request.obj_id = int(name[:32], 16)
            assert theirs.find(request, False) is None, (step, name)
    return hits, evictions


@pytest.mark.parametrize("policy", BOTH)
def test_decides_as_libcachesim_on_a_long_media_trace(policy: PolicyName) -> None:
    trace = media_trace(100_000, seed=1, titles=6000, scans=2)
    hits, evictions = compare(policy, trace, footprint(trace) // 10)
    assert hits > 20_000
    assert evictions > 20_000


@pytest.mark.parametrize("policy", BOTH)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_decides_as_libcachesim_at_any_cache_size(policy: PolicyName, share: float) -> None:
    trace = media_trace(6000, seed=2, titles=1500)
    hits, evictions = compare(policy, trace, int(footprint(trace) * share))
    assert hits
    assert evictions


@st.composite
def small_traces(draw: st.DrawFn) -> tuple[Trace, int]:
    capacity = draw(st.integers(100, 400))
    sizes = draw(st.lists(st.integers(1, 60), min_size=2, max_size=40))
    usable = [size for size in sizes if size != int(capacity * 0.1)] or [1]
    numbers = draw(st.lists(st.integers(0, len(usable) - 1), max_size=300))
    return [(number, usable[number]) for number in numbers], capacity


@pytest.mark.parametrize("policy", BOTH)
@given(case=small_traces())
@settings(max_examples=150, deadline=None)
def test_decides_as_libcachesim_on_any_trace(policy: PolicyName, case: tuple[Trace, int]) -> None:
    compare(policy, *case)


@contextmanager
def sqlite_queues() -> Iterator[SqliteQueues]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for statement in SCHEMA:
        db.execute(statement)
    stored = SqliteQueues(db)
    stored.load()
    with closing(db):
        yield stored


@pytest.fixture(params=["memory", "sqlite"])
def queues(request: pytest.FixtureRequest) -> Iterator[Queues]:
    if request.param == "memory":
        yield MemoryQueues()
        return
    with sqlite_queues() as made:
        yield made


def drain(policy: Policy, held: set[str]) -> list[str]:
    names = []
    while item := policy.evict(held):
        names.append(item.name)
    return names


def names(*numbers: int) -> list[str]:
    return [object_name(number) for number in numbers]


def fill(policy: Policy, *numbers: int, size: int = 10) -> None:
    for name in names(*numbers):
        policy.insert(name, size, recalled=policy.recall(name))


@pytest.mark.parametrize("kind", [Lru, S3Fifo])
def test_held_objects_are_passed_over_and_stay(
    queues: Queues, kind: Callable[[Queues, int], Policy]
) -> None:
    policy = kind(queues, 100)
    fill(policy, *range(10))
    held = set(names(0, 1, 4, 9))
    policy.touch(object_name(5), 2)
    assert sorted(drain(policy, held)) == names(2, 3, 5, 6, 7, 8)
    assert policy.evict(held) is None
    assert sorted(drain(policy, set())) == sorted(held)


def test_s3fifo_finds_what_the_small_queue_promoted_behind_held_ones(queues: Queues) -> None:
    policy = S3Fifo(queues, 50)
    fill(policy, 1, 2, 3)  # 1 in the small queue, the others in the main one
    policy.capacity = 10
    policy.touch(object_name(1), 3)
    item = policy.evict(set(names(2, 3)))
    assert item is not None
    assert item.name == object_name(1)


@pytest.mark.parametrize("kind", [Lru, S3Fifo])
def test_all_held_ends(queues: Queues, kind: Callable[[Queues, int], Policy]) -> None:
    policy = kind(queues, 100)
    fill(policy, *range(10))
    for name in names(*range(10)):
        policy.touch(name, 5)
    assert policy.evict(set(names(*range(10)))) is None


def test_lru_evicts_what_was_used_longest_ago(queues: Queues) -> None:
    policy = Lru(queues, 100)
    fill(policy, 1, 2, 3)
    policy.touch(object_name(1))
    policy.discard(object_name(3))
    assert drain(policy, set()) == names(2, 1)


def test_s3fifo_sends_a_ghost_to_the_main_queue(queues: Queues) -> None:
    policy = S3Fifo(queues, 1000)
    fill(policy, 1, 2)
    assert policy.evict() is not None
    fill(policy, 1)
    place = queues.find(object_name(1))
    assert place is not None
    assert place.queue == "main"


def test_s3fifo_promotes_after_two_touches_and_not_after_one(queues: Queues) -> None:
    policy = S3Fifo(queues, 1000)
    fill(policy, 1, 2, 3)
    policy.touch(object_name(1))
    policy.touch(object_name(2), 2)
    assert drain(policy, set()) == names(1, 3, 2)


def test_s3fifo_finds_what_a_held_object_with_touches_hides(queues: Queues) -> None:
    policy = S3Fifo(queues, 100)
    fill(policy, *range(4))  # 0 goes to the small queue, the others to the main one
    policy.discard(object_name(0))
    policy.touch(object_name(2), 3)
    held = set(names(1, 3))
    item = policy.evict(held)
    assert item is not None
    assert item.name == object_name(2)


def test_empty_objects_can_be_evicted(queues: Queues) -> None:
    policy = S3Fifo(queues, 100)
    fill(policy, 1, 2, size=0)
    assert drain(policy, set()) == names(1, 2)


def test_ghosts_are_bounded_by_their_bytes(queues: Queues) -> None:
    policy = S3Fifo(queues, 1000)
    fill(policy, *range(100, 120), size=90)
    drain(policy, set())
    assert 0 < queues.size("ghost") <= 900
    fill(policy, 999, size=950)
    drain(policy, set())
    assert queues.find(object_name(999)) is None


@given(case=small_traces())
@settings(max_examples=25, deadline=None)
def test_both_storages_agree(case: tuple[Trace, int]) -> None:
    trace, capacity = case
    for policy in BOTH:
        with sqlite_queues() as stored:
            one = PureCache(POLICIES[policy](MemoryQueues(), capacity))
            other = PureCache(POLICIES[policy](stored, capacity))
            for number, size in trace:
                name = object_name(number)
                assert one.get(name, size) == other.get(name, size)
