"""How fast a source is, and how long the steps are that follow from it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcache.source.rate import COPIED_STEP, FIRST_STEP, MAX_STEP, NEAR_STEP, START_STEP
from streamcache.source.scheduler import Scheduler
from streamcache.source.step import SLICE
from tests.source.fakes import Clock, FakeFeed, Read, Reads, made, turn


def stepped(
    reads: Reads, clock: Clock, rate: float, *, latency: float = 0.0, steps: int = 60
) -> Scheduler:
    """A scheduler that copied from a source of this rate and latency (bytes/s, s)."""
    scheduler = made(reads, in_flight=4)
    scheduler.add(FakeFeed("a"), idle=False)
    turn()
    started: dict[Read, float] = {}
    for _ in range(steps):
        for read in reads.waiting:
            started.setdefault(read, clock.now)
        read = reads.waiting[0]
        clock.now = max(clock.now, started[read] + latency) + read.length / rate
        reads.let(read)
    return scheduler


@pytest.mark.parametrize(
    ("rate", "least", "most"),
    [
        (1e6, FIRST_STEP, 2 * FIRST_STEP),
        (20e6, 1 << 18, 1 << 19),
        (100e6, 1 << 20, 1 << 21),
        (5e9, NEAR_STEP, NEAR_STEP),
    ],
)
def test_a_step_is_what_the_source_delivers_in_step_time(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, rate: float, least: int, most: int
) -> None:
    scheduler = stepped(reads, Clock(monkeypatch), rate)
    assert least <= scheduler._rate.step <= most


@pytest.mark.parametrize(("rate", "near"), [(20e6, False), (100e6, False), (2e9, True)])
def test_a_source_that_delivers_nearly_as_fast_as_memory_is_near(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, rate: float, near: bool
) -> None:
    assert stepped(reads, Clock(monkeypatch), rate)._rate.is_near == near


def test_steps_of_a_far_source_cover_its_latency(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = stepped(reads, Clock(monkeypatch), 20e6, latency=0.4)
    assert far._rate.step >= 1 << 20


def test_a_source_that_was_not_kept_busy_is_not_taken_for_slow(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    scheduler = stepped(reads, clock, 100e6)
    before = scheduler._rate.step
    scheduler.remove(next(iter(scheduler._reading)))
    reads.let()
    for number in range(50):
        scheduler.demand(FakeFeed("b"), number << 20, seek=True)
        turn()
        clock.now += 0.05
        reads.let()
    assert scheduler._rate.step == before


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(1e-6, 2.0), st.booleans()), max_size=60))
def test_a_step_is_always_a_whole_number_of_blocks_within_bounds(
    waits: list[tuple[float, bool]],
) -> None:
    reads, patch = Reads(), pytest.MonkeyPatch()
    with patch.context() as monkeypatch:
        clock = Clock(monkeypatch)
        scheduler = made(reads, in_flight=2)
        feed = FakeFeed("a")
        scheduler.add(feed, idle=False)
        turn()
        for wait, last in waits:
            clock.now += wait
            reads.let(reads.waiting[-1 if last else 0])
            scheduler.add(feed, idle=False)  # as a session does when a step of it has ended
            turn()
            step = scheduler._rate.step
            assert FIRST_STEP <= step <= MAX_STEP
            assert step % FIRST_STEP == 0
        reads.end()


def test_one_slow_copy_is_enough_to_know_that_a_source_is_not_near(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = stepped(reads, Clock(monkeypatch), 5e9)._rate
    assert rate.is_near
    rate.copied_in(COPIED_STEP, COPIED_STEP / 2e9)
    assert rate.is_near
    rate.copied_in(SLICE, 0.02)
    assert not rate.is_near
    assert FIRST_STEP <= rate.step <= START_STEP
