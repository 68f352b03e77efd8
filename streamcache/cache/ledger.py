"""The catalog in its thread, as the hub sees it: objects, uses and the account of what lies there.

Hub's thread; the catalog lives in one worker thread of its own. The disk is the truth (I7): a
catalog that is lost or broken is replaced and rebuilt from what is there, in the background, while
hits are served and nothing new is cached.

Processes: all that share the directory share the catalog. Which one replaces and rebuilds it is
elected by a lock on `catalog.lock`; if that one dies, the kernel frees the lock and another goes
on. The others see, by the next transaction or after half a second, that another file is in its
place, and go over to it. What they had drawn from the old one they enter in the new one, for which
the rebuild waits: their partials may not have been on the disk when it looked.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection
from typing import Any

import gevent
from gevent.event import Event

from streamcache.cache.account import Order, Reserved, Totals, Trashed
from streamcache.cache.catalog import Catalog, NewEntry, Victim
from streamcache.cache.database import (
    CatalogCorrupt,
    CatalogError,
    CatalogReplaced,
    set_aside,
    take_lock,
)
from streamcache.cache.space import Space
from streamcache.cache.store import Store, StoredObject
from streamcache.cache.workers import WorkerPool
from streamcache.config import CacheConfig
from streamcache.errors import Closed, SourceBusy

_WRITE_INTERVAL = 1.0  # s between writes of touches
_LOOK_INTERVAL = 0.5  # s between looks whether the catalog is still the one that is open
_ENTER_WAIT = 1.5  # s from a replacement until usage counts: others have entered what they drew
_REBUILD_INTERVAL = 10.0  # s until a rebuild that failed is tried again
_ELECTION_INTERVAL = 0.05  # s between looks whether another process has rebuilt it
_OPEN_WAIT = 5.0  # s that a start waits for another process that makes the catalog
_REMEMBERED = 200_000  # pairs of client and object

Files = Callable[[], list[tuple[str, int]]]  # names and bytes on disk; runs in the disk pool

log = logging.getLogger(__name__)


class Ledger:
    """Opens, feeds and, when it must, rebuilds the catalog of one cache directory."""

    def __init__(
        self,
        store: Store,
        space: Space,
        disk: WorkerPool,
        catalog: Catalog,
        config: CacheConfig,
        *,
        pool: WorkerPool,
        alone: bool = True,
        partials: Files = list,
        trash_files: Files = list,
    ) -> None:
        """``catalog`` was opened in the thread of ``pool`` by ``open``."""
        self.catalog = catalog
        self.pool = pool
        self.size = 0
        self.rebuilds = 0
        self._store = store
        self._space = space
        self._disk = disk
        self._config = config
        self._alone = alone
        self._partials = partials
        self._trash_files = trash_files
        self._id = 0  # of the catalog, as of the last call
        self._entered = 0  # the catalog that knows what this process has drawn
        self._touched: dict[str, int] = {}
        self._recent: dict[tuple[str, str], float] = {}  # (client, object) -> monotonic s
        self._wake = Event()
        self._watcher: gevent.Greenlet[..., None] | None = None
        self._writer: gevent.Greenlet[..., None] | None = None
        self._mender: gevent.Greenlet[..., None] | None = None
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
        trash/ and their blocks. Raises CacheError; CatalogError when there can be no catalog.
        """
        pool = WorkerPool("catalog", size=1)
        try:
            catalog = pool.call(_open, _path(store), config, max(1, space.limit), alone)
            ledger = cls(
                store,
                space,
                disk,
                catalog,
                config,
                pool=pool,
                alone=alone,
                partials=partials,
                trash_files=trash_files,
            )
        except BaseException:
            pool.close()
            raise
        ledger._know(ledger.pool.call(_agree, catalog, 0, alone))
        return ledger

    def agree(self, size: int) -> int:
        """The size of the cache that all its users have; ``size`` in bytes is ours, 0: any.

        The space has it from now on; so does ``self.size``. 0: nobody has said one. Where the
        size is computed, call this with the result before other processes are let in. Switches.
        Raises CacheError when it is another one.
        """
        self._know(self.call(_agree, self.catalog, size, self._alone))
        return self.size

    def _know(self, size: int) -> None:
        self.size = size
        if size:
            self._space.resize(size)

    def start(self) -> None:
        """Take usage from the catalog, or rebuild. Switches."""
        try:
            self._take_up()
        except CatalogCorrupt as error:
            log.warning("catalog is broken error=%s", error)
            self._mend(error.id)
        except CatalogReplaced:
            self._mend()
        self._writer = gevent.spawn(self._write_touches)
        self._watcher = gevent.spawn(self._watch)

    def _take_up(self) -> None:
        # An eviction that was cut short. With others there it may be under way: the next round of
        # anybody is offered the same objects again.
        if self._alone and (leaving := self.call(self.catalog.leaving)):
            gone = self._disk.call(self._store.remove_objects, leaving)
            self.call(self.catalog.remove_victims, gone)
        if not self.call(lambda: self.catalog.complete):
            if self._disk.call(self._store.is_empty):
                self._try_to_mend(0)
            if not self._space.known:
                self._mend()

    @property
    def objects(self) -> int:
        """How many there are, as of the last look."""
        return self._space.count

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run in the catalog's thread; the space then knows the totals. Switches.

        Raises what it raises. When that is CatalogCorrupt, or the catalog is gone, it is replaced
        and rebuilt in the background. If another process has replaced it, the function runs again,
        on the new one.
        """
        try:
            answer, totals = self.pool.call(_run, self.catalog, function, args)
        except CatalogCorrupt as error:
            self._mend(error.id)
            raise
        except CatalogReplaced:
            self._mend()
            raise
        self._looked(totals)
        return answer

    def _looked(self, totals: Totals) -> None:
        if totals.id != self._id:
            self._id = totals.id
            self._wake.set()
        self._space.looked(totals)

    def victims(
        self, need: int, *, held: Collection[str] = (), limit: int = 64, batch: int = 1 << 30
    ) -> list[Victim]:
        """See ``Catalog.victims``: for the Evictor, which calls it in the catalog's thread."""
        return self.catalog.victims(need, held=held, limit=limit, batch=batch)

    def remove_victims(self, names: list[str]) -> int:
        """See ``Catalog.remove_victims``; in the catalog's thread."""
        return self.catalog.remove_victims(names)

    def add(self, name: str, path: str, size: int, blocks: int) -> None:
        """A partial became an object: its row comes, its reservation goes, in one transaction.

        Idempotent; several processes may enter the same one. Switches. Raises CatalogError.
        """
        self.call(self.catalog.add, NewEntry(name, path, size, blocks, time.time()))
        self._space.forget(name)

    def remove(self, names: list[str]) -> None:
        """Objects are gone from the disk. Switches. Raises CatalogError."""
        self.call(self.catalog.remove, names)

    def trashed(self, name: str, file: str, blocks: int) -> None:
        """The object was renamed to ``file`` in trash/: its bytes count until ``trash_freed``.

        In one transaction; also if the object had no row. Switches. Raises CatalogError.
        """
        self.call(self.catalog.trashed, name, file, blocks)

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

    def settle(self, name: str, generation: int, blocks: int) -> None:
        """See ``Account.settle``."""
        self.call(self.catalog.account.settle, name, generation, blocks)

    def generation(self, name: str) -> int:
        """See ``Account.generation``."""
        found: int = self.call(self.catalog.account.generation, name)
        return found

    def look(self) -> None:
        """See ``Account.look``."""
        self.call(self.catalog.account.look)

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
        for greenlet in (self._writer, self._watcher, self._mender):
            if greenlet is not None:
                greenlet.kill()
        for last in (self._flush, lambda: self.pool.call(self.catalog.close)):
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
            except (CatalogError, SourceBusy) as error:
                log.warning("touches not written error=%s", error)

    def _flush(self) -> None:
        touched, self._touched = self._touched, {}
        if touched:
            self.call(self.catalog.touch, touched, time.time())

    def _watch(self) -> None:
        """Greenlet: notices that another process has replaced the catalog, or lost it."""
        failing = False
        while True:
            self._wake.wait(_LOOK_INTERVAL)
            self._wake.clear()
            try:
                self.look()
                self._enter_drawn()
                failing = False
            except (CatalogError, SourceBusy) as error:
                if not failing:
                    log.warning("catalog cannot be read error=%s", error)
                failing = True
            else:
                if not self._space.known:
                    self._mend()

    def _enter_drawn(self) -> None:
        """Tell a new catalog what this process may write already: it may be on no disk yet."""
        current = self._id
        if self._entered not in (0, current) and self._space.drawn:
            self.call(self.catalog.account.enter, list(self._space.drawn.items()))
        self._entered = current

    def _mend(self, broken: int = 0) -> None:
        """Rebuild in the background; ``broken``: in place of that catalog. Does not switch."""
        self._space.lose_usage()
        if self._mender is None or self._mender.ready():
            self._mender = gevent.spawn(self._do_mend, broken)

    def _do_mend(self, broken: int) -> None:
        """Greenlet: until it works; hits are served meanwhile, and nothing new is cached."""
        while True:
            pause = _ELECTION_INTERVAL
            try:
                if self._try_to_mend(broken):
                    return
            except CatalogCorrupt as error:
                broken = error.id
            except CatalogReplaced:
                pass
            except (CatalogError, OSError, SourceBusy) as error:
                log.error("catalog rebuild failed, nothing new is cached error=%s", error)
                pause = _REBUILD_INTERVAL
            gevent.sleep(pause)

    def _try_to_mend(self, broken: int) -> bool:
        """Whether the catalog is whole now. Switches. Raises CatalogError, OSError."""
        lock = self.pool.call(take_lock, _lock_path(self._store), discard=_close)
        if lock < 0:  # another process is at it
            self._do(self.catalog.account.look)
            return self._space.known
        try:
            size = self.size or self._space.limit
            begun = time.monotonic()
            if self._do(_renew, self.catalog, broken, size) or not self._alone:
                begun += _ENTER_WAIT
            if not self._space.known:
                self._rebuild(begun)
            return True
        finally:
            os.close(lock)

    def _do(self, function: Callable[..., Any], *args: Any) -> Any:
        """As ``call``, for the one who mends: it does not start another."""
        answer, totals = self.pool.call(_run, self.catalog, function, args)
        self._looked(totals)
        return answer

    def _rebuild(self, counts_from: float) -> None:
        """Enter all that the disk has; usage counts from that monotonic time. Switches."""
        # Partials first: one that is published meanwhile is found as an object, too, and its
        # reservation ends when that is entered.
        partials = [*self._disk.call(self._partials), *self._space.drawn.items()]
        self._do(self.catalog.account.enter, partials)
        folders = self._store.all_objects()
        while (batch := self._disk.call(next, folders, None)) is not None:
            if batch:
                entries = [_new_entry(stored) for stored in batch]
                self._do(self.catalog.add, entries)
        self._do(self.catalog.account.add_trash, self._disk.call(self._trash_files))
        gevent.sleep(max(0.0, counts_from - time.monotonic()))
        self._do(self.catalog.set_complete)
        self.rebuilds += 1
        log.info("catalog rebuilt objects=%d bytes=%d", self.objects, self._space.used)


