"""Whose turn each block of a copy is: ours, another session's, or nobody's.

Hub's thread. The block map in memory is what this session knows; the map on disk and the locks on
its bytes (``partial.py``) are what all know who copy the same version, in this process or another.
A block is claimed in memory, then by its lock, and its byte is read again: whoever had it before
may have filled it. So the source gives each block once, whoever reads (I9, I10).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from streamcache.cache.blockmap import BlockMap, Extent
from streamcache.cache.partial import Partial

_LOOK = 4096  # blocks of the map that are looked at together: 256 MiB of the file


class Claims:
    """The claims of one session on the blocks of one version."""

    def __init__(self, blocks: BlockMap, on_present: Callable[[Extent], None]) -> None:
        """``on_present`` hears of blocks that others have filled; it may not switch."""
        self._map = blocks
        self._on_present = on_present
        self._partial: Partial | None = None
        self._ours: dict[int, Extent] = {}  # claimed in memory, by first block
        self._locked: set[int] = set()  # of these: nobody else may write them
        self._others: dict[Extent, float] = {}  # other sessions' -> s, since when we know

    def __repr__(self) -> str:
        return f"<Claims ours={len(self._ours)} others={len(self._others)}>"

    @property
    def others(self) -> bool:
        """Whether other sessions copy some of the blocks."""
        return bool(self._others)

    def attach(self, partial: Partial, present: bytes) -> None:
        """The partial is open, and this was in its map: from now on claims hold for everybody."""
        self._partial = partial
        self._adopt(present, 0)
        for extent in self._ours.values():
            self._lock(extent)

    def detach(self) -> None:
        """The partial is about to be closed; blocks of others are free for us."""
        self._partial = None
        for extent in self._others:
            self._map.unbar(extent)
        self._others.clear()

    def claim(self, block: int, limit: int) -> Extent | None:
        """Claim free blocks from ``block`` on, at most ``limit``; None: it was not free after all.

        Then it is present now, or another session's.
        """
        extent = self._map.claim(block, limit=limit)
        if self._partial is not None:
            while not self._partial.claim(extent):
                held = self._partial.claimed_elsewhere(extent)
                if held is None:
                    continue  # it was let go just now
                self._map.release(extent)
                if held.start <= block:
                    self._bar(Extent(block, held.stop))
                    return None
                extent = self._map.claim(block, limit=held.start - block)
            news = self._partial.present(extent.start, extent.stop)
            if 1 in news:
                self._partial.give_back(extent)
                self._map.release(extent)
                stop = min(max(extent.stop, block + _LOOK), self._map.count)
                self._adopt(self._partial.present(block, stop), block)
                if not self._map.is_free(block):
                    return None
                return self.claim(block, limit)
            self._locked.add(extent.start)
        self._ours[extent.start] = extent
        return extent

    def may_write(self, extent: Extent) -> bool:
        """Nobody else writes these blocks."""
        return extent.start in self._locked

    def shorten(self, extent: Extent, part: Extent) -> None:
        """Of our blocks only the first ones are to be written: the others are missing again."""
        rest = Extent(part.stop, extent.stop)
        self._map.release(rest)
        self._ours[part.start] = part
        if part.start in self._locked and self._partial is not None:
            self._partial.give_back(rest)

    def filled(self, extent: Extent) -> None:
        """Our blocks were written: present."""
        self._map.fill(extent)
        self._end(extent)

    def missed(self, extent: Extent) -> None:
        """Our blocks were not written: missing again, or whatever others made of them."""
        self._map.release(extent)
        self._end(extent)

    def is_overdue(self, block: int, patience: float) -> bool:
        """Whether another session has had this block for ``patience`` s."""
        now = time.monotonic()
        return any(
            block in extent and now - since >= patience for extent, since in self._others.items()
        )

    def look(self) -> bool:
        """Look at the blocks of others again; whether some are free now: their session has died,
        or could not read them.
        """
        partial, freed = self._partial, False
        if partial is None:
            return False
        for extent, since in list(self._others.items()):
            del self._others[extent]
            self._map.unbar(extent)
            self._adopt(partial.present(extent.start, extent.stop), extent.start)
            start = self._map.next_free(extent.start, extent.stop)
            while start >= 0:
                rest = Extent(start, extent.stop)
                held = partial.claimed_elsewhere(rest)
                if held is None:
                    freed = True
                    break
                freed = freed or held.start > start
                self._bar(held, since)
                start = self._map.next_free(held.stop, extent.stop)
        return freed

    def _lock(self, extent: Extent) -> None:
        """What was read before the partial was open may be kept if it is nobody else's."""
        assert self._partial is not None
        if self._partial.claim(extent):
            if 1 in self._partial.present(extent.start, extent.stop):
                self._partial.give_back(extent)
            else:
                self._locked.add(extent.start)

    def _end(self, extent: Extent) -> None:
        del self._ours[extent.start]
        if extent.start in self._locked:
            self._locked.discard(extent.start)
            if self._partial is not None:
                self._partial.give_back(extent)

    def _bar(self, extent: Extent, since: float | None = None) -> None:
        """Another session's blocks; those of them that we have ourselves are left alone."""
        for run in self._map.bar(extent):
            self._others[run] = time.monotonic() if since is None else since

    def _adopt(self, present: bytes, start: int) -> None:
        for run in self._map.adopt(present, start):
            self._on_present(run)
