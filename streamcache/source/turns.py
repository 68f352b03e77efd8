"""Whose turn it is: files that compete for a source get equal shares of it, in bytes.

Hub's thread; pure bookkeeping. Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): who
comes later shares what is given from then on, and catches up on nothing. So 200 files that are
asked for together end together, and one that is read alone is not punished for it later.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")
_PRUNED = 1000  # files that are remembered although they do not wait


class Turns(Generic[T]):
    """What waits for its turn, by file."""

    def __init__(self) -> None:
        self._queue: list[tuple[int, int, T]] = []  # where the share of its file begins, serial
        self._serial = itertools.count()
        self._shares: dict[Hashable, int] = {}  # bytes given to a file, on the scale of ``now``
        self.now = 0  # bytes: the share of the file whose turn came last

    def __len__(self) -> int:
        return len(self._queue)

    def __repr__(self) -> str:
        return f"<Turns waiting={len(self._queue)} files={len(self._shares)} now={self.now}>"

    @property
    def first(self) -> int:
        """The share, in bytes, of the file whose turn is next."""
        return self._queue[0][0]

    def add(self, file: Hashable, item: T) -> None:
        """``item`` waits for a turn of this file."""
        heappush(self._queue, (self._share(file), next(self._serial), item))

    def pop(self) -> T:
        """The next one: of the file with the smallest share, what waits longest."""
        share, _, item = heappop(self._queue)
        self.now = max(self.now, share)
        if len(self._shares) > _PRUNED + 2 * len(self._queue):  # those behind mean nothing more
            self._shares = {file: at for file, at in self._shares.items() if at > self.now}
        return item

    def give(self, file: Hashable, length: int) -> None:
        """The file is given that many bytes."""
        self._shares[file] = self._share(file) + length

    def clear(self) -> None:
        """Nobody waits any more, and what was given is forgotten."""
        self._queue.clear()
        self._shares.clear()
        self.now = 0

    def _share(self, file: Hashable) -> int:
        return max(self._shares.get(file, 0), self.now)
