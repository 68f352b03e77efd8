"""A source whose reads wait until the test lets them go on, and who wants its bytes.

Nothing here has a disk or a thread: a read waits in the greenlet of its step.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from streamcache.errors import StreamCacheError
from streamcache.source import inflight as inflight_module
from streamcache.source import rate as rate_module
from streamcache.source import scheduler as scheduler_module
from streamcache.source import step as step_module
from streamcache.source.base import Fingerprint, SourceFile, Version
from streamcache.source.feed import Copied, Piece, Sink
from streamcache.source.scheduler import Scheduler
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
        self.error: Exception | None = None
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

    def __init__(self, patience: float) -> None:
        self.data: dict[int, bytes] = {}
        self.marked: list[Piece] = []
        self.told: list[tuple[Piece, Copied]] = []
        self.stalled: list[Piece] = []
        self.error: OSError | None = None
        self.go: Event | None = None
        self.sink = Sink(
            self.put, self.mark, lambda *told: self.told.append(told), self.late, patience
        )

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
        for module in (scheduler_module, inflight_module, rate_module, step_module):
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


def made(reads: Reads, **options: Any) -> Scheduler:
    reads.schedulers.append(Scheduler(reads, reads, Counters(), **options))
    return reads.schedulers[-1]


def turn() -> None:
    for _ in range(4):
        gevent.sleep(0)


def kept(feed: FakeFeed, *, patience: float = 1.0) -> Kept:
    """Where what is copied of this feed is written from now on."""
    found = Kept(patience)
    feed.sink = found.sink
    return found
