"""A copy's bytes on their way to the cache's disk, which may take long, or for ever.

Hub's thread; the bytes are written in the disk pool, and the buffer that they are in belongs to
that call until it returns (I4). A reader waits for it for a second: then it gets the bytes from
that buffer, so a disk that hangs holds up nobody (I15, I17). Meanwhile the copy writes no more:
what it reads for its readers goes past the cache, and memory stays bounded (I16).
"""

from __future__ import annotations

import logging
from typing import Final

from streamcache.cache.allotment import Allotment
from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.health import Health
from streamcache.cache.reading import DELIVERED_BYTES, Waiting

_PATIENCE: Final = 1.0  # s that a reader waits for the write of what it wants

log = logging.getLogger(__name__)


class Writes:
    """The writes under way of one copy."""

    def __init__(self, room: Allotment, waiting: Waiting, health: Health, path: str) -> None:
        self._room = room
        self._waiting = waiting
        self._health = health
        self._path = path
        self._late: dict[Extent, memoryview] = {}

    def __repr__(self) -> str:
        return f"<Writes late={len(self._late)}>"

    @property
    def welcome(self) -> bool:
        """Whether the disk takes more: it works, and none of ours is late."""
        return not (self._late or self._health.degraded)

    def write(self, extent: Extent, data: memoryview) -> bool:
        """Data, then map; False: the disk would not. Switches, for as long as it takes."""

        def late() -> None:
            log.info("cache disk is slow path=%r bytes=%d", self._path, len(data))
            self._late[extent] = data
            self._waiting.deliver(extent, data)

        try:
            self._room.write(extent, data, patience=_PATIENCE, late=late)
        except OSError as error:
            log.warning("cache write failed path=%r error=%s", self._path, error)
            self._health.failed(error)
            return False
        finally:
            self._late.pop(extent, None)
        return True

    def find(self, offset: int, stop: int) -> memoryview | None:
        """A copy of bytes from ``offset`` on that are late; None: they are not among those."""
        for extent, data in self._late.items():
            start = offset - extent.start * BLOCK
            if 0 <= start < len(data):
                end = min(start + DELIVERED_BYTES, stop - extent.start * BLOCK)
                return memoryview(bytes(data[start:end]))
        return None
