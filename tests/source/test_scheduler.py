"""Who reads next: seeks, then demands, then sequential copying in turn, idle copying at last."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcache.errors import SourceUnavailable, StreamCacheError
from streamcache.source import rate as rate_module
from streamcache.source import scheduler as scheduler_module
from streamcache.source import step as step_module
from streamcache.source.base import Fingerprint, SourceFile, Version
from streamcache.source.breaker import Breaker
from streamcache.source.feed import Copied, Piece, Sink
from streamcache.source.rate import COPIED_STEP, FIRST_STEP, MAX_STEP, NEAR_STEP, START_STEP
from streamcache.source.scheduler import Scheduler
from streamcache.source.step import SLICE
from streamcache.stats import Counters

STILL = Fingerprint(1, 2, 3, 4, 5, 6)


class Reads:
    """A source without a disk: each read waits until the test lets it go on."""

    def __init__(self, size: int = 16) -> None:
        self.size = size
        self.pending = 0
        self.schedulers: list[Scheduler] = []
        self._workers = BoundedSemaphore(size)
        self.waiting: list[Read] = []
        self.shut = True
        self.looks: list[Fingerprint] = []  # what the file is next, and then STILL

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        late: Callable[[], object] | None = None,
    ) -> Any:
        self.pending += 1
        try:
            with self._workers:
                return function(*args)
        finally:
            self.pending -= 1

    def read_into(self, file: SourceFile, buffer: memoryview, offset: int) -> int:
        read = Read(file, offset, len(buffer))
        if self.shut:
            self.waiting.append(read)
            read.go.wait()
        if read.error is not None:
            raise read.error
        buffer[:] = bytes([offset >> 16 & 0xFF]) * len(buffer)
        return min(len(buffer), read.at_most)

    def fingerprint(self, file: SourceFile) -> Fingerprint:
        return self.looks.pop(0) if self.looks else STILL

    def let(self, *reads: Read) -> None:
        """These reads, or all that wait, go on."""
        for read in reads or tuple(self.waiting):
            self.waiting.remove(read)
            read.go.set()
        turn()

    def end(self) -> None:
        """No step more, and all that are under way come back."""
        for scheduler in self.schedulers:
            for queue in (
                scheduler._seeks,
                scheduler._demands,
                scheduler._reading,
                scheduler._idle,
            ):
                queue.clear()
        self.shut = False
        self.let()

    @property
    def offsets(self) -> list[int]:
        return [read.offset for read in self.waiting]

    @property
    def names(self) -> str:
        """Whose reads wait, in the order of their start."""
        return "".join(read.file.version.id for read in self.waiting)


class Read:
    def __init__(self, file: SourceFile, offset: int, length: int) -> None:
        self.file, self.offset, self.length = file, offset, length
        self.at_most = length
        self.error: StreamCacheError | None = None
        self.go = Event()


class FakeFeed:
    """Claims whatever it is asked for, ``size`` bytes sequentially, and notes what came."""

    def __init__(self, name: str, size: int = 1 << 40) -> None:
        self.file = SourceFile(-1, Version(name, size, 0), STILL)
        self.size = size
        self.seen = STILL
        self.next = 0
        self.wanted = True
        self.got: list[tuple[Piece, int]] = []
        self.failures: list[StreamCacheError] = []
        self.looked: list[Fingerprint] = []
        self.keep: Event | None = None
        self.sink: Sink | None = None

    def demanded(self, offset: int, length: int) -> Piece | None:
        return Piece(offset, length) if self.wanted else None

    def sequential(self, length: int) -> Piece | None:
        if self.next >= self.size:
            return None
        piece = Piece(self.next, min(length, self.size - self.next))
        self.next += piece.length
        return piece

    def arrived(self, piece: Piece, data: memoryview, now: Fingerprint) -> None:
        assert bytes(data) == bytes([piece.offset >> 16 & 0xFF]) * len(data)
        self.looked.append(now)
        if self.keep is not None:
            self.keep.wait()
        assert bytes(data[:1]) == bytes([piece.offset >> 16 & 0xFF]), "the buffer was taken away"
        self.got.append((piece, len(data)))

    def failed(self, piece: Piece, error: StreamCacheError) -> None:
        self.failures.append(error)

    @property
    def bytes(self) -> int:
        return sum(count for _, count in self.got)


class Kept:
    """What was written of a feed's pieces, and what became of them."""

    def __init__(self) -> None:
        self.data: dict[int, bytes] = {}
        self.marked: list[Piece] = []
        self.told: list[tuple[Piece, Copied]] = []
        self.stalled: list[Piece] = []
        self.error: OSError | None = None
        self.go: Event | None = None
        self.sink = Sink(self.put, self.mark, lambda *told: self.told.append(told), self.late)

    def put(self, offset: int, data: memoryview) -> None:
        if self.go is not None:
            self.go.wait()
        if self.error is not None:
            raise self.error
        self.data[offset] = bytes(data)

    def mark(self, offset: int, length: int) -> None:
        self.marked.append(Piece(offset, length))

    def late(self, piece: Piece) -> None:
        self.stalled.append(piece)


