"""What the worker that reads from a near source writes itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import Event

from streamcache.errors import SourceUnavailable
from streamcache.source import rate as rate_module
from streamcache.source.feed import Piece
from streamcache.source.rate import COPIED_STEP
from streamcache.source.scheduler import Scheduler
from streamcache.source.step import SLICE
from tests.source.fakes import STILL, Clock, FakeFeed, Reads, kept, made, turn


def test_the_worker_that_reads_from_a_near_source_writes_it(
    reads: Reads, near: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)  # it is not slow, however slow this machine is
    reads.shut = False
    feed = FakeFeed("a", size=COPIED_STEP + 100)
    written = kept(feed)
    near.add(feed, idle=False)
    turn()
    near.add(feed, idle=False)  # as a session does when a step of it has ended
    turn()
    assert feed.got == []
    pieces = [Piece(0, COPIED_STEP), Piece(COPIED_STEP, 100)]
    assert [piece for piece, _ in written.told] == written.marked == pieces
    assert all(copied.marked and copied.now == STILL for _, copied in written.told)
    assert sum(map(len, written.data.values())) == COPIED_STEP + 100
    assert max(map(len, written.data.values())) == SLICE, "memory is that of a slice"
    assert all(data[:1] == bytes([at >> 16 & 0xFF]) for at, data in written.data.items())


@pytest.mark.parametrize("why", ["far", "no sink", "limited"])
def test_else_what_was_read_is_handed_over(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(rate_module.Rate, "is_near", why != "far")
    reads.shut = False
    scheduler = made(reads, max_bandwidth=1 << 40 if why == "limited" else 0)
    feed = FakeFeed("a", size=100)
    written = kept(feed)
    if why == "no sink":
        feed.sink = None
    scheduler.add(feed, idle=False)
    turn()
    assert (feed.bytes, written.told) == (100, [])


def test_what_was_written_of_a_file_that_changed_is_not_marked(
    reads: Reads, near: Scheduler
) -> None:
    reads.shut = False
    feed = FakeFeed("a", size=100)
    written = kept(feed)
    other = replace(STILL, size=9)
    reads.looks = [other]
    near.add(feed, idle=False)
    turn()
    assert written.marked == []
    (_, copied) = written.told[0]
    assert (copied.now, copied.read, copied.marked) == (other, 100, False)


def test_a_file_that_ends_early_is_not_marked(reads: Reads, near: Scheduler) -> None:
    feed = FakeFeed("a", size=100)
    written = kept(feed)
    near.add(feed, idle=False)
    turn()
    reads.waiting[0].at_most = 60
    reads.let()
    assert (written.marked, written.data) == ([], {})
    assert written.told[0][1].read == 60


def test_a_write_that_fails_is_told_and_says_nothing_of_the_source(
    reads: Reads, near: Scheduler
) -> None:
    reads.shut = False
    feed = FakeFeed("a", size=100)
    written = kept(feed)
    written.error = OSError(28, "full")
    near.add(feed, idle=False)
    turn()
    assert feed.failures == []
    assert written.told[0][1].error is written.error
    assert near._steps._counters.source_errors == 0


def test_what_was_written_before_a_read_failed_is_kept_and_the_next_step_fails(
    reads: Reads, near: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    feed = FakeFeed("a", size=2 * SLICE)
    written = kept(feed)
    near.add(feed, idle=False)
    turn()
    reads.let()
    reads.waiting[0].error = SourceUnavailable("no")
    reads.let()
    assert (written.marked, feed.failures) == ([Piece(0, SLICE)], [])
    feed.next = SLICE
    near.add(feed, idle=False)
    turn()
    reads.waiting[0].error = SourceUnavailable("no")
    reads.let()
    assert [str(error) for error in feed.failures] == ["no"]
    assert len(written.told) == near._steps._counters.source_errors == 1


@pytest.mark.parametrize("who", ["source", "sink"])
def test_a_copy_that_turns_out_slow_ends_after_the_slice(
    reads: Reads, near: Scheduler, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """A source that was near as long as the kernel had its files, say."""
    clock = Clock(monkeypatch)
    feed = FakeFeed("a")
    written = kept(feed)

    def slow(function: Callable[..., Any], *args: Any) -> Any:
        clock.now += 0.01
        return function(*args)

    if who == "source":
        monkeypatch.setattr(reads, "read_into", partial(slow, reads.read_into))
    else:
        feed.sink = replace(written.sink, put=partial(slow, written.put))
    reads.shut = False
    near.add(feed, idle=False)
    turn()
    assert written.marked == [Piece(0, 3 * SLICE)]
    (piece, copied) = written.told[0]
    assert (piece.length, copied.length, copied.read) == (COPIED_STEP, 3 * SLICE, 3 * SLICE)


def test_a_file_that_is_being_appended_to_is_looked_at_again_after_a_copy(
    reads: Reads, near: Scheduler
) -> None:
    """Its times move before its size does."""
    reads.shut = False
    feed = FakeFeed("a", size=100)
    written = kept(feed)
    touched = replace(STILL, mtime_ns=STILL.mtime_ns + 1, ctime_ns=STILL.ctime_ns + 1)
    grown = replace(touched, size=STILL.size + 1)
    reads.looks = [touched, grown]
    near.add(feed, idle=False)
    turn()
    assert written.told[0][1].now == grown


@pytest.mark.parametrize("who", ["source", "sink"])
def test_a_write_that_hangs_is_not_taken_for_a_source_that_does(
    reads: Reads, near: Scheduler, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    feed = FakeFeed("a", size=100)
    written = kept(feed, patience=0.01)
    if who == "sink":
        reads.shut = False
        written.go = Event()
    call = reads.call

    def late_call(*args: Any, timeout: float | None = None, late: Any = None) -> Any:
        if late is not None:
            gevent.spawn(late)
        return call(*args)

    monkeypatch.setattr(reads, "call", late_call)
    near.add(feed, idle=False)
    gevent.sleep(0.1)
    hangs = who == "sink"
    assert written.stalled == ([Piece(0, 100)] if hangs else [])
    assert len(near._breaker._asked) == (0 if hangs else 1)
    if written.go is not None:
        written.go.set()
    reads.let()
    assert written.marked == [Piece(0, 100)]
