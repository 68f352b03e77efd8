"""The catalog's thread, and what makes the catalog whole again when it is lost or broken.

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

import functools
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event

from streamcache.cache.account import Totals
from streamcache.cache.catalog import Catalog
from streamcache.cache.database import (
    CatalogCorrupt,
    CatalogError,
    CatalogLate,
    CatalogReplaced,
    set_aside,
    take_lock,
    translated,
)
from streamcache.cache.entry import NewEntry
from streamcache.cache.space import Space
from streamcache.cache.store import Store
from streamcache.cache.stored import StoredObject
from streamcache.cache.workers import WorkerPool
from streamcache.config.cache import CacheConfig
from streamcache.errors import CacheError, SourceBusy

_ANSWER_WAIT = 10.0  # s: twice what SQLite waits for another process's transaction
_LOOK_INTERVAL = 0.5  # s between looks whether the catalog is still the one that is open
_ENTER_WAIT = 1.5  # s from a replacement until usage counts: others have entered what they drew
_REBUILD_INTERVAL = 10.0  # s until a rebuild that failed is tried again
_ELECTION_INTERVAL = 0.05  # s between looks whether another process has rebuilt it
_OPEN_WAIT = 5.0  # s that a start waits for another process that makes the catalog

# The embedding program may have monkey-patched: a worker thread needs the real one.
_sleep = monkey.get_original("time", "sleep")

Files = Callable[[], list[tuple[str, int]]]  # names and bytes on disk; runs in the disk pool

log = logging.getLogger(__name__)


class Mender:
    """One catalog, called in its thread; it is replaced and rebuilt when it must be."""

    def __init__(
        self,
        store: Store,
        space: Space,
        disk: WorkerPool,
        catalog: Catalog,
        *,
        pool: WorkerPool,
        alone: bool,
        partials: Files,
        trash_files: Files,
    ) -> None:
        """``catalog`` was opened in the thread of ``pool`` by ``open_catalog``."""
        self.catalog = catalog
        self.rebuilds = 0
        self._store = store
        self._space = space
        self._disk = disk
        self._pool = pool
        self._unshared = alone  # nobody else can have drawn anything yet
        self._partials = partials
        self._trash_files = trash_files
        self._id = 0  # of the catalog, as of the last call
        self._entered = 0  # the catalog that knows what this process has drawn
        self._wake = Event()
        self._again = Event()  # a rebuild that failed need not wait
        self.failed: Callable[[CatalogError], object] | None = None  # hears of errors
        self._closed = False
        self._watcher: gevent.Greenlet[..., None] | None = None
        self._mending: gevent.Greenlet[..., None] | None = None

    def watch(self) -> None:
        """From now on look by itself what others do with the catalog."""
        self._watcher = gevent.spawn(self._watch)
        if self._mending is None:
            self._unshared = False

    def close(self) -> None:
        """End the greenlets; nothing is mended any more. Switches."""
        self._closed = True
        for greenlet in (self._watcher, self._mending):
            if greenlet is not None:
                greenlet.kill()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run in the catalog's thread; the space then knows the totals. Switches.

        Raises what it raises, CatalogLate when there is no answer. When that is CatalogCorrupt, or
        the catalog is gone, it is replaced and rebuilt in the background. If another process has
        replaced it, the function runs again, on the new one.
        """
        try:
            answer, totals = self._ask(function, args)
        except CatalogCorrupt as error:
            self.mend(error.id)
            raise
        except CatalogReplaced:
            self.mend()
            raise
        except CatalogError as error:
            if self.failed is not None and not self._closed:  # whose file is closed, too
                self.failed(error)
            raise
        self._looked(totals)
        return answer

    def _ask(self, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, Totals]:
        try:
            return self._pool.call(_run, self.catalog, function, args, timeout=_ANSWER_WAIT)
        except TimeoutError as error:
            raise CatalogLate(f"{self.catalog.database.path}: {error}") from error

    def hurry(self) -> None:
        """The disk works again: a rebuild that failed is tried at once. Does not switch."""
        self._again.set()

    def _looked(self, totals: Totals) -> None:
        if totals.id != self._id:
            self._id = totals.id
            self._wake.set()
        self._space.looked(totals)

    def _watch(self) -> None:
        """Greenlet: notices that another process has replaced the catalog, or lost it."""
        failing = False
        while True:
            self._wake.wait(_LOOK_INTERVAL)
            self._wake.clear()
            try:
                self.call(self.catalog.account.look)
                self._enter_drawn()
                failing = False
            except (CatalogError, SourceBusy) as error:
                if not failing:
                    log.warning("catalog cannot be read error=%s", error)
                failing = True
            else:
                if not self._space.known:
                    self.mend()

    def _enter_drawn(self) -> None:
        """Tell a new catalog what this process may write already: it may be on no disk yet."""
        current = self._id
        if self._entered not in (0, current) and self._space.drawn:
            self.call(self.catalog.account.enter, list(self._space.drawn.items()))
        self._entered = current

    def mend(self, broken: int = 0) -> None:
        """Rebuild in the background; ``broken``: in place of that catalog. Does not switch."""
        self._space.lose_usage()
        if not self._closed and (self._mending is None or self._mending.ready()):
            self._mending = gevent.spawn(self._do_mend, broken)

    def _do_mend(self, broken: int) -> None:
        """Greenlet: until it works; hits are served meanwhile, and nothing new is cached."""
        while True:
            pause = _ELECTION_INTERVAL
            try:
                if self.try_to_mend(broken):
                    return
            except CatalogCorrupt as error:
                broken = error.id
            except CatalogReplaced:
                pass
            except (CacheError, OSError, SourceBusy) as error:
                log.error("catalog rebuild failed, nothing new is cached error=%s", error)
                pause = _REBUILD_INTERVAL
            self._again.clear()
            self._again.wait(pause)

    def try_to_mend(self, broken: int = 0) -> bool:
        """Whether the catalog is whole now. Switches. Raises CacheError, OSError."""
        self._disk.call(self._store.look)  # nothing is made in what is not our directory any more
        lock = self._pool.call(take_lock, _lock_path(self._store.root), discard=_close)
        if lock < 0:  # another process is at it
            self._do(self.catalog.account.look)
            return self._space.known
        release: Callable[[int], None] = os.close
        try:
            begun = time.monotonic()
            self._do(_renew, self.catalog, broken, self._space.size)
            if not self._space.known:
                self._rebuild(begun if self._unshared else begun + _ENTER_WAIT)
            self._unshared = False
            return True
        except CatalogLate:
            # Behind what is late: nobody may begin anew while ours still replaces the file.
            release = functools.partial(self._pool.post, os.close)
            raise
        finally:
            release(lock)

    def _do(self, function: Callable[..., Any], *args: Any) -> Any:
        """As ``call``, for the one who mends: it does not start another."""
        answer, totals = self._ask(function, args)
        self._looked(totals)
        return answer

    def _rebuild(self, counts_from: float) -> None:
        """Enter all that the disk has, and nothing else; usage counts from that monotonic time.
        Switches.
        """
        # Partials first: one that is published meanwhile is found as an object, too, and its
        # reservation ends when that is entered.
        catalog = self._id
        partials = [*self._disk.call(self._partials), *self._space.drawn.items()]
        self._do(self.catalog.account.enter, partials)
        self._do(self.catalog.pin, self._disk.call(self._store.pins.all))
        folders = self._store.objects.all()
        while (batch := self._disk.call(next, folders, None)) is not None:
            if batch:
                entries = [new_entry(stored) for stored in batch]
                self._do(self.catalog.add, entries)
        self._forget_lost()
        self._do(self.catalog.account.add_trash, self._disk.call(self._trash_files))
        gevent.sleep(max(0.0, counts_from - time.monotonic()))
        self._do(self.catalog.set_complete, catalog)
        self.rebuilds += 1
        log.info("catalog rebuilt objects=%d bytes=%d", self._space.count, self._space.used)

    def _forget_lost(self) -> None:
        """Rows of objects that are not there: the catalog is older than the disk (a power cut)."""
        last = ""
        while names := self._do(self.catalog.names, last):
            last = names[-1]
            if lost := self._disk.call(self._store.objects.lost, names):
                self._do(self.catalog.remove, lost)


