"""Traces replayed: as a cache would count, and as another simulator does."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from libcachesim import LRU, S3FIFO, Request
from libcachesim import Sieve as TheirSieve

from streamcache.config.cache import CacheConfig
from streamcache.simulation.replay import ALL, Outcome, SimulatedPolicy, replay
from streamcache.simulation.sieve import Sieve
from streamcache.simulation.trace import Reading, Trace

LINE = '{client} - - [28/Nov/2026:{at}:00 +0000] "GET {path} HTTP/1.1" 200 {size}\n'
THEIRS: dict[SimulatedPolicy, Callable[..., object]] = {
    "lru": LRU,
    "s3fifo": S3FIFO,
    "sieve": TheirSieve,
}


def line(client: str, minute: int, path: str, size: int = 10) -> str:
    return LINE.format(
        client=client, at=f"{minute // 60:02}:{minute % 60:02}", path=path, size=size
    )


def trace_of(*lines: str) -> Trace:
    reading = Reading()
    reading.feed(lines)
    return reading.end()


def made(uses: int, files: int, seed: int) -> Trace:
    """Popular and unpopular files, and a scan in the middle."""
    luck, trace = random.Random(seed), Trace()
    for _ in range(2 * files):
        trace.sizes.append(luck.randrange(10, 400))
    for at in range(uses):
        scan = uses // 3 < at < uses // 3 + files
        popular = min(int(luck.paretovariate(0.7)) - 1, files - 1)
        trace.uses.append(files + at % files if scan else popular)
    return trace


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize("part", [0.1, 0.2, 0.5])  # theirs has no file larger than a tenth of it
def test_another_simulator_has_the_same_hits(
    policy: SimulatedPolicy, part: float, seed: int
) -> None:
    trace = made(5000, 200, seed)
    size = int(part * trace.footprint)
    theirs = THEIRS[policy](cache_size=size, hashpower=12)
    hits = hit_bytes = 0
    request = Request()
    for number in trace.uses:
        request.obj_id, request.obj_size = number, trace.sizes[number]
        if theirs.get(request):
            hits += 1
            hit_bytes += trace.sizes[number]
    outcome = replay(trace, policy, size)
    assert (outcome.hits, outcome.bytes_hit) == (hits, hit_bytes)
    assert 0 < outcome.hits < outcome.uses == 5000


@pytest.mark.parametrize("policy", ALL)
def test_a_cache_for_all_files_misses_each_once(policy: SimulatedPolicy) -> None:
    trace = made(3000, 100, 7)
    outcome = replay(trace, policy, trace.footprint)
    used = set(trace.uses)
    assert outcome.uses - outcome.hits == len(used)
    assert outcome.bytes - outcome.bytes_hit == sum(trace.sizes[number] for number in used)
    assert outcome.evictions == 0


@pytest.mark.parametrize("policy", ALL)
def test_a_file_larger_than_the_cache_evicts_nothing(policy: SimulatedPolicy) -> None:
    trace = Trace()
    trace.sizes.extend([10, 1000])
    trace.uses.extend([0, 1, 0, 1, 0])
    outcome = replay(trace, policy, 100)
    assert (outcome.hits, outcome.evictions) == (2, 0)
    assert outcome.byte_hit_ratio == 20 / 2030
    assert outcome.hit_ratio == 2 / 5


def test_an_empty_trace_has_no_ratio() -> None:
    assert Outcome("lru", 1, 0, 0, 0, 0, 0).hit_ratio == 0
    assert Outcome("lru", 1, 0, 0, 0, 0, 0).byte_hit_ratio == 0


def test_uses_are_counted_as_the_cache_does() -> None:
    """One per client and file in ten minutes, from the last one that counted."""
    assert CacheConfig().touch_interval == 600.0
    trace = trace_of(
        line("a", 0, "/x"),
        line("a", 9, "/x"),
        line("b", 9, "/x"),
        line("a", 10, "/x"),
        line("a", 19, "/x"),
        line("a", 19, "/y"),
        line("a", 20, "/x"),
    )
    assert list(trace.uses) == [0, 0, 0, 1, 0]
    assert (trace.requests, trace.lines, trace.last - trace.first) == (7, 7, 20 * 60)


def test_the_size_of_a_file_is_the_most_that_was_seen_of_it() -> None:
    part = line("a", 0, "/x", 70).replace(" 200 ", " 206 ")
    rest = part.replace(" 206 70", ' 206 90 "-" "-" hit 0.1 "bytes=10-999" cut')
    end = part.replace(" 206 70", ' 206 30 "-" "-" hit 0.1 "bytes=100-999" done')
    assert (trace_of(part).sizes[0], trace_of(part).guessed) == (70, 1)
    assert (trace_of(part, rest).sizes[0], trace_of(part, rest).guessed) == (100, 1)
    assert (trace_of(part, end, rest).sizes[0], trace_of(part, end).guessed) == (130, 0)
    shorter = line("a", 0, "/x", 50)  # it was replaced
    assert trace_of(end, shorter).sizes[0] == 50


def test_lines_that_are_none_are_counted() -> None:
    trace = trace_of("nonsense\n", "\n", line("a", 0, "/x"))
    assert (trace.lines, trace.unread, trace.requests) == (2, 1, 1)


def test_a_sieve_keeps_what_was_asked_for_and_forgets_what_is_discarded() -> None:
    sieve = Sieve(100)
    for name in "abcd":
        sieve.insert(name, 10, recalled=sieve.recall(name))
    sieve.touch("a")
    sieve.touch("unknown")
    sieve.discard("b")
    sieve.discard("unknown")
    gone = sieve.evict(held={"c"})
    assert gone is not None and (gone.name, gone.size) == ("d", 10)
    assert sieve.evict(held={"a", "c"}) is None
    rest = {one.name for one in (sieve.evict(), sieve.evict()) if one is not None}
    assert (rest, sieve.evict()) == ({"a", "c"}, None)
