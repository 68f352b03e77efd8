"""A copy's bytes on their way to the cache's disk, which may take long, or for ever.

Hub's thread; the bytes are written in the disk pool, or by the worker that read them (``Sink``),
and the buffer that they are in belongs to that call until it returns (I4). A reader waits for it
for a second: then it gets the bytes from that buffer, or once more from the source where only that
worker has it, so a disk that hangs holds up nobody (I15, I17). Meanwhile the copy writes no more:
what it reads for its readers goes past the cache, and memory stays bounded (I16).

What was written is made durable on the way, beside further writes: one sync at a time, in a
greenlet of its own. As soon as as much again was written, or is on its way, nothing more is read
ahead of readers before it is over, so a slow disk holds up this copy and no other; what a reader
waited for waits for it for a second, then it goes past the cache.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Final, Literal

import gevent
from gevent.event import Event as Flag

from streamcache.cache.allotment import Allotment
from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.health import PATIENCE, Health
from streamcache.cache.reading import DELIVERED_BYTES, Waiting
from streamcache.errors import CacheError, Closed, StreamCacheError
from streamcache.source.feed import Copied

SYNC_BYTES: Final = 64 * 1024 * 1024  # written since the last sync: no 50 GB flush at the end
_QUICK: Final = 0.01 / 2**20  # s per byte, 100 MB/s: hardly more than what memory takes

log = logging.getLogger(__name__)


class Writes:
    """The writes under way of one copy, and the sync of those before."""

    patience: Final = PATIENCE  # s that a reader waits for the write of what it wants

    def __init__(
        self,
        room: Allotment,
        waiting: Waiting,
        health: Health,
        path: str,
        *,
        on_loss: Callable[[], object],
        on_synced: Callable[[], object],
    ) -> None:
        """``on_loss`` hears that what was written may be lost, as a sync failed or the file was
        cut, ``on_synced`` that a sync is over, however it ended. Neither may switch.
        """
        self.synced = Flag()  # no sync is under way
        self.synced.set()
        self._room = room
        self._waiting = waiting
        self._health = health
        self._path = path
        self._on_loss = on_loss
        self._on_synced = on_synced
        self._late: dict[Extent, memoryview] = {}
        self._unsynced = 0  # bytes written since the last sync began
        self._stalled: set[Extent] = set()  # late in the hands of the worker that read it
        self._pace = math.inf  # s per byte of the last write
        self._held_up = False  # the sync under way takes longer than a reader waits
        self._failed = False  # a write or a sync of ours did: there will be no other

    def __repr__(self) -> str:
        return f"<Writes late={len(self._late)} unsynced={self._unsynced}>"

    @property
    def welcome(self) -> bool:
        """Whether the disk takes more: it works, none of ours failed, and none is late."""
        late = self._late or self._stalled or self._held_up
        return not (late or self._failed or self._health.degraded)

    @property
    def quick(self) -> bool:
        """Whether who reads may write as well: the disk, and not the source, would hold it up."""
        return self._pace <= _QUICK

    def affords(self, claimed: int) -> bool:
        """Whether more may be read that nobody waits for, with so many bytes on their way."""
        return self.synced.is_set() or self._unsynced + claimed < SYNC_BYTES

    def await_sync(self) -> float:
        """Wait for a sync beside which as much again was written, as long as a reader waits.

        Returns the s of that which are left for the write. Look again before that, as much may have
        changed; if the sync is not over, nothing is ``welcome`` until it is. Switches.
        """
        due = time.monotonic() + self.patience
        if self._unsynced >= SYNC_BYTES and self.welcome:
            self.synced.wait(self.patience)
            if not (self.synced.is_set() or self._held_up):
                form = "cache disk is slow to sync path=%r unsynced=%d"
                log.info(form, f"/{self._path}", self._unsynced)
                self._held_up = True
        return max(0.0, due - time.monotonic())

    def write(self, extent: Extent, data: memoryview, *, patience: float) -> bool:
        """Data, then map; False: it is not kept. Switches, for as long as it takes.

        Readers wait for it for ``patience`` s.
        """

        def late() -> None:
            log.info("cache disk is slow to write path=%r bytes=%d", f"/{self._path}", len(data))
            self._late[extent] = data
            self._waiting.deliver(extent, data)

        begun = time.monotonic()
        try:
            self._room.write(extent, data, patience=patience, late=late)
        except Closed:  # the cache: that says nothing of its disk
            return False
        except (OSError, CacheError) as error:
            return self._fail(error)
        finally:
            self._late.pop(extent, None)
        return self._wrote(len(data), time.monotonic() - begun)

    def stall(self, extent: Extent) -> None:
        """It is not written by its time: until it is ``settled``, nothing is ``welcome``."""
        form = "cache disk holds up a copied step path=%r bytes=%d"
        log.info(form, f"/{self._path}", len(extent) * BLOCK)
        self._stalled.add(extent)

    def settled(self, extent: Extent) -> None:
        """Its worker has come back. Idempotent."""
        self._stalled.discard(extent)

    def is_stalled(self, block: int) -> bool:
        """Whether this block is among what is not written by its time."""
        return any(block in extent for extent in self._stalled)

    def written(self, copied: Copied) -> bool:
        """The worker that read it has written it, or the first of it; False: it is not kept.

        Does not switch.
        """
        if copied.error is not None:
            return self._fail(copied.error)
        return self._wrote(copied.read, copied.writing)

    def mark(self, extent: Extent, *, late: Callable[[], object]) -> bool:
        """What was written is of our version after all; False: it is not kept. Switches.

        ``late()`` when that takes longer than a reader waits.
        """
        try:
            self._room.mark(extent, patience=self.patience, late=late)
        except Closed:
            return False
        except OSError as error:
            return self._fail(error)
        return not self._room.lost

    def _fail(self, error: Exception) -> Literal[False]:
        said = str(error) or type(error).__name__
        log.warning("cache write failed path=%r error=%s", f"/{self._path}", said)
        self._failed = True
        if isinstance(error, OSError):  # else it says nothing of the disk
            self._health.failed(error)
        if isinstance(error, CacheError):  # but of what is in the file
            self._on_loss()
        return False

    def _wrote(self, count: int, took: float) -> bool:
        """Bytes are in the file; False: they may be lost."""
        self._pace = took / max(count, 1)
        if self._room.lost:  # by now: what was lost may be of this, and a sync would not hear of it
            return False
        self._unsynced += count
        if self._unsynced >= SYNC_BYTES and self.synced.is_set():
            self.synced.clear()
            self._unsynced = 0
            gevent.spawn(self._sync)
        return True

    def _sync(self) -> None:
        """Greenlet: the copy goes on meanwhile, but is not published before it is over."""
        try:
            self._room.sync()
        except StreamCacheError as error:  # no thread for it: the sync at the end is for all
            log.debug("not synced on the way path=%r error=%s", f"/{self._path}", error)
        except OSError as error:
            log.warning("cache sync failed path=%r error=%s", f"/{self._path}", error)
            self._failed = True
            self._health.failed(error)
            self._on_loss()
        finally:
            self._held_up = False
            self.synced.set()
            self._on_synced()

    def find(self, offset: int, stop: int) -> memoryview | None:
        """A copy of bytes from ``offset`` on that are late; None: they are not among those."""
        for extent, data in self._late.items():
            start = offset - extent.start * BLOCK
            if 0 <= start < len(data):
                end = min(start + DELIVERED_BYTES, stop - extent.start * BLOCK)
                return memoryview(bytes(data[start:end]))
        return None
