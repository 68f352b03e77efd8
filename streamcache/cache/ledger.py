"""The catalog in its thread, as the hub sees it: objects, uses and the account of what lies there.

Hub's thread; the catalog lives in one worker thread of its own. Processes that share the directory
share the catalog; `Mender` replaces and rebuilds one that is lost or broken.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import gevent

from streamcache.cache.account import Order, Reserved, Trashed
from streamcache.cache.catalog import Catalog
from streamcache.cache.database import (
    CatalogCorrupt,
    CatalogError,
    CatalogLate,
    CatalogReplaced,
)
from streamcache.cache.entry import Entry, NewEntry, Victim
from streamcache.cache.health import Health
from streamcache.cache.listing import Key, Listing, Page, entries, page
from streamcache.cache.mender import Files, Mender, open_catalog
from streamcache.cache.space import Space
from streamcache.cache.store import Store
from streamcache.cache.uses import Uses
from streamcache.cache.workers import WorkerPool
from streamcache.config.cache import CacheConfig
from streamcache.errors import Closed, SourceBusy

_WRITE_INTERVAL = 1.0  # s between writes of touches
_LISTING_WAIT = 30.0  # s for a page: the last one of a million objects takes a second or two
_END_WAIT = 2.0  # s that the close waits for a disk that hangs

T = TypeVar("T")

log = logging.getLogger(__name__)


class Ledger:
    """Opens and feeds the catalog of one cache directory."""

    def __init__(
        self,
        store: Store,
        space: Space,
        disk: WorkerPool,
        config: CacheConfig,
        *,
        pool: WorkerPool,
        mender: Mender,
        alone: bool,
    ) -> None:
        """Made by ``open``; ``mender`` calls the catalog in the thread of ``pool``."""
        self.catalog = mender.catalog
        self.pool = pool
        self._mender = mender
        self._store = store
        self._space = space
        self._disk = disk
        self._alone = alone
        self._touched: dict[str, int] = {}
        self._uses = Uses(config.touch_interval)
        self._writer: gevent.Greenlet[..., None] | None = None
        space.use(self)

    @classmethod
    def open(
        cls,
        store: Store,
        space: Space,
        disk: WorkerPool,
        config: CacheConfig,
        *,
        alone: bool = True,
        partials: Files = list,
        trash_files: Files = list,
    ) -> Ledger:
        """Open the catalog, or begin a new one where it is broken. Switches.

        ``alone``: no other process uses the directory. If one does, ``cache.policy`` must be its,
        and ``cache.size`` its or 0. The space gets the agreed size; it stays as it is while none
        is known (then: ``agree``). A rebuild asks ``partials`` for the names of all partials and
        their footprints (or what they take, if nobody works on them), ``trash_files`` for files in
        trash/ and their bytes. Raises CacheError; CatalogError when there can be no catalog.
        """
        with ExitStack() as stack:
            pool = WorkerPool("catalog", size=1)
            stack.callback(pool.close)
            path = os.path.join(store.root, "catalog.sqlite")
            catalog = pool.call(open_catalog, path, config, max(1, space.limit), alone, store.boot)
            stack.callback(pool.post, catalog.close)
            size = pool.call(_agree, catalog, 0, alone)
            stack.pop_all()
        mender = Mender(
            store,
            space,
            disk,
            catalog,
            pool=pool,
            alone=alone,
            partials=partials,
            trash_files=trash_files,
        )
        ledger = cls(store, space, disk, config, pool=pool, mender=mender, alone=alone)
        ledger._know(size)
        return ledger

    def reconfigure(self, config: CacheConfig) -> None:
        """Another time within which uses are one use. Does not switch."""
        self._uses.interval = config.touch_interval

    def agree(self, size: int) -> int:
        """The size of the cache that all its users have; ``size`` in bytes is ours, 0: any.

        The space has it from now on. 0: nobody has said one. Where the size is computed, call
        this with the result before other processes are let in. Switches. Raises CacheError when it
        is another one.
        """
        agreed: int = self.call(_agree, self.catalog, size, self._alone)
        self._know(agreed)
        return agreed

    def _know(self, size: int) -> None:
        if size:
            self._space.resize(size)

    def start(self) -> None:
        """Take usage from the catalog, or rebuild. Switches."""
        try:
            self._take_up()
        except CatalogCorrupt as error:
            log.warning("catalog is broken error=%s", error)
            self._mender.mend(error.id)
        except CatalogReplaced:
            self._mender.mend()
        self._writer = gevent.spawn(self._write_touches)
        self._mender.watch()

    def _take_up(self) -> None:
        # An eviction that was cut short. With others there it may be under way: the next round of
        # anybody is offered the same objects again.
        if self._alone and (leaving := self.call(self.catalog.leaving)):
            gone = self._disk.call(self._store.objects.remove_unread, leaving)
            self.call(self.catalog.remove_victims, gone)
        self._take_up_pins()
        if not self.call(lambda: self.catalog.complete):
            if self._disk.call(self._store.objects.is_empty):
                self._mender.try_to_mend()
            if not self._space.known:
                self._mender.mend()

    def _take_up_pins(self) -> None:
        """What the disk says: the last process may have ended between a pin's file and its row."""
        try:
            known = self.call(self.catalog.pins.all)
            found = self._disk.call(self._store.pins.all, known)
        except OSError as error:
            log.warning("pins cannot be read error=%s", error)
            return
        if new := {key: path for key, path in found.items() if key not in known}:
            self.call(self.catalog.pin, new)
        if gone := known.keys() - found.keys():
            self.call(self.catalog.unpin, gone)

    @property
    def objects(self) -> int:
        """How many there are, as of the last look."""
        return self._space.count

    @property
    def rebuilds(self) -> int:
        """How often this process has rebuilt the catalog."""
        return self._mender.rebuilds

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """See ``Mender.call``. Switches. Raises what the function raises."""
        return self._mender.call(function, *args)

    def page(self, listing: Listing, source: str = "", key: Key | None = None) -> Page:
        """A page of the objects that there are. Switches. Raises CatalogError.

        With ``key``, which gives the keys of the paths of this source: without those of others.
        """
        return self._look(partial(self._page, source, key), listing)

    def _page(self, source: str, key: Key | None, path: str, listing: Listing) -> Page:
        """Disk pool. Rows are looked at one by one only where others have used the directory."""
        shared = key is not None and self._store.has_other_sources(source)
        return page(path, listing, key if shared else None)

    def entries(self, listing: Listing) -> tuple[tuple[Entry, ...], str]:
        """See ``listing.entries``. Switches. Raises CatalogError."""
        return self._look(entries, listing)

    def _look(self, function: Callable[[str, Listing], T], listing: Listing) -> T:
        """In the disk pool, beside the catalog's own thread: a million rows take a while."""
        path = self.catalog.database.path
        try:
            return self._disk.call(function, path, listing, timeout=_LISTING_WAIT)
        except TimeoutError as late:
            raise CatalogLate(f"{path}: {late}") from late

    def pin(self, pins: Mapping[str, str]) -> int:
        """{key: path}: not evicted; the number of objects. Switches. CatalogError, OSError."""
        self._disk.call(self._store.pins.add, pins)
        kept: int = self.call(self.catalog.pin, pins)
        return kept

    def unpin(self, keys: Collection[str]) -> int:
        """The opposite."""
        self._disk.call(self._store.pins.remove, keys)
        freed: int = self.call(self.catalog.unpin, keys)
        return freed

    def pins(self) -> dict[str, str]:
        """{key: path}. Switches. Raises CatalogError."""
        found: dict[str, str] = self.call(self.catalog.pins.all)
        return found

    def pinned_bytes(self) -> int:
        """On disk. Switches. Raises CatalogError."""
        found: int = self.call(self.catalog.pins.bytes)
        return found

    def choose(self, names: list[str]) -> None:
        """See ``Catalog.choose``. Switches. Raises CatalogError."""
        self.call(self.catalog.choose, names)

    def chosen_are_gone(self, names: list[str]) -> None:
        """See ``Catalog.remove_victims``. Switches. Raises CatalogError."""
        self.call(self.catalog.remove_victims, names)

    def victims(
        self, need: int, *, held: Collection[str] = (), limit: int = 64, batch: int = 1 << 30
    ) -> list[Victim]:
        """See ``Catalog.victims``: for the Evictor, which calls it in the catalog's thread."""
        return self.catalog.victims(need, held=held, limit=limit, batch=batch)

    def entries_of(self, names: list[str]) -> list[Entry]:
        """See ``Catalog.entries_of``. Catalog's thread."""
        return self.catalog.entries_of(names)

    def remove_victims(self, names: list[str]) -> int:
        """See ``Catalog.remove_victims``; in the catalog's thread."""
        return self.catalog.remove_victims(names)

    def add(self, name: str, path: str, size: int, on_disk: int) -> None:
        """A partial became an object: its row comes, its reservation goes, in one transaction.

        Idempotent; several processes may enter the same one. Switches. Raises CatalogError.
        """
        self.call(self.catalog.add, NewEntry(name, path, size, on_disk, time.time()))
        self._space.forget(name)

    def remove(self, names: list[str]) -> None:
        """Objects are gone from the disk. Switches. Raises CatalogError."""
        self.call(self.catalog.remove, names)

    def trashed(self, name: str, file: str, on_disk: int) -> None:
        """The object was renamed to ``file`` in trash/: its bytes count until ``trash_freed``.

        In one transaction; also if the object had no row. Switches. Raises CatalogError.
        """
        self.call(self.catalog.trashed, name, file, on_disk)

    def trashed_partial(self, name: str, file: str) -> int:
        """See ``Account.trash_reservation``. Switches. Raises CatalogError."""
        found: int = self.call(self.catalog.account.trash_reservation, name, file)
        self._space.forget(name)
        return found

    def trash_freed(self, file: str) -> None:
        """It is unlinked, and nobody has it open. Idempotent. Switches. Raises CatalogError."""
        self.call(self.catalog.account.free_trash, file)

    def reservations(self, limit: int = -1) -> list[Reserved]:
        """Of all processes, the oldest first; -1: no limit. Switches. Raises CatalogError."""
        found: list[Reserved] = self.call(self.catalog.account.reservations, limit)
        return found

    def reserved(self, key: str) -> list[str]:
        """The names of this key that have a reservation. Switches. Raises CatalogError."""
        found: list[str] = self.call(self.catalog.account.names, key)
        return found

    def trash(self) -> list[Trashed]:
        """What is counted in trash/. Switches. Raises CatalogError."""
        found: list[Trashed] = self.call(self.catalog.account.trash)
        return found

    # -- what Space needs (see Books)

    def draw(self, order: Order) -> None:
        """See ``Account.draw``."""
        self.call(self.catalog.account.draw, order)

    def cancel(self, order: Order) -> None:
        """In the catalog's thread, so after the draw, if that is still under way."""
        self.pool.post(self.catalog.account.undo, order)

    def settle(self, name: str, generation: int, on_disk: int) -> None:
        """See ``Account.settle``."""
        self.call(self.catalog.account.settle, name, generation, on_disk)

    def generation(self, name: str) -> int:
        """See ``Account.generation``."""
        found: int = self.call(self.catalog.account.generation, name)
        return found

    def look(self) -> None:
        """See ``Account.look``."""
        self.call(self.catalog.account.look)

    def probe(self) -> None:
        """Whether the catalog can be written to. Switches. Raises CatalogError."""
        self.call(self.catalog.probe)

    def begin_anew(self) -> None:
        """The objects that the catalog knows are gone: another is made. Does not switch."""
        self._mender.mend(self.catalog.database.state.id)

    def tell(self, health: Health) -> None:
        """What befalls the catalog is evidence for or against the disk."""
        self._mender.failed = health.failed
        health.on_recovery.append(self._mender.hurry)

    def touch(self, name: str, client: str, now: float) -> None:
        """A client reads an object: counted once in ``cache.touch_interval``. Does not switch.

        ``now``: monotonic s.
        """
        if self._uses.counts(client, name, now):
            self._touched[name] = self._touched.get(name, 0) + 1

    def close(self) -> None:
        """Write what is left and close. Switches."""
        self._mender.close()
        if self._writer is not None:
            self._writer.kill()
        for last in (self._flush, lambda: self.pool.call(self.catalog.close)):
            try:
                with gevent.Timeout(_END_WAIT, CatalogLate("no answer")):
                    last()
            except (CatalogError, Closed) as error:
                log.warning("catalog not closed cleanly error=%s", error)
        self.pool.close()

    def _write_touches(self) -> None:
        """Greenlet: touches reach the catalog each second."""
        failing = False
        while True:
            gevent.sleep(_WRITE_INTERVAL)
            try:
                self._flush()
                failing = False
            except (CatalogError, SourceBusy) as error:
                if not failing:
                    log.warning("touches not written error=%s", error)
                failing = True

    def _flush(self) -> None:
        touched, self._touched = self._touched, {}
        if touched:
            self.call(self.catalog.touch, touched, time.time())


def _agree(catalog: Catalog, size: int, alone: bool) -> int:
    return catalog.agree(size, alone=alone)
