"""What dead processes left behind: partials nobody settled, objects in no catalog, trash.

Hub's thread. Who is alive is told by locks, so this may run at any time beside other processes;
one of them at a time does (the Evictor's election). Also the way to room: partials that no session
works on go before any object, and trash that nobody reads before them.
"""

from __future__ import annotations

import logging

from streamcache.cache.account import Reserved
from streamcache.cache.ledger import Ledger
from streamcache.cache.locks import KeyLocks
from streamcache.cache.names import key_of
from streamcache.cache.objects import Objects
from streamcache.cache.partials import Idle, Leftover
from streamcache.cache.space import Space
from streamcache.cache.store import Store
from streamcache.cache.workers import WorkerPool
from streamcache.errors import CacheError

log = logging.getLogger(__name__)


class Recovery:
    """Looks through partial/ and trash/ of one cache directory."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        space: Space,
        objects: Objects,
        keys: KeyLocks,
        disk: WorkerPool,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._space = space
        self._objects = objects
        self._keys = keys
        self._disk = disk
        self._settled: dict[str, int] = {}  # partials that are in order -> their generation

    def __repr__(self) -> str:
        return f"<Recovery settled={len(self._settled)}>"

    def sweep(self) -> None:
        """Settle whatever has no owner. Switches. Raises OSError, CacheError."""
        if not self._space.known:
            return  # the reservations are being entered
        rows = {row.name: row for row in self._ledger.reservations()}
        self._settled = {
            name: row.generation
            for name, row in rows.items()
            if self._settled.get(name) == row.generation
        }
        names = set(self._disk.call(self._store.partials.names))
        for name in sorted({*names, *rows} - set(self._settled)):
            lock = self._keys.try_acquire(key_of(name))
            if lock is not None:
                with lock:
                    self._settle(name, rows.get(name))
        self._sweep_trash()

    def drop_oldest(self, need: int) -> int:
        """Drop partials without a session until ``need`` bytes are free; the bytes freed.

        The oldest go first. What of trash/ nobody reads any more is room, too: a purged partial is
        there until its session has ended. Switches. Raises OSError, CacheError.
        """
        need -= self._empty_trash()
        freed = 0
        for row in self._ledger.reservations():
            if freed >= need:
                break
            lock = self._keys.try_acquire(key_of(row.name))
            if lock is None:
                continue
            with lock:
                idle = self._disk.call(self._store.partials.look, row.name)
                if self._enter_published(row.name, idle):
                    continue
                if self._disk.call(self._store.partials.remove, row.name) == 0:
                    self._space.settle(row.name, row.generation, 0)
                    freed += row.bytes
                    log.info("partial dropped path=%r name=%s", _shown(idle), row.name)
        return freed

    def _settle(self, name: str, row: Reserved | None) -> None:
        """Its reservation, ``row``, becomes what it takes on disk, unless it is worked on."""
        idle = self._disk.call(self._store.partials.look, name)
        if self._enter_published(name, idle):
            return
        generation = self._space.generation(name)
        if not (generation or self._space.known):
            return  # the catalog was replaced just now: it will be entered
        # In no account: we cannot tell what room it has, so it cannot stay.
        folder = self._store.partials
        on_disk = self._disk.call(folder.settle if generation else folder.remove, name)
        if on_disk is None or not generation:
            return
        if row is not None and (row.bytes, row.generation) == (on_disk, generation):
            self._settled[name] = generation
        else:
            self._space.settle(name, generation, on_disk)
            log.info("partial settled path=%r name=%s bytes=%d", _shown(idle), name, on_disk)

    def _enter_published(self, name: str, idle: Idle | None) -> bool:
        """An object that was published, and whose process ended before the catalog knew."""
        if idle is None or idle.kind is not Leftover.JOURNAL:
            return False
        found = self._disk.call(self._store.objects.find, name)
        if found is None:
            return False
        self._ledger.add(name, idle.path, found.version.size, found.on_disk)
        self._disk.call(self._store.partials.drop_map, name)
        log.info("object entered path=%r name=%s", _shown(idle), name)
        return True

    def _empty_trash(self) -> int:
        """The bytes that this frees. Switches."""
        before = self._space.trash
        if before:
            try:
                self._sweep_trash()
            except (OSError, CacheError) as error:  # there are other ways to room
                log.warning("trash not emptied error=%s", error)
        return max(0, before - self._space.trash)

    def _sweep_trash(self) -> None:
        files = [file for file, _ in self._disk.call(self._store.objects.trash)]
        self._objects.empty_trash(sorted({*files, *(row.file for row in self._ledger.trash())}))


def _shown(idle: Idle | None) -> str:
    """Its path as clients have it; "-": its map does not say."""
    return f"/{idle.path}" if idle is not None and idle.path else "-"
