"""The catalog in its thread, and the account that follows it: what is added, removed and touched.

Hub's thread; the catalog lives in one worker thread of its own. The disk is the truth (I7): a
catalog that is lost or broken is rebuilt from objects/ in the background while hits are served.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection
from typing import Any

import gevent

from streamcache.cache.catalog import (
    Catalog,
    CatalogCorrupt,
    CatalogError,
    NewEntry,
    Victim,
    set_aside,
)
from streamcache.cache.space import Space
from streamcache.cache.store import Store, StoredObject
from streamcache.cache.workers import WorkerPool
from streamcache.config import CacheConfig
from streamcache.errors import Closed

_WRITE_INTERVAL = 1.0  # s between writes of touches
_REBUILD_INTERVAL = 10.0  # s until a rebuild that failed is tried again
_REMEMBERED = 200_000  # pairs of client and object

log = logging.getLogger(__name__)


class Ledger:
    """Opens, feeds and, when it must, rebuilds the catalog of one cache directory."""

    def __init__(
        self, store: Store, space: Space, disk: WorkerPool, catalog: Catalog, config: CacheConfig
    ) -> None:
        """``catalog`` was opened in the thread of ``self.pool`` by ``open``."""
        self.catalog = catalog
        self.pool: WorkerPool
        self.objects = 0
        self.rebuilds = 0
        self._store = store
        self._space = space
        self._disk = disk
        self._config = config
        self._touched: dict[str, int] = {}
        self._recent: dict[tuple[str, str], float] = {}  # (client, object) -> monotonic s
        self._writer: gevent.Greenlet[..., None] | None = None
        self._rebuilder: gevent.Greenlet[..., None] | None = None
        self._mending = False

    @classmethod
    def open(cls, store: Store, space: Space, disk: WorkerPool, config: CacheConfig) -> Ledger:
        """Open the catalog, or begin a new one where it is broken. Switches.

        Raises CatalogError when neither can be done.
        """
        pool = WorkerPool("catalog", size=1)
        try:
            catalog = pool.call(_open, _path(store), config, space.limit)
        except BaseException:
            pool.close()
            raise
        ledger = cls(store, space, disk, catalog, config)
        ledger.pool = pool
        return ledger

    def start(self, published: list[StoredObject]) -> None:
        """Enter what was published last, then take usage from the catalog, or rebuild. Switches."""
        try:
            self._take_up(published)
        except CatalogCorrupt as error:
            log.warning("catalog is broken error=%s", error)
            self._mend()
        self._writer = gevent.spawn(self._write_touches)

    def _take_up(self, published: list[StoredObject]) -> None:
        entries = [_new_entry(stored) for stored in published]
        if entries:
            self.pool.call(self.catalog.add, entries)
        for entry in entries:  # not before the catalog knows: we may be killed here
            self._disk.call(self._store.drop_partial, entry.name)
        if leaving := self.pool.call(self.catalog.leaving):  # an eviction that was cut short
            gone = self._disk.call(self._store.remove_objects, leaving)
            self.pool.call(self.catalog.remove_victims, gone)
        if self.pool.call(lambda: self.catalog.complete):
            usage, self.objects = self.pool.call(self.catalog.usage)
            self._space.set_usage(usage)
        elif not (self._disk.call(self._store.is_empty) and self._rebuild()):
            self._mend(replace=False)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run in the catalog's thread. Switches. Raises what it raises.

        When that is CatalogCorrupt, the catalog is replaced and rebuilt in the background.
        """
        try:
            return self.pool.call(function, *args)
        except CatalogCorrupt:
            self._mend()
            raise

    def victims(
        self, need: int, *, held: Collection[str] = (), limit: int = 64, batch: int = 1 << 30
    ) -> list[Victim]:
        """See ``Catalog.victims``: for the Evictor, which calls it in the catalog's thread."""
        return self.catalog.victims(need, held=held, limit=limit, batch=batch)

    def remove_victims(self, names: list[str]) -> int:
        """See ``Catalog.remove_victims``; in the catalog's thread."""
        return self.catalog.remove_victims(names)

    def add(self, name: str, path: str, size: int, blocks: int, *, rebuilds: int) -> None:
        """Enter an object whose reservation was committed after that many ``rebuilds``.

        Switches. Raises CatalogError.
        """
        entry = NewEntry(name, path, size, blocks, time.time())
        replaced = self.call(self.catalog.add, entry)
        if self.rebuilds == rebuilds:
            self._space.object_removed(replaced)
        elif not replaced:  # usage was counted anew meanwhile, without this one
            self._space.object_found(blocks)
        if not replaced:
            self.objects += 1

    def remove(self, names: list[str]) -> None:
        """Objects are gone from the disk. Switches. Raises CatalogError."""
        freed, count = self.call(_remove, self.catalog, names)
        self._space.object_removed(freed)
        self.objects -= count

    def touch(self, name: str, client: str) -> None:
        """A client reads an object: counted once in ``cache.touch_interval``. Does not switch."""
        now = time.monotonic()
        pair = (client, name)
        last = self._recent.get(pair)
        if last is not None and now - last < self._config.touch_interval:
            return
        if len(self._recent) >= _REMEMBERED:
            for old in list(self._recent)[: _REMEMBERED // 10]:
                del self._recent[old]
        self._recent.pop(pair, None)
        self._recent[pair] = now
        self._touched[name] = self._touched.get(name, 0) + 1

    def close(self) -> None:
        """Write what is left and close. Switches."""
        for greenlet in (self._writer, self._rebuilder):
            if greenlet is not None:
                greenlet.kill()
        for last in (self._flush, lambda: self.call(self.catalog.close)):
            try:
                last()
            except (CatalogError, Closed) as error:
                log.warning("catalog not closed cleanly error=%s", error)
        self.pool.close()

    def _write_touches(self) -> None:
        """Greenlet: touches reach the catalog each second."""
        while True:
            gevent.sleep(_WRITE_INTERVAL)
            try:
                self._flush()
            except CatalogError as error:
                log.warning("touches not written error=%s", error)

    def _flush(self) -> None:
        touched, self._touched = self._touched, {}
        if touched:
            self.call(self.catalog.touch, touched, time.time())

    def _mend(self, *, replace: bool = True) -> None:
        """Rebuild in the background, at first in place of a broken catalog. Does not switch."""
        if not self._mending:
            self._mending = True
            self._space.lose_usage()
            self._rebuilder = gevent.spawn(self._do_mend, replace)

    def _do_mend(self, replace: bool) -> None:
        """Greenlet: until it works; hits are served meanwhile, and nothing new is cached."""
        while True:
            try:
                if replace:
                    old, path = self.catalog, _path(self._store)
                    self.catalog = self.pool.call(
                        _replace, old, path, self._config, self._space.limit
                    )
                    replace = False
                if self._rebuild():
                    break
            except CatalogCorrupt:
                replace = True
            except (CatalogError, OSError) as error:
                log.error("catalog cannot be replaced error=%s", error)
            gevent.sleep(_REBUILD_INTERVAL)
        self._mending = False

    def _rebuild(self) -> bool:
        """Enter all objects that the disk has; whether that worked. Switches."""
        folders = self._store.all_objects()
        try:
            while (batch := self._disk.call(next, folders, None)) is not None:
                if batch:
                    entries = [_new_entry(stored) for stored in batch]
                    self.pool.call(self.catalog.add, entries)
            self.pool.call(self.catalog.set_complete)
            usage, self.objects = self.pool.call(self.catalog.usage)
        except CatalogCorrupt:
            raise
        except (CatalogError, OSError) as error:
            log.error("catalog rebuild failed, nothing new is cached error=%s", error)
            return False
        self._space.set_usage(usage)
        self.rebuilds += 1
        log.info("catalog rebuilt objects=%d bytes=%d", self.objects, usage)
        return True


def _new_entry(stored: StoredObject) -> NewEntry:
    return NewEntry(stored.name, stored.path, stored.version.size, stored.blocks, stored.stored)


def _path(store: Store) -> str:
    return os.path.join(store.root, "catalog.sqlite")


# In the catalog's thread, as SQLite demands:


def _open(path: str, config: CacheConfig, limit: int) -> Catalog:
    try:
        return Catalog.open(path, policy=config.policy, capacity=max(1, limit))
    except CatalogCorrupt as error:
        log.warning("catalog is broken, begun anew error=%s kept=%s", error, set_aside(path))
        return Catalog.open(path, policy=config.policy, capacity=max(1, limit))


def _replace(broken: Catalog, path: str, config: CacheConfig, limit: int) -> Catalog:
    broken.close()
    log.warning("catalog is begun anew kept=%s", set_aside(path))
    return Catalog.open(path, policy=config.policy, capacity=max(1, limit))


def _remove(catalog: Catalog, names: list[str]) -> tuple[int, int]:
    """Bytes and number of those that were there."""
    before = catalog.usage()[1]
    return catalog.remove(names), before - catalog.usage()[1]
