"""Partials that no session works on: kept to be continued, dropped first when room is needed.

Hub's thread; the files are removed in the disk pool.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

from streamcache.cache.space import Reservation
from streamcache.cache.store import Store
from streamcache.cache.workers import WorkerPool

log = logging.getLogger(__name__)


class Partials:
    """Their reservations by name, the oldest first."""

    def __init__(self, store: Store, disk: WorkerPool) -> None:
        self._store = store
        self._disk = disk
        self._idle: OrderedDict[str, Reservation] = OrderedDict()
        self._going: set[str] = set()  # being removed

    def __len__(self) -> int:
        return len(self._idle)

    def of(self, key: str) -> list[str]:
        """The names of this key: one per version."""
        return [name for name in self._idle if name.startswith(key)]

    def put(self, name: str, reservation: Reservation) -> None:
        """A session left it behind, or it was found at the start."""
        self._idle[name] = reservation

    def take(self, name: str) -> Reservation | None:
        """A session goes on with it."""
        return self._idle.pop(name, None)

    def drop(self, name: str) -> None:
        """It is of no use any more (outdated). Switches. Raises OSError."""
        reservation = self.take(name)
        if reservation is not None:
            self._remove(name, reservation)

    def drop_oldest(self, need: int) -> int:
        """Drop until ``need`` bytes are free; the bytes freed. Switches. Raises OSError."""
        freed = 0
        while freed < need and self._idle:
            name, reservation = self._idle.popitem(last=False)
            freed += reservation.amount
            self._remove(name, reservation)
            log.info("partial dropped name=%s", name)
        return freed

    def is_going(self, name: str) -> bool:
        """Its files are being removed: nobody may begin one of that name now."""
        return name in self._going

    def _remove(self, name: str, reservation: Reservation) -> None:
        self._going.add(name)
        try:
            self._disk.call(self._store.drop_partial, name)
        except OSError:
            self._idle[name] = reservation  # its bytes are still there
            raise
        finally:
            self._going.discard(name)
        reservation.release()