def _new_entry(stored: StoredObject) -> NewEntry:
    return NewEntry(stored.name, stored.path, stored.version.size, stored.blocks, stored.stored)


def _path(store: Store) -> str:
    return os.path.join(store.root, "catalog.sqlite")


def _lock_path(store: Store) -> str:
    return os.path.join(store.root, "catalog.lock")


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


# In the catalog's thread, as SQLite demands:


def _open(path: str, config: CacheConfig, limit: int, alone: bool) -> Catalog:
    """What is there, else a new one, made by one process while the others wait for it."""

    def attempt(*, make: bool = False) -> Catalog:
        size = config.size
        catalog = Catalog.open(
            path, policy=config.policy, capacity=limit, alone=alone, size=size, make=make
        )
        try:
            catalog.agree(size, alone=alone)
        except BaseException:
            catalog.close()
            raise
        return catalog

    end = time.monotonic() + _OPEN_WAIT
    while True:
        try:
            return attempt()
        except (CatalogCorrupt, CatalogReplaced):
            lock = take_lock(os.path.join(os.path.dirname(path), "catalog.lock"))
            if lock < 0 and time.monotonic() > end:
                raise
        if lock < 0:
            time.sleep(_ELECTION_INTERVAL)
            continue
        try:
            return attempt()  # another one may have made it
        except CatalogReplaced:
            return attempt(make=True)
        except CatalogCorrupt as error:
            log.warning("catalog is broken, begun anew error=%s kept=%s", error, set_aside(path))
            return attempt(make=True)
        finally:
            os.close(lock)


def _run(
    catalog: Catalog, function: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Any, Totals]:
    """The answer, and the totals after it; once more if another file was in place."""
    try:
        try:
            answer = function(*args)
        except CatalogReplaced:
            catalog.reopen()
            answer = function(*args)
    except CatalogCorrupt as error:
        error.id = catalog.database.state.id
        raise
    return answer, catalog.account.totals


def _agree(catalog: Catalog, size: int, alone: bool) -> int:
    return catalog.agree(size, alone=alone)


def _renew(catalog: Catalog, broken: int, size: int) -> bool:
    """With the lock: go over to the catalog that is there, or make one where it must be.

    ``broken``: the id of the one that was found to be. Returns whether it was made.
    """
    database = catalog.database
    if not (broken and broken == database.state.id and database.current):
        try:
            catalog.reopen()
            return False
        except (CatalogCorrupt, CatalogReplaced) as error:
            log.warning("catalog is lost or broken error=%s", error)
    log.warning("catalog is begun anew kept=%s", catalog.replace(size=size))
    return True
