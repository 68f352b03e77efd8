"""Objects and partials enter and leave: the catalog learns of what is published, and what is no
longer true is taken off the disk.

Hub's thread; each task is a greenlet. Names change under the key's lock only, which keeps the other
processes away. Removal names exact versions.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Collection

import gevent
from gevent.pool import Group

from streamcache.cache.database import CatalogError
from streamcache.cache.ledger import Ledger
from streamcache.cache.locks import KeyLock
from streamcache.cache.names import key_of, name_of
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.resources import Resources
from streamcache.errors import StreamCacheError
from streamcache.source.base import Version

_TRIES = 5
_PAUSE = 1.0  # s: a catalog that is locked, full or being replaced

log = logging.getLogger(__name__)


class Removal:
    """Enters objects in the catalog and removes what is outdated."""

    def __init__(self, resources: Resources, ledger: Ledger) -> None:
        self._r = resources
        self._ledger = ledger
        self._tasks = Group()

    def __repr__(self) -> str:
        return f"<Removal tasks={len(self._tasks)}>"

    def enter(self, name: str, path: str, size: int, on_disk: int, lock: KeyLock) -> None:
        """A new object: the catalog learns of it, then ``lock``, the key's, is released."""
        self._tasks.spawn(self._enter, name, path, size, on_disk, lock)

    def remove(self, names: Collection[str], path: str) -> None:
        """These objects and partials of a path go. Does not switch."""
        self._tasks.spawn(self._remove, lambda: names, path)

    def remove_damaged(self, handle: ObjectHandle, path: str) -> None:
        """This file is not what its name says: it goes, if it has that name still. Its lease is
        the caller's. Does not switch.
        """
        inode = os.fstat(handle.fd).st_ino

        def damaged() -> list[str]:
            there = self._r.disk.call(self._r.store.objects.is_at_its_name, handle.name, inode)
            return [handle.name] if there else []

        self._tasks.spawn(self._remove, damaged, path)

    def remove_others(self, key: str, version: Version | None, path: str) -> None:
        """Every object and partial of this key, the path's, goes but that version's. Does not
        switch.
        """
        kept = None if version is None else name_of(key, version.id)

        def others() -> list[str]:
            stored = self._r.disk.call(self._r.store.objects.versions, key)
            names = {*(found.name for found in stored), *self._ledger.reserved(key)}
            return [name for name in names if name != kept]

        self._tasks.spawn(self._remove, others, path)

    def purge(self, name: str) -> bool:
        """The object and the partial of this name go now, also while they are read or worked on.

        Who has them open goes on with what it has; nobody joins. False: the key is held for too
        long, or the object is going already. Switches. Raises OSError, CacheError.
        """
        with self._r.keys.acquire(key_of(name)):
            if not self._drop_partial(name):
                trash = f"{name}.{secrets.token_hex(4)}"
                if self._r.disk.call(self._r.store.objects.retire_partial, name, trash):
                    self._ledger.trashed_partial(name, trash)
            return self._r.objects.discard(name)

    def close(self, timeout: float) -> None:
        """End, at the latest after ``timeout`` s. Switches."""
        self._tasks.join(timeout=timeout)
        self._tasks.kill()

    def _enter(self, name: str, path: str, size: int, on_disk: int, lock: KeyLock) -> None:
        """Greenlet. What cannot be entered keeps its map, and is entered by a later look."""
        with lock:
            for attempt in range(_TRIES):
                try:
                    self._ledger.add(name, path, size, on_disk)
                    self._r.disk.call(self._r.store.partials.drop_map, name)
                    return
                except (StreamCacheError, OSError) as error:
                    log.warning(
                        "object not entered in the catalog path=%r error=%s", f"/{path}", error
                    )
                    if not isinstance(error, CatalogError) or attempt == _TRIES - 1:
                        return
                gevent.sleep(_PAUSE)

    def _remove(self, names: Callable[[], Collection[str]], path: str) -> None:
        """Greenlet. What cannot be removed now goes by eviction: nobody asks for it any more."""
        try:
            going = names()
        except (OSError, StreamCacheError) as error:
            log.warning("not removed path=%r error=%s", f"/{path}", error)
            return
        for name in going:
            try:
                with self._r.keys.acquire(key_of(name)):
                    self._drop_partial(name)
                    if self._r.objects.discard(name):
                        log.info("object removed path=%r name=%s", f"/{path}", name)
            except (OSError, StreamCacheError) as error:
                form = "not removed path=%r name=%s error=%s"
                log.warning(form, f"/{path}", name, error)

    def _drop_partial(self, name: str) -> bool:
        """Whether there is none now: one that is worked on is left to who leaves it last."""
        generation = self._r.space.generation(name)
        if not generation:
            return True
        on_disk = self._r.disk.call(self._r.store.partials.remove, name)
        if on_disk is not None:
            self._r.space.settle(name, generation, on_disk)
        return on_disk is not None