def new_entry(stored: StoredObject) -> NewEntry:
    """What the disk says of an object, for the catalog."""
    return NewEntry(stored.name, stored.path, stored.version.size, stored.on_disk, stored.stored)


def _lock_path(root: str) -> str:
    return os.path.join(root, "catalog.lock")


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


# In the catalog's thread, as SQLite demands:


def open_catalog(path: str, config: CacheConfig, limit: int, alone: bool, boot: str) -> Catalog:
    """What is there, else a new one, made by one process while the others wait for it."""

    def attempt(*, make: bool = False) -> Catalog:
        size = config.size
        catalog = Catalog.open(
            path,
            policy=config.policy,
            capacity=limit,
            alone=alone,
            size=size,
            make=make,
            boot=boot,
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
            lock = take_lock(_lock_path(os.path.dirname(path)))
            if lock < 0 and time.monotonic() > end:
                raise
        if lock < 0:
            _sleep(_ELECTION_INTERVAL)
            continue
        try:
            return attempt()  # another one may have made it
        except CatalogReplaced:
            return attempt(make=True)
        except CatalogCorrupt as error:
            log.warning("catalog is broken, begun anew kept=%r error=%s", set_aside(path), error)
            return attempt(make=True)
        finally:
            os.close(lock)


def _run(
    catalog: Catalog, function: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Any, Totals]:
    """The answer, and the totals after it; once more if another file was in place."""
    try:
        with translated(catalog.database.path):
            try:
                answer = function(*args)
            except CatalogReplaced:
                catalog.reopen()
                answer = function(*args)
    except CatalogCorrupt as error:
        error.id = catalog.database.state.id
        raise
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        # A mistake of ours, or rows that we did not write?
        if not catalog.database.has_odd_rows():
            raise
        corrupt = CatalogCorrupt(f"{catalog.database.path}: odd rows ({error})")
        corrupt.id = catalog.database.state.id
        raise corrupt from error
    return answer, catalog.account.totals


def _renew(catalog: Catalog, broken: int, size: int) -> None:
    """With the lock: go over to the catalog that is there, or make one where it must be.

    ``broken``: the id of the one that was found to be.
    """
    database = catalog.database
    if not (broken and broken == database.state.id and database.current):
        try:
            catalog.reopen()
            return
        except (CatalogCorrupt, CatalogReplaced) as error:
            log.warning("catalog is lost or broken error=%s", error)
    log.warning("catalog is begun anew kept=%r", catalog.replace(size=size))
