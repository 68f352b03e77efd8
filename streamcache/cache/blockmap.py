"""Which blocks of a file are present, claimed or missing.

A block goes missing -> claimed -> present, or back to missing when its read failed. Two byte
arrays rather than one with three values: every question is then one ``find``, at memchr speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of neighbouring blocks, [start, stop)."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"no extent: {self.start}..{self.stop}")

    @classmethod
    def of(cls, offset: int, length: int) -> Extent:
        """The blocks that these bytes are in."""
        return cls(offset // BLOCK, -(-(offset + length) // BLOCK))

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, block: int) -> bool:
        return self.start <= block < self.stop


class BlockMap:
    """The presence of the blocks of a file of ``size`` bytes."""

    __slots__ = ("_present", "_taken", "claimed", "count", "present", "size")

    def __init__(self, size: int) -> None:
        """All missing."""
        self.size = size
        self.count = -(-size // BLOCK)
        self._present = bytearray(self.count)  # one byte per block
        self._taken = bytearray(self.count)  # present or claimed
        self.present = 0
        self.claimed = 0

    def __repr__(self) -> str:
        return f"<BlockMap {self.present}/{self.count} claimed={self.claimed}>"

    @property
    def complete(self) -> bool:
        """Every block is present."""
        return self.present == self.count

    @property
    def present_bytes(self) -> int:
        """Bytes of the file in present blocks."""
        total = self.present * BLOCK
        if self.count and self._present[-1]:
            total -= self.count * BLOCK - self.size
        return total

    def length(self, extent: Extent) -> int:
        """Bytes of the file in this extent."""
        return min(extent.stop * BLOCK, self.size) - extent.start * BLOCK

    def ready(self, offset: int, stop: int) -> int:
        """How many bytes from ``offset`` on are present without a gap; at most stop - offset."""
        stop = min(stop, self.size)
        if offset >= stop:
            return 0
        gap = self._present.find(0, offset // BLOCK, -(-stop // BLOCK))
        end = stop if gap < 0 else min(gap * BLOCK, stop)
        return max(0, end - offset)

    def missing(self, offset: int, stop: int) -> int:
        """How many bytes from ``offset`` on are not present; at most stop - offset."""
        found = self._present.find(1, offset // BLOCK, -(-stop // BLOCK))
        return max(0, (stop if found < 0 else min(found * BLOCK, stop)) - offset)

    def is_free(self, block: int) -> bool:
        """This block is neither present nor claimed."""
        return not self._taken[block]

    def next_free(self, start: int, stop: int | None = None) -> int:
        """The first block in [start, stop) that is neither present nor claimed; -1: none."""
        return self._taken.find(0, start, self.count if stop is None else min(stop, self.count))

    def claim(self, start: int, *, limit: int) -> Extent:
        """Claim the free blocks from ``start`` (which is free) on, at most ``limit``."""
        end = min(start + limit, self.count)
        taken = self._taken.find(1, start, end)
        extent = Extent(start, end if taken < 0 else taken)
        self._taken[extent.start : extent.stop] = b"\1" * len(extent)
        self.claimed += len(extent)
        return extent

    def release(self, extent: Extent) -> None:
        """Claimed -> missing."""
        self._taken[extent.start : extent.stop] = bytes(len(extent))
        self.claimed -= len(extent)

    def fill(self, extent: Extent) -> None:
        """Claimed -> present."""
        self._present[extent.start : extent.stop] = b"\1" * len(extent)
        self.claimed -= len(extent)
        self.present += len(extent)

    def forget(self) -> None:
        """Present -> missing."""
        for run in self.runs():
            self._taken[run.start : run.stop] = bytes(len(run))
        self._present = bytearray(self.count)
        self.present = 0

    def adopt(self, present: bytes, start: int = 0) -> list[Extent]:
        """Missing -> present where ``present``, one byte per block from ``start`` on, has 1.

        Claimed ones stay claimed. Returns the runs that are present now and were not.
        """
        found = []
        for run in _runs(present):
            for free in self._free(Extent(start + run.start, start + run.stop)):
                self._taken[free.start : free.stop] = b"\1" * len(free)
                self._present[free.start : free.stop] = b"\1" * len(free)
                self.present += len(free)
                found.append(free)
        return found

    def bar(self, extent: Extent) -> list[Extent]:
        """Missing -> taken by somebody else; returns the runs for which that is true."""
        runs = list(self._free(extent))
        for run in runs:
            self._taken[run.start : run.stop] = b"\1" * len(run)
        return runs

    def unbar(self, extent: Extent) -> None:
        """The opposite, for a run that ``bar`` returned."""
        self._taken[extent.start : extent.stop] = bytes(len(extent))

    def runs(self) -> Iterator[Extent]:
        """The runs of present blocks, in order."""
        return _runs(self._present)

    def _free(self, extent: Extent) -> Iterator[Extent]:
        start = self._taken.find(0, extent.start, extent.stop)
        while start >= 0:
            stop = self._taken.find(1, start, extent.stop)
            stop = extent.stop if stop < 0 else stop
            yield Extent(start, stop)
            start = self._taken.find(0, stop, extent.stop)


def _runs(present: bytes | bytearray) -> Iterator[Extent]:
    start = present.find(1)
    while start >= 0:
        stop = present.find(0, start)
        if stop < 0:
            stop = len(present)
        yield Extent(start, stop)
        start = present.find(1, stop)
