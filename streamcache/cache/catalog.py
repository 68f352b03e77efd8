"""The catalog: which objects are in the cache, what they take, and in which order they go. SQLite.

Threads: every method of one `Catalog` runs in one and the same worker thread, `open` too; SQLite
refuses any other. Several processes share the file. The disk is the truth (I7): a lost or damaged
catalog costs the order of eviction and a rebuild in the background, never an object.

Totals are written in the transaction that changes the rows, so that usage is O(1) and right after a
SIGKILL. After a power cut the last seconds may be missing (`synchronous=NORMAL`), nothing worse.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from streamcache.cache.account import Account
from streamcache.cache.database import (
    CatalogReplaced,
    Database,
    State,
    create,
    set_aside,
    translated,
)
from streamcache.cache.entry import ENTRY, Entry, NewEntry, Victim
from streamcache.cache.names import encoded
from streamcache.cache.pins import PinTable
from streamcache.cache.policy import POLICIES, Policy, PolicyName
from streamcache.cache.queues import pack, unpack
from streamcache.errors import CacheInUse
from streamcache.units import format_size


class Catalog:
    """An open catalog. Made by `open`."""

    def __init__(
        self, database: Database, policy: PolicyName, capacity: int, *, boot: str = ""
    ) -> None:
        self.database = database
        self.account = Account(database)
        self.pins = PinTable(database)
        self._capacity = capacity
        self._policy_name = policy
        self._boot = boot
        self._take_over(alone=True)

    def __repr__(self) -> str:
        return f"<Catalog {self.database.path} policy={self._policy_name}>"

    @classmethod
    def open(
        cls,
        path: str,
        *,
        policy: PolicyName = "s3fifo",
        capacity: int,
        alone: bool = True,
        size: int = 0,
        make: bool = True,
        boot: str = "",
    ) -> Catalog:
        """Open the catalog at `path`, or `make` one; `capacity` is the size of the cache in bytes.

        Another `policy` than before takes all objects over in the order of their last use, if no
        other process has it open (`alone`); else it is refused with CacheError. A new one records
        `size`, see `agree`. One of another `boot` of the machine is not `complete`: a power cut may
        have taken its last transactions, and kept what they were about. Raises CatalogCorrupt
        (damaged, foreign) and CatalogError (not readable or writable, not there).
        """
        if make and path != ":memory:" and not os.path.exists(path):
            create(path, policy=policy, size=size, boot=boot)
        database = Database(path)
        try:
            if not alone and database.state.policy != policy:
                raise CacheInUse(
                    f"cache.policy = {policy}: the cache directory is shared with a server that"
                    f" has {database.state.policy}; allowed: {database.state.policy}"
                )
            if alone and boot:
                database.take_up(boot)
            return cls(database, policy, capacity, boot=boot)
        except BaseException:
            database.close()
            raise

    def reopen(self) -> None:
        """Go over to the file that is there now: another process has replaced it.

        Raises CatalogError, also when there is none.
        """
        self.database.reopen()
        self._take_over()

    def replace(self, *, size: int) -> str:
        """Set this file aside, make an empty one and go over to it; returns where the old one is.

        Raises CatalogError, OSError.
        """
        aside = set_aside(self.database.path)
        create(self.database.path, policy=self._policy_name, size=size, boot=self._boot)
        self.reopen()
        return aside

    def _take_over(self, *, alone: bool = False) -> None:
        queues, name = self.database.queues, self._policy_name
        self._policy: Policy = POLICIES[name](queues, self._capacity)
        if self.database.state.policy == name or not alone:
            return
        with self.database.transaction() as state:
            queues.refill(
                self._policy.home,
                "SELECT name, blocks AS size FROM objects WHERE NOT EXISTS"
                " (SELECT 1 FROM pins WHERE key = substr(name, 1, 16)) ORDER BY used, name",
            )
            self._execute("UPDATE objects SET leaving = 0 WHERE leaving = 1")
            state.policy = name

    def agree(self, size: int, *, alone: bool) -> int:
        """The size of the cache that all who share it have, in bytes; 0: none was said yet.

        `alone`, this one says it. Else `size` must be the same, or 0. Raises CacheError.
        """
        with self.database.transaction() as state:
            if size and (alone or not state.size):
                state.size = size
            elif size not in (0, state.size):
                ours, theirs = format_size(size), format_size(state.size)
                raise CacheInUse(
                    f"cache.size = {ours}: the cache directory is shared with a server that has"
                    f" {theirs}; allowed: {theirs}"
                )
            return state.size

    def close(self) -> None:
        """Close the file; idempotent."""
        self.database.close()

    @property
    def complete(self) -> bool:
        """False from birth until `set_complete`: objects on disk may have no row yet."""
        return bool(self.database.look().complete)

    def set_complete(self, id: int | None = None) -> None:
        """All that is on disk has rows now: the rebuild is done (also after a SIGKILL).

        Raises CatalogReplaced if the catalog is not the one of that `id`, which was filled.
        """
        with self.database.transaction() as state:
            if id not in (None, state.id):
                raise CatalogReplaced(f"{self.database.path}: replaced while it was filled")
            state.complete = 1

    def probe(self) -> None:
        """Raises CatalogError when nothing can be written now."""
        with self.database.transaction() as state:
            state.generation += 1

    def usage(self) -> tuple[int, int]:
        """Bytes on disk and number of all objects; O(1)."""
        state = self.database.look()
        return state.objects, state.count

    def add(self, new: NewEntry | Iterable[NewEntry]) -> int:
        """Enter objects, in one transaction; returns the bytes of those they replaced (same name).

        Their reservations end. Idempotent: one that is there already keeps its place, hits and
        creation, and its path if the new one is not known ("").
        """
        entries = (new,) if isinstance(new, NewEntry) else new
        replaced = 0
        with self.database.transaction() as state:
            for entry in entries:
                replaced += self._add(state, entry)
        return replaced

    def trashed(self, name: str, file: str, on_disk: int) -> None:
        """The object was renamed to `file` in trash/, where its `on_disk` bytes count on."""
        with self.database.transaction() as state:
            self._remove(state, (name,), "")
            self.account.put_trash(state, file, on_disk)

    def touch(self, counts: Mapping[str, int], now: float) -> None:
        """Count uses of objects, {name: how many}; unknown names are ignored."""
        with self.database.transaction():
            for name, count in counts.items():
                self._execute(
                    "UPDATE objects SET used = max(used, ?), hits = hits + ? WHERE name = ?",
                    (now, count, pack(name)),
                )
                self._policy.touch(name, count)

    def victims(
        self, need: int, *, held: Collection[str] = (), limit: int = 64, batch: int = 1 << 30
    ) -> list[Victim]:
        """Decide which objects go next so that `need` bytes become free.

        One answer has at most `limit` objects and about `batch` bytes; it is [] when all that is
        left is in `held`. Victims stay in the catalog, marked, until `remove_victims`. One that was
        not removed is offered again by the next call, or is put back if it is held by then.
        """
        chosen: list[Victim] = []
        missing = min(need, batch)
        with self.database.transaction():
            rows = self._execute("SELECT name, blocks FROM objects WHERE leaving = 1").fetchall()
            # The order of eviction sees the cache at the size it will have after this round, so the
            # shares of its queues come out right also when partials and pins take a part of it.
            evictable = sum(map(self.database.queues.size, self._policy.resident))
            evictable += sum(on_disk for _, on_disk in rows)
            self._policy.capacity = max(1, evictable - need)
            for packed, on_disk in rows:
                name = unpack(packed)
                if name in held or self.pins.has(name):
                    self._rejoin(name, on_disk)
                elif missing > 0 and len(chosen) < limit:
                    chosen.append(Victim(name, on_disk))
                    missing -= on_disk
            while missing > 0 and len(chosen) < limit and (item := self._policy.evict(held)):
                chosen.append(Victim(item.name, item.size))
                missing -= item.size
                self._execute("UPDATE objects SET leaving = 1 WHERE name = ?", (pack(item.name),))
        return chosen

    def remove(self, names: Iterable[str]) -> int:
        """Delete the rows of objects that are gone from objects/; returns the bytes they had.

        Unknown names count nothing, so whoever comes second subtracts nothing.
        """
        with self.database.transaction() as state:
            return self._remove(state, names, "")

    def entries_of(self, names: Iterable[str]) -> list[Entry]:
        """What is known of these, without those that are not there."""
        with translated(self.database.path):
            found = [self.get(name) for name in names]
        return [entry for entry in found if entry is not None]

    def choose(self, names: Iterable[str]) -> None:
        """These go now, whatever the order says: victims, until `remove_victims`."""
        with self.database.transaction():
            for name in names:
                self._policy.discard(name)
                self._execute("UPDATE objects SET leaving = 1 WHERE name = ?", (pack(name),))

    def remove_victims(self, names: Iterable[str]) -> int:
        """As `remove`, for what `victims` answered: one that was added anew since then stays."""
        with self.database.transaction() as state:
            return self._remove(state, names, "AND leaving = 1")

    def leaving(self) -> list[str]:
        """Victims that were not removed: the last process may have ended in between."""
        with translated(self.database.path):
            rows = self._execute("SELECT name FROM objects WHERE leaving = 1").fetchall()
        return [unpack(name) for (name,) in rows]

    def get(self, name: str) -> Entry | None:
        """The object of that name."""
        with translated(self.database.path):
            row = self._execute(f"{ENTRY} WHERE name = ?", (pack(name),)).fetchone()
        return None if row is None else Entry.of(row)

    def names(self, after: str = "", limit: int = 1000) -> list[str]:
        """Names of objects, in their order: the page after `after`; [] behind the last one."""
        with translated(self.database.path):
            rows = self._execute(
                "SELECT name FROM objects WHERE name > ? ORDER BY name LIMIT ?",
                (pack(after) if after else b"", limit),
            ).fetchall()
        return [unpack(name) for (name,) in rows]

    def pin(self, pins: Mapping[str, str]) -> int:
        """{key: path} are pinned from now on; the number of objects that this keeps.

        They leave the order of eviction. One that was chosen to go just now still goes.
        """
        kept = 0
        with self.database.transaction():
            for key, path in pins.items():
                self.pins.put(key, path)
                for name, _ in self.pins.objects(key):
                    self._policy.discard(unpack(name))
                    kept += 1
        return kept

    def unpin(self, keys: Iterable[str]) -> int:
        """These keys are not; the number of objects that may be evicted again."""
        freed = 0
        with self.database.transaction():
            for key in keys:
                if not self.pins.has(key):
                    continue
                self.pins.drop(key)
                for name, on_disk in self.pins.objects(key):
                    self._policy.discard(unpack(name))
                    self._insert(unpack(name), on_disk)
                    freed += 1
        return freed

    def _add(self, state: State, new: NewEntry) -> int:
        packed, path = pack(new.name), encoded(new.path)
        before = self._execute(
            "SELECT blocks, leaving, path FROM objects WHERE name = ?", (packed,)
        ).fetchone()
        if before is None:
            self._execute(
                "INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, 0, 0)",
                (packed, path, new.size, new.on_disk, new.created, new.created),
            )
            state.count += 1
        else:
            self._execute(
                "UPDATE objects SET path = ?, size = ?, blocks = ?, leaving = 0 WHERE name = ?",
                (path or before[2], new.size, new.on_disk, packed),
            )
        replaced: int = before[0] if before else 0
        state.objects += new.on_disk - replaced
        self.account.end_reservation(state, new.name)
        if before is None or before[:2] != (new.on_disk, 0):
            self._policy.discard(new.name)
            self._insert(new.name, new.on_disk)
        return replaced

    def _remove(self, state: State, names: Iterable[str], condition: str) -> int:
        freed = 0
        for name in names:
            row = self._execute(
                f"DELETE FROM objects WHERE name = ? {condition} RETURNING blocks",
                (pack(name),),
            ).fetchone()
            if row is not None:
                self._policy.discard(name)
                state.objects -= row[0]
                state.count -= 1
                freed += row[0]
        return freed

    def _rejoin(self, name: str, on_disk: int) -> None:
        """Put an object that should have gone, and is in use, back among the others."""
        self._execute("UPDATE objects SET leaving = 0 WHERE name = ?", (pack(name),))
        self._insert(name, on_disk)

    def _insert(self, name: str, on_disk: int) -> None:
        """Give it its place in the order of eviction; a pinned one has none."""
        recalled = self._policy.recall(name)
        if not self.pins.has(name):
            self._policy.insert(name, on_disk, recalled=recalled)

    def _execute(self, statement: str, args: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        return self.database.db.execute(statement, args)
