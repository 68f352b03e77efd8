"""The way of a step: its place at the source, its worker, its buffer, and who is told."""

from __future__ import annotations

from dataclasses import replace

import gevent
import pytest
from gevent.event import Event

from streamcache.errors import SourceUnavailable
from streamcache.source.base import Fingerprint, SourceFile
from streamcache.source.feed import Piece
from streamcache.source.rate import FIRST_STEP, START_STEP
from streamcache.source.scheduler import Scheduler
from streamcache.stats import Counters
from tests.source.fakes import STILL, Clock, FakeFeed, Reads, made, turn


def test_the_source_does_not_wait_for_the_cache(reads: Reads) -> None:
    scheduler = made(reads, in_flight=2)
    feed = FakeFeed("a")
    feed.keep = Event()
    scheduler.add(feed, idle=False)
    turn()
    reads.let(reads.waiting[0])
    assert len(reads.waiting) == 2, "the next step starts before the write"
    reads.let()
    reads.let()
    assert len(reads.waiting) < 2, "but not without end: buffers are bounded"
    feed.keep.set()
    turn()
    assert len(reads.waiting) == 2


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_cache_that_stores_nothing_holds_one_buffer_more_than_are_in_flight(
    reads: Reads, in_flight: int
) -> None:
    """10 GiB take no more memory than 10 MiB do."""
    reads.shut = False
    scheduler = made(reads, in_flight=in_flight)
    feed = FakeFeed("a", size=64 << 20)
    feed.keep = Event()
    scheduler.add(feed, idle=False)
    for _ in range(50):
        turn()
    assert len(feed.looked) == in_flight + 1
    feed.keep.set()
    for _ in range(1000):
        turn()
    assert feed.bytes == 64 << 20


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_step_that_leaves_the_source_counts_as_one_that_is_stored_at_once(
    reads: Reads, in_flight: int
) -> None:
    """Its successor starts at that moment, and takes a buffer more."""
    scheduler = made(reads, in_flight=in_flight)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    turn()
    for _ in range(in_flight):  # from now on it is known that looks are quick
        reads.let(reads.waiting[0])
    feed.keep = Event()
    feed.looked.clear()
    for _ in range(in_flight + 3):
        if reads.waiting:
            reads.let(reads.waiting[0])
        assert len(reads.waiting) + len(feed.looked) <= in_flight + 1
    assert len(feed.looked) == in_flight + 1
    feed.keep.set()


@pytest.mark.parametrize(("slow", "together"), [(1, True), (2, True), (3, False)])
def test_looks_are_made_together_with_the_reads_until_three_in_a_row_took_long(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, slow: int, together: bool
) -> None:
    """One may have waited for the interpreter; a server that is asked is slow each time."""
    clock = Clock(monkeypatch)
    took, calls = [0.0] * 3 + [0.005] * slow, []

    def look(file: SourceFile) -> Fingerprint:
        clock.now += took.pop(0)
        return STILL

    call = reads.call
    monkeypatch.setattr(reads, "fingerprint", look)
    monkeypatch.setattr(
        reads, "call", lambda function, *args: calls.append(0) or call(function, *args)
    )
    reads.shut = False
    scheduler = made(reads, in_flight=1)
    steps = len(took)
    scheduler.add(FakeFeed("a", size=steps * START_STEP), idle=False)
    for _ in range(3 * steps):
        turn()
    assert len(calls) == steps + 1, "the first look is one by itself"
    took.append(0.0)
    calls.clear()
    scheduler.add(FakeFeed("b", size=START_STEP), idle=False)
    for _ in range(3):
        turn()
    assert (len(calls) == 1) == together


def test_a_step_that_fails_is_told_and_others_go_on(reads: Reads) -> None:
    scheduler = made(reads, in_flight=1)
    bad, good = FakeFeed("b"), FakeFeed("g")
    scheduler.demand(bad, 0, seek=True)
    scheduler.demand(bad, 1 << 20, seek=False)
    scheduler.demand(good, 0, seek=False)
    turn()
    error = SourceUnavailable(5, "Input/output error")
    for read in reads.waiting:
        read.error = error
    reads.let()
    assert bad.failures == [error, error]
    assert reads.names == "g"
    reads.let()
    assert len(good.got) == 1
    assert repr(scheduler) == (
        f"<Scheduler seeks=0+0 demands=0 running=0 sessions=0+0 step={START_STEP}>"
    )


