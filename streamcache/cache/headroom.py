"""Room on a disk that others fill too: less is taken while there is less, and all of it after.

The limit of the cache says what it may take; a disk that is full, or a quota that is used up, says
what there is. Then the limit is what lies there already and what is free, and the Evictor does the
rest. It is looked at again each second until there is room for the whole limit.

Greenlets: the one of ``Health``, and one to measure. Hub's thread; it measures in the disk pool.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import Any, Final

import gevent

from streamcache.cache.space import Space
from streamcache.cache.store import Store
from streamcache.cache.workers import WorkerPool
from streamcache.errors import StreamCacheError

_LOOK: Final = 1.0  # s between two looks while less is taken
_BLIND: Final = 60.0  # s until the whole limit is tried again, where no look tells (a quota)

log = logging.getLogger(__name__)


class Headroom:
    """How much the cache may take of the disk now."""

    def __init__(self, store: Store, space: Space, disk: WorkerPool) -> None:
        self._store = store
        self._space = space
        self._disk = disk
        self._quota_until = 0.0  # monotonic s: nothing more may be written, by a quota
        self._measured = 0.0  # monotonic s
        self._measuring: gevent.Greenlet[..., Any] | None = None

    def __repr__(self) -> str:
        return f"<Headroom {'all' if self._space.ceiling is None else self._space.ceiling}>"

    def squeeze(self, code: int) -> None:
        """The disk took no more (ENOSPC), or our user may not write more (EDQUOT).

        Does not switch.
        """
        if code == errno.EDQUOT:
            self._quota_until = time.monotonic() + _BLIND
        self._measure(full=True)

    def look(self) -> None:
        """Whether there is more room by now. Does not switch; at rest it does nothing."""
        if self._space.ceiling is not None and time.monotonic() - self._measured >= _LOOK:
            self._measure(full=False)

    def _measure(self, *, full: bool) -> None:
        self._measured = time.monotonic()
        if self._measuring is None or self._measuring.ready():
            self._measuring = gevent.spawn(self._do_measure, full)

    def _do_measure(self, full: bool) -> None:
        """Greenlet: set the ceiling."""
        space = self._space
        try:
            taken, free = self._disk.call(_measure, self._store)
        except (OSError, StreamCacheError) as error:
            log.debug("disk not measured error=%s", error)
            return
        if time.monotonic() < self._quota_until:
            free = 0
        before = space.ceiling
        ceiling = space.objects + space.trash + taken + free
        if ceiling >= space.size and not full:
            space.set_ceiling(None)
            log.warning("cache disk has room again limit=%d", space.limit)
            return
        space.set_ceiling(min(ceiling, space.size))
        if before is None:
            log.warning(
                "cache disk is full, less is taken limit=%d of=%d free=%d",
                space.limit,
                space.size,
                free,
            )


def _measure(store: Store) -> tuple[int, int]:
    """Worker thread: bytes on disk of the partials, and bytes that may still be written."""
    status = os.statvfs(store.root)
    free = status.f_bavail * status.f_frsize
    if status.f_files and not status.f_favail:  # no more files: evicted ones make room for some
        free = 0
    return store.partials.taken(), free
