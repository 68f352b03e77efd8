"""What a session knows of blocks that other sessions copy: which are present, free again, or late.

Hub's thread; one greenlet while there are such blocks. The map on disk tells of them, so it is
looked at again and again: often while a reader waits for one, else now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event

from streamcache.cache.blockmap import BlockMap, Extent
from streamcache.cache.claims import Claims
from streamcache.cache.reading import Waiting
from streamcache.source.feed import Piece

_WANTED: Final = 0.005  # s between looks while a reader waits for such a block
_UNWANTED: Final = 0.1  # s, while none does


class Borrowed(Piece):
    """A block of who hangs, another session or we: read for who waits for it, and not kept."""


class Following:
    """Follows the other sessions on behalf of one."""

    def __init__(
        self,
        claims: Claims,
        waiting: Waiting,
        blocks: BlockMap,
        *,
        patience: float,
        demand: Callable[[int], None],
        freed: Callable[[], None],
        stalled: Callable[[int], bool],
    ) -> None:
        """``demand(block)`` asks for a block that is free, or late: another session has had it for
        ``patience`` s, or it is ours and ``stalled(block)``. ``freed()`` hears that blocks of
        others are free.
        """
        self._claims = claims
        self._waiting = waiting
        self._map = blocks
        self._patience = patience
        self._demand = demand
        self._freed = freed
        self._stalled = stalled
        self._borrowed: set[int] = set()  # late blocks that we are reading, not to be kept
        self._wake = Event()
        self._running = False
        self._ended = False

    def __repr__(self) -> str:
        return f"<Following {'on' if self._running else 'off'} borrowed={len(self._borrowed)}>"

    def begin(self) -> None:
        """There are blocks of others. Idempotent; does not switch."""
        if self._claims.others and not self._running:
            self._running = True
            gevent.spawn(self._follow)

    def hurry(self) -> None:
        """A reader waits for a block that may be another session's."""
        self._wake.set()

    def end(self) -> None:
        """Follow no more."""
        self._ended = True
        self._wake.set()

    def demand_for(self, extent: Extent) -> None:
        """Ask again for what readers wait for in these blocks."""
        for block in self._waiting.blocks_in(extent):
            if self._map.is_free(block) or self.is_late(block):
                self._demand(block)

    def is_late(self, block: int) -> bool:
        """Whether it should be read past who has it, and is not being read so."""
        return block not in self._borrowed and (
            self._stalled(block) or self._claims.is_overdue(block, self._patience)
        )

    def borrow(self, block: int) -> None:
        """We read it, for who waits; it is not kept."""
        self._borrowed.add(block)

    def return_borrowed(self, block: int) -> None:
        """It was read, or could not be."""
        self._borrowed.discard(block)

    def _follow(self) -> None:
        """Greenlet."""
        try:
            while self._claims.others and not self._ended:
                self._wake.wait(_UNWANTED)
                self._wake.clear()
                if self._claims.look():
                    self._freed()
                if self._waiting:
                    self.demand_for(Extent(0, self._map.count))
                    gevent.sleep(_WANTED)
                    self._wake.set()
        finally:
            self._running = False