class PutOff:
    """What shall run later, and can be called off as a greenlet can."""

    def __init__(self, clock: Clock, at: float, function: Callable[[], None]) -> None:
        self.clock = clock
        self.at = at
        self.function = function

    def kill(self, *, block: bool) -> None:
        if self in self.clock.later:
            self.clock.later.remove(self)


class Clock:
    """Time that stands still unless the test says so, and what was put off until later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.later: list[PutOff] = []
        time = types.SimpleNamespace(monotonic=lambda: self.now)
        for module in (scheduler_module, rate_module, step_module):
            monkeypatch.setattr(module, "time", time)
        monkeypatch.setattr(gevent, "spawn_later", self._put_off)

    def _put_off(self, delay: float, function: Callable[[], None]) -> PutOff:
        self.later.append(PutOff(self, self.now + delay, function))
        return self.later[-1]

    def skip(self) -> None:
        """To when the next thing was put off to."""
        following = min(self.later, key=lambda one: one.at)
        self.later.remove(following)
        self.now = max(self.now, following.at)
        following.function()
        turn()


@pytest.fixture
def reads() -> Iterator[Reads]:
    source = Reads()
    yield source
    source.end()


def made(reads: Reads, **options: Any) -> Scheduler:
    reads.schedulers.append(Scheduler(reads, reads, Counters(), **options))
    return reads.schedulers[-1]


def turn() -> None:
    for _ in range(4):
        gevent.sleep(0)


# -- order


def test_sequential_copying_keeps_a_few_steps_in_flight(reads: Reads) -> None:
    made(reads, in_flight=3).add(FakeFeed("a"), idle=False)
    turn()
    assert reads.offsets == [0, START_STEP, 2 * START_STEP]
    reads.let(reads.waiting[1])
    assert reads.offsets == [0, 2 * START_STEP, 3 * START_STEP]
    reads.shut = False


def test_a_seek_is_read_at_once_though_steps_are_in_flight(reads: Reads) -> None:
    scheduler = made(reads, in_flight=3)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    scheduler.demand(feed, 1 << 30, seek=True)
    turn()
    assert reads.offsets[3:] == [1 << 30]
    assert reads.waiting[3].length == FIRST_STEP


def test_no_sequential_step_starts_while_a_seek_is_under_way(reads: Reads) -> None:
    """I12, over all sessions of a source."""
    scheduler = made(reads, in_flight=2)
    copied, sought = FakeFeed("a"), FakeFeed("b")
    scheduler.add(copied, idle=False)
    scheduler.demand(sought, 0, seek=True)
    turn()
    assert reads.names == "aab"
    reads.let(reads.waiting[0])
    assert reads.names == "ab"
    reads.let(reads.waiting[0])
    assert reads.names == "b"
    scheduler.add(FakeFeed("c"), idle=False)
    turn()
    assert reads.names == "b"
    reads.let()
    assert sorted(reads.names) == ["a", "c"]


def test_a_seek_that_finds_no_worker_waits_and_holds_back_the_rest() -> None:
    reads = Reads(size=3)
    scheduler = made(reads, in_flight=2)
    feed = FakeFeed("a", size=3 * START_STEP)
    scheduler.add(feed, idle=False)
    turn()
    for offset in range(3):
        scheduler.demand(feed, (100 + offset) << 20, seek=True)
        turn()
    assert reads.offsets == [0, START_STEP, 100 << 20]
    reads.let(reads.waiting[2])
    assert reads.offsets == [0, START_STEP, 101 << 20]
    reads.let(reads.waiting[0])
    assert reads.offsets == [START_STEP, 101 << 20, 102 << 20]
    reads.end()


def test_seeks_are_served_in_the_order_in_which_they_came() -> None:
    reads = Reads(size=1)
    scheduler = made(reads)
    feeds = [FakeFeed(name) for name in "abcd"]
    for feed in feeds:
        scheduler.demand(feed, 0, seek=True)
        turn()
    order = ""
    while reads.waiting:
        order += reads.names
        reads.let()
    assert order == "abcd"


def test_seeks_that_come_at_once_take_no_more_than_the_workers() -> None:
    """They are claimed when a worker is free, not to wait in its queue and look late."""
    reads = Reads(size=2)
    scheduler = made(reads)
    for name in "abcde":
        scheduler.demand(FakeFeed(name), 0, seek=True)
    assert "seeks=3+2" in repr(scheduler)
    turn()
    assert reads.names == "ab"
    reads.end()


def test_the_oldest_demand_goes_first_and_before_all_sequential_steps(reads: Reads) -> None:
    scheduler = made(reads, in_flight=1)
    scheduler.add(FakeFeed("s"), idle=False)
    turn()
    for name in "abc":
        scheduler.demand(FakeFeed(name), 0, seek=False)
    order = ""
    for _ in range(5):
        order += reads.names
        reads.let()
    assert order == "sabcs"


def test_demands_are_steps_and_count_as_such(reads: Reads) -> None:
    scheduler = made(reads, in_flight=2)
    feed = FakeFeed("a")
    for offset in range(4):
        scheduler.demand(feed, offset << 20, seek=False)
    turn()
    assert [(read.offset, read.length) for read in reads.waiting] == [
        (0, START_STEP),
        (1 << 20, START_STEP),
    ]


def test_what_is_no_longer_wanted_is_passed_over(reads: Reads) -> None:
    scheduler = made(reads, in_flight=1)
    left, stays = FakeFeed("l"), FakeFeed("s")
    left.wanted = False
    for seek in (True, False):
        scheduler.demand(left, 0, seek=seek)
        scheduler.demand(stays, 0, seek=seek)
    turn()
    assert reads.names == "ss"


def test_idle_copies_come_last(reads: Reads) -> None:
    scheduler = made(reads, in_flight=2)
    idle, read = FakeFeed("i"), FakeFeed("r", size=4 * START_STEP)
    scheduler.add(idle, idle=True)
    turn()
    assert reads.names == "ii"
    scheduler.add(read, idle=False)
    order = ""
    for _ in range(6):
        reads.let(reads.waiting[0])
        order += reads.names[-1]
    assert order == "rrrrii"


def test_a_feed_that_is_taken_out_starts_no_step_more(reads: Reads) -> None:
    scheduler = made(reads, in_flight=2)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    turn()
    scheduler.remove(feed)
    scheduler.remove(feed)
    reads.let()
    assert reads.names == ""
    assert len(feed.got) == 2, "those in flight come back"


def test_a_feed_that_changes_sides_is_in_one_queue(reads: Reads) -> None:
    scheduler = made(reads, in_flight=1)
    feed, other = FakeFeed("a"), FakeFeed("b")
    scheduler.add(feed, idle=True)
    scheduler.add(feed, idle=False)
    scheduler.add(feed, idle=True)
    scheduler.add(other, idle=False)
    turn()
    order = ""
    for _ in range(4):
        order += reads.names
        reads.let()
    assert order == "abbb"


@pytest.mark.parametrize("feeds", [2, 3, 5])
@pytest.mark.parametrize("pick", [0, -1])
def test_sessions_with_readers_get_the_same_share(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, feeds: int, pick: int
) -> None:
    Clock(monkeypatch)  # none of them becomes late, however slow this machine is
    scheduler = made(reads, in_flight=4)
    sessions = [FakeFeed(chr(ord("a") + number)) for number in range(feeds)]
    for feed in sessions:
        scheduler.add(feed, idle=False)
    turn()
    for _ in range(60 * feeds):
        read = reads.waiting[pick]
        reads.let(read)
        # As a session does when a step of it has ended.
        scheduler.add(sessions[ord(read.file.version.id) - ord("a")], idle=False)
        turn()
    shares = sorted(feed.next for feed in sessions)
    assert shares[0] >= 0.8 * shares[-1], shares


def test_who_came_first_and_alone_has_had_what_is_in_flight_when_others_come(
    reads: Reads,
) -> None:
    """Else the first of 200 files that are asked for together is there three times as early."""
    scheduler = made(reads, in_flight=2)
    first, second = FakeFeed("a"), FakeFeed("b")
    scheduler.add(first, idle=False)
    turn()
    assert reads.names == "aa"
    scheduler.pump()  # whoever changes something
    for offset in range(3):
        scheduler.demand(first, offset << 30, seek=False)
    for offset in range(3):
        scheduler.demand(second, offset << 30, seek=False)
    order = ""
    for _ in range(8):
        read = reads.waiting[0]
        order += read.file.version.id
        reads.let(read)
    assert order == "aabbbaaa"


def test_a_feed_with_nothing_to_copy_leaves_its_turn_to_others(reads: Reads) -> None:
    scheduler = made(reads, in_flight=2)
    scheduler.add(FakeFeed("a", size=0), idle=False)
    scheduler.add(FakeFeed("b"), idle=False)
    turn()
    assert reads.names == "bb"
    reads.let()
    assert reads.names == "bb"


# -- the way of one step


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


@pytest.fixture
def near(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """The scheduler of a source that is nearly as fast as memory."""
    monkeypatch.setattr(rate_module.Rate, "is_near", True)
    scheduler = made(reads, in_flight=3)
    rate = scheduler._rate
    rate.end(FIRST_STEP, saturated=True, started=rate.begin())  # so much is known of it
    return scheduler


def kept(feed: FakeFeed) -> Kept:
    """Where what is copied of this feed is written from now on."""
    found = Kept()
    feed.sink = found.sink
    return found


def test_the_worker_that_reads_from_a_near_source_writes_it(reads: Reads, near: Scheduler) -> None:
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


def test_one_worker_at_a_time_copies_a_file_and_several_copy_several(
    reads: Reads, near: Scheduler
) -> None:
    """The kernel lets one write a file at a time: two cost half as much again, for nothing."""
    feeds = [FakeFeed(name) for name in "abcd"]
    for feed in feeds:
        kept(feed)
        near.add(feed, idle=False)
    turn()
    assert reads.names == "abc", "and no more than may be in flight"
    near.add(feeds[0], idle=False)
    turn()
    assert reads.names == "abc"
    for _ in range(COPIED_STEP // SLICE):
        reads.let(reads.waiting[reads.names.index("a")])
    near.add(feeds[0], idle=False)
    turn()
    assert sorted(reads.names) == ["b", "c", "d"], "in turn"


def test_what_a_reader_waits_for_is_read_beside_the_worker_that_copies(
    reads: Reads, near: Scheduler
) -> None:
    feed = FakeFeed("a")
    kept(feed)
    near.add(feed, idle=False)
    near.demand(feed, 1 << 30, seek=True)
    near.demand(feed, 1 << 31, seek=False)
    turn()
    assert reads.offsets == [0, 1 << 30, 1 << 31]


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
    assert near._counters.source_errors == 0


def test_what_was_written_before_a_read_failed_is_kept_and_the_next_step_fails(
    reads: Reads, near: Scheduler
) -> None:
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
    assert len(written.told) == near._counters.source_errors == 1


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


@pytest.mark.parametrize("who", ["source", "sink"])
def test_a_write_that_hangs_is_not_taken_for_a_source_that_does(
    reads: Reads, near: Scheduler, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    feed = FakeFeed("a", size=100)
    written = kept(feed)
    if who == "sink":
        reads.shut = False
        written.go = Event()
    call = reads.call

    def late_call(*args: Any, timeout: float | None = None, late: Any = None) -> Any:
        if late is not None:
            gevent.spawn(late)
        return call(*args)

    monkeypatch.setattr(reads, "call", late_call)
    monkeypatch.setattr(scheduler_module, "_PATIENCE", 0.01)
    near.add(feed, idle=False)
    gevent.sleep(0.1)
    hangs = who == "sink"
    assert written.stalled == ([Piece(0, 100)] if hangs else [])
    assert len(near._breaker._asked) == (0 if hangs else 1)
    if written.go is not None:
        written.go.set()
    reads.let()
    assert written.marked == [Piece(0, 100)]


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


# -- the size of a step


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


# -- bandwidth


def test_sequential_copying_stays_within_max_bandwidth(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    reads.shut = False
    scheduler = made(reads, max_bandwidth=1 << 20)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    turn()
    began, before = clock.now, feed.next
    while clock.now < began + 20:
        clock.skip()
    rate = (feed.next - before) / (clock.now - began)
    assert 0.9 * (1 << 20) <= rate <= 1.1 * (1 << 20)


def test_what_a_reader_waits_for_is_never_held_back(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    reads.shut = False
    scheduler = made(reads, max_bandwidth=1 << 16)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    turn()
    assert clock.later
    copied = feed.next
    for number in range(50):
        scheduler.demand(feed, number << 20, seek=number % 2 == 0)
    turn()
    assert feed.bytes - copied >= 50 * FIRST_STEP


def test_time_without_copying_is_not_saved_up(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    reads.shut = False
    scheduler = made(reads, max_bandwidth=1 << 20)
    clock.now += 3600
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    turn()
    assert feed.next <= 3 * START_STEP


def test_no_timer_outlives_what_it_is_for(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """60964f2e #1281: timers that were not cleared."""
    clock = Clock(monkeypatch)
    reads.shut = False
    scheduler = made(reads, max_bandwidth=1 << 16)
    feeds = [FakeFeed("a"), FakeFeed("b")]
    for feed in feeds:
        scheduler.add(feed, idle=False)
    turn()
    assert clock.later
    scheduler.remove(feeds[0])
    assert clock.later
    scheduler.remove(feeds[1])
    assert clock.later == []


