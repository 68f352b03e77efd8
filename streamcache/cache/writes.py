"""A copy's bytes on their way to the cache's disk, which may take long, or for ever.

Hub's thread; the bytes are written in the disk pool, and the buffer that they are in belongs to
that call until it returns (I4). A reader waits for it for a second: then it gets the bytes from
that buffer, so a disk that hangs holds up nobody (I15, I17). Meanwhile the copy writes no more:
what it reads for its readers goes past the cache, and memory stays bounded (I16).

What was written is made durable on the way, beside further writes: one sync at a time, in a
greenlet of its own. A disk that is slower than the source holds the copy up as soon as as much
again was written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event as Flag

from streamcache.cache.allotment import Allotment
from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.health import Health
from streamcache.cache.reading import DELIVERED_BYTES, Waiting
from streamcache.errors import StreamCacheError

SYNC_BYTES: Final = 64 * 1024 * 1024  # written since the last sync: no 50 GB flush at the end
_PATIENCE: Final = 1.0  # s that a reader waits for the write of what it wants

log = logging.getLogger(__name__)


class Writes:
    """The writes under way of one copy, and the sync of those before."""

    def __init__(
        self,
        room: Allotment,
        waiting: Waiting,
        health: Health,
        path: str,
        *,
        on_loss: Callable[[], object],
    ) -> None:
        """``on_loss`` hears that a sync failed: what was written may be lost. It may not switch."""
        self.synced = Flag()  # no sync is under way
        self.synced.set()
        self._room = room
        self._waiting = waiting
        self._health = health
        self._path = path
        self._on_loss = on_loss
        self._late: dict[Extent, memoryview] = {}
        self._unsynced = 0  # bytes written since the last sync began
        self._lost = False

    def __repr__(self) -> str:
        return f"<Writes late={len(self._late)} unsynced={self._unsynced}>"

    @property
    def welcome(self) -> bool:
        """Whether the disk takes more: it works, and none of ours is late."""
        return not (self._late or self._health.degraded)

    def write(self, extent: Extent, data: memoryview) -> bool:
        """Data, then map; False: the disk would not. Switches, for as long as it takes."""

        def late() -> None:
            log.info("cache disk is slow path=%r bytes=%d", f"/{self._path}", len(data))
            self._late[extent] = data
            self._waiting.deliver(extent, data)

        due = time.monotonic() + _PATIENCE
        try:
            if self._unsynced >= SYNC_BYTES and not self.synced.wait(_PATIENCE):
                late()
                self.synced.wait()
            if self._lost:
                return False
            patience = None if extent in self._late else max(0.0, due - time.monotonic())
            self._room.write(extent, data, patience=patience, late=late)
        except OSError as error:
            log.warning("cache write failed path=%r error=%s", f"/{self._path}", error)
            self._health.failed(error)
            return False
        finally:
            self._late.pop(extent, None)
        if self._lost:  # by now: what was lost may be of this, and a sync would not hear of it
            return False
        self._unsynced += len(data)
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
            self._lost = True
            self._health.failed(error)
            self._on_loss()
        finally:
            self.synced.set()

    def find(self, offset: int, stop: int) -> memoryview | None:
        """A copy of bytes from ``offset`` on that are late; None: they are not among those."""
        for extent, data in self._late.items():
            start = offset - extent.start * BLOCK
            if 0 <= start < len(data):
                end = min(start + DELIVERED_BYTES, stop - extent.start * BLOCK)
                return memoryview(bytes(data[start:end]))
        return None
