"""The readers of a session, and the reads that wait for bytes not yet there.

Hub's thread only. Every pending read is settled exactly once (I11): taken out of ``Waiting`` when
it is settled, so nothing can settle it again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gevent.event import AsyncResult

from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.stats import Histogram

DELIVERED_BYTES = 1024 * 1024  # at most in one answer that goes through memory


class Seen:
    """Which windows of an open file were just found in the page cache; kept by who looks for them.

    It belongs to the open file: a descriptor's number may soon be that of another file.
    """

    __slots__ = ("until", "windows")

    def __init__(self) -> None:
        self.until = 0.0  # s of ``time.monotonic``: what was found counts for so long
        self.windows: dict[int, int] = {}  # by number: from which offset on, in bytes

    def __repr__(self) -> str:
        return f"<Seen windows={len(self.windows)}>"


@dataclass(frozen=True, slots=True)
class Ready:
    """Bytes that can be sent now: ``length`` bytes of ``fd`` at ``offset``, or ``data``.

    ``fd`` is open until the delegate is closed; -1: the bytes are in ``data``. The first
    ``fetched`` of them had to come from the source, the others were there when they were due.
    ``seen`` is that of all who read this file.
    """

    fd: int
    offset: int
    length: int
    data: memoryview | None = None
    fetched: int = 0
    seen: Seen | None = None


class Reader:
    """Where one client reads."""

    __slots__ = ("client", "expected", "position", "stop", "waits")

    def __init__(self, client: str = "") -> None:
        self.client = client  # its address, as far as it is known
        self.waits = False  # for bytes that are not there yet
        self.position = 0  # bytes: what it asked for last
        self.stop = 0  # bytes: up to where
        self.expected = -1  # bytes: where it goes on unless it seeks

    def __repr__(self) -> str:
        return f"<Reader at {self.position}>"

    @contextmanager
    def waiting(self, times: Histogram) -> Iterator[None]:
        """Around a wait for bytes, which is counted in ``times``."""
        begun, self.waits = time.monotonic(), True
        try:
            yield
        finally:
            self.waits = False
            times.observe(time.monotonic() - begun)


class PendingRead:
    """A reader that waits for the block at ``offset``.

    The result is None when the block is present now, else the bytes themselves.
    """

    __slots__ = ("offset", "result", "stop")

    def __init__(self, offset: int, stop: int) -> None:
        self.offset = offset
        self.stop = stop
        self.result: AsyncResult[memoryview | None] = AsyncResult()


class Waiting:
    """The pending reads of a session, by block."""

    def __init__(self) -> None:
        self._reads: dict[int, list[PendingRead]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._reads.values()))

    def add(self, read: PendingRead) -> None:
        """Wait for the block at its offset."""
        self._reads.setdefault(read.offset // BLOCK, []).append(read)

    def leave(self, read: PendingRead) -> None:
        """The reader gave up. Idempotent; settled reads have left already."""
        block = read.offset // BLOCK
        reads = self._reads.get(block)
        if reads and read in reads:
            reads.remove(read)
            if not reads:
                del self._reads[block]

    def stop_of(self, block: int) -> int:
        """How far those who wait for this block will read, in bytes; 0: nobody does."""
        return max((read.stop for read in self._reads.get(block, ())), default=0)

    def present(self, extent: Extent) -> None:
        """These blocks are present: wake who waits for them."""
        for read in self._take(self.blocks_in(extent)):
            read.result.set(None)

    def deliver(self, extent: Extent, data: memoryview) -> None:
        """These bytes were read and are not kept: give them to who waits for them."""
        reads, base = self._take(self.blocks_in(extent)), extent.start * BLOCK
        if not reads:
            return
        # One copy for all: the buffer is used again as soon as this returns.
        last = max(min(read.stop, read.offset + DELIVERED_BYTES) for read in reads)
        first = min(read.offset for read in reads)
        copy = memoryview(bytes(data[first - base : last - base]))
        for read in reads:
            stop = min(read.stop, read.offset + DELIVERED_BYTES)
            read.result.set(copy[read.offset - first : stop - first])

    def fail(self, error: BaseException) -> None:
        """The bytes will not come: raise in all who wait."""
        for read in self._take(list(self._reads)):
            read.result.set_exception(error)

    def blocks_in(self, extent: Extent) -> list[int]:
        """The blocks of this extent that somebody waits for."""
        if len(self._reads) < len(extent):
            return [block for block in self._reads if block in extent]
        return [block for block in range(extent.start, extent.stop) if block in self._reads]

    def _take(self, blocks: list[int]) -> list[PendingRead]:
        return [read for block in blocks for read in self._reads.pop(block)]