# -- a file whose reads hang


def late(clock: Clock) -> None:
    clock.now += 3
    while clock.later:
        clock.skip()


def test_a_file_takes_no_more_workers_while_two_of_its_reads_are_late(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    scheduler = made(reads)
    hung, well = FakeFeed("h"), FakeFeed("w")
    for offset in (1, 2):
        scheduler.demand(hung, offset << 20, seek=True)
    turn()
    late(clock)
    for offset in range(3, 30):
        scheduler.demand(hung, offset << 20, seek=offset % 2 == 0)
    scheduler.demand(well, 0, seek=True)
    turn()
    assert reads.names == "hhw"
    reads.let(reads.waiting[2])
    scheduler.add(well, idle=False)
    turn()
    assert reads.names == "hhwww"
    # One of them comes back: the others may try.
    reads.let(reads.waiting[0])
    assert reads.names.count("h") == 12


def test_a_file_never_takes_all_workers(reads: Reads) -> None:
    scheduler = made(reads)
    for offset in range(30):
        scheduler.demand(FakeFeed("h"), offset << 20, seek=True)
    scheduler.demand(FakeFeed("w"), 0, seek=True)
    turn()
    assert reads.names == "h" * 12 + "w"
    reads.let()
    assert reads.names == "h" * 12
    reads.let()
    reads.let()
    assert reads.names == ""


def test_another_version_of_the_file_is_another_file(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    scheduler = made(reads)
    old, new = FakeFeed("o"), FakeFeed("n")
    old.file.path = new.file.path = "film"
    for offset in (1, 2):
        scheduler.demand(old, offset << 20, seek=True)
    turn()
    late(clock)
    scheduler.demand(old, 3 << 20, seek=True)
    scheduler.demand(new, 0, seek=True)
    turn()
    assert reads.names == "oon"


def test_what_is_withdrawn_is_not_kept_for_a_file_that_hangs(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    scheduler = made(reads)
    hung = [FakeFeed("h") for _ in range(5)]
    for number, feed in enumerate(hung[:2]):
        scheduler.demand(feed, number << 20, seek=True)
    turn()
    late(clock)
    for feed in hung[2:]:
        scheduler.demand(feed, 0, seek=True)
        scheduler.demand(feed, 0, seek=True)
    assert len(scheduler._held["", "h"]) == 3
    for feed in hung:
        scheduler.withdraw(feed)
    assert not scheduler._held
    reads.let()
    assert reads.names == ""


def test_a_look_that_hangs_after_a_read_holds_its_feed_back(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes came out of the kernel's cache, the attributes must come from the server."""
    clock, go = Clock(monkeypatch), Event()

    def hang(file: SourceFile) -> Fingerprint:
        go.wait()
        return STILL

    monkeypatch.setattr(reads, "fingerprint", hang)
    reads.shut = False
    scheduler = made(reads, in_flight=2)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    for _ in range(9):
        turn()
        scheduler.add(feed, idle=False)
    clock.now += 3
    assert reads.pending <= 12
    before = feed.next
    scheduler.add(feed, idle=False)
    turn()
    assert feed.next == before
    feed.size = feed.next
    go.set()
    turn()


def test_nothing_starts_while_the_breaker_is_open(reads: Reads) -> None:
    breaker = Breaker(timeout=10, probe=lambda known: None, pool=reads)
    scheduler = made(reads, breaker=breaker)
    for path in "abc":
        breaker.failed(breaker.ask(path), SourceUnavailable(5, "no"))
    feed = FakeFeed("f")
    scheduler.add(feed, idle=False)
    scheduler.demand(feed, 1 << 30, seek=True)
    turn()
    assert reads.names == ""
    breaker.answered(breaker.ask("a"))
    turn()
    assert reads.names == "f"
    reads.let()
    assert reads.names == "fff"
    breaker.stop()


def test_failed_reads_of_several_files_open_the_breaker(reads: Reads) -> None:
    breaker = Breaker(timeout=10, probe=lambda known: None, pool=reads)
    scheduler = made(reads, in_flight=4, breaker=breaker)
    for path in "abc":
        feed = FakeFeed(path, size=START_STEP)
        feed.file.path = path
        scheduler.add(feed, idle=False)
    turn()
    for read in reads.waiting:
        read.error = SourceUnavailable(5, "no")
    reads.let()
    assert breaker.is_open
    breaker.stop()


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