def test_a_step_that_breaks_names_its_file_and_gives_its_piece_back(
    reads: Reads, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = made(reads, in_flight=1)
    bad, good = FakeFeed("b"), FakeFeed("g")
    bad.file.path = "a/film.mp4"
    scheduler.demand(bad, 1 << 20, seek=False)
    scheduler.demand(good, 0, seek=False)
    turn()
    reads.waiting[0].error = RuntimeError("a fault of ours")
    reads.let()
    assert [str(error) for error in bad.failures] == ["a fault of ours"]
    assert caplog.messages == ["step broke path='/a/film.mp4' offset=1048576"]
    assert reads.names == "g"
    reads.let()
    assert repr(scheduler._steps) == "<InFlight seeking=0 running=0/1 storing=0 busy=0>"


def test_a_short_read_is_handed_on_as_it_is(reads: Reads) -> None:
    scheduler = made(reads)
    feed = FakeFeed("a")
    scheduler.demand(feed, 0, seek=False)
    turn()
    reads.waiting[0].at_most = 5
    reads.let()
    assert feed.got == [(Piece(0, START_STEP), 5)]


def test_what_was_read_is_counted(reads: Reads) -> None:
    counters = Counters()
    scheduler = Scheduler(reads, reads, counters)
    feed = FakeFeed("a")
    scheduler.demand(feed, 0, seek=True)
    scheduler.demand(feed, 1 << 20, seek=True)
    turn()
    reads.waiting[1].error = SourceUnavailable(5, "no")
    reads.let()
    assert (counters.source_reads, counters.bytes_from_source) == (1, FIRST_STEP)
    assert counters.source_errors == 1


def test_a_buffer_is_not_used_by_two_steps_at_once(reads: Reads) -> None:
    reads.shut = False
    scheduler = made(reads, in_flight=4)
    feed = FakeFeed("a", size=64 << 20)
    scheduler.add(feed, idle=False)
    while feed.next < feed.size:
        gevent.sleep(0)
    turn()
    assert feed.bytes == 64 << 20  # FakeFeed.arrived looks at the bytes


@pytest.mark.parametrize("seek", [True, False])
def test_a_step_that_is_late_before_it_runs_gives_its_place_up_and_is_read(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, seek: bool
) -> None:
    """It counts from when it begins: a hub that was held meanwhile has not run it yet."""
    clock = Clock(monkeypatch)
    scheduler = made(reads, in_flight=1)
    slow, other = FakeFeed("s"), FakeFeed("o", size=START_STEP)
    scheduler.demand(slow, 0, seek=seek)
    scheduler.add(other, idle=False)
    steps = scheduler._steps
    assert (steps.seeking, steps.running, len(steps.busy)) == (seek, not seek, 1)
    clock.now += 3
    clock.skip()
    assert reads.names == "so"
    assert (steps.seeking, steps.running, len(steps.busy)) == (0, 1, 2)
    reads.let()
    assert len(slow.got) == len(other.got) == 1
    assert (steps.seeking, steps.running, steps.storing, steps.busy) == (0, 0, 0, set())


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        # The times of an append are there before its size.
        ([replace(STILL, mtime_ns=9, ctime_ns=9), replace(STILL, size=8, ctime_ns=9)], 1),
        ([replace(STILL, mtime_ns=9), replace(STILL, mtime_ns=9)], 1),  # rewritten: still so
        ([replace(STILL, mtime_ns=9, inode=9)], 0),
        ([replace(STILL, mtime_ns=9, size=0)], 0),
        ([replace(STILL, mtime_ns=9, links=9)], 0),
        ([STILL], 0),
    ],
)
def test_a_file_whose_times_alone_moved_is_looked_at_again(
    looks: list[Fingerprint], told: int, reads: Reads
) -> None:
    reads.looks, reads.shut = list(looks), False
    feed = FakeFeed("a", size=START_STEP)
    made(reads).demand(feed, 0, seek=True)
    gevent.sleep(0.1)
    assert feed.looked == [looks[told]]
    assert not reads.looks
