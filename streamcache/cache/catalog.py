"""The catalog: which objects are in the cache, what they take, and in which order they go. SQLite.

Threads: every method of one `Catalog` runs in one and the same worker thread, `open` too; SQLite
refuses any other. The disk is the truth (I7): a lost or damaged catalog costs the order of eviction
and a rebuild in the background, never an object. Partials have no rows: their map files are theirs.

Totals are written in the transaction that changes the rows, so that usage is O(1) and right after a
SIGKILL. After a power cut the last seconds may be missing (`synchronous=NORMAL`), nothing worse.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from streamcache.cache.policy import POLICIES, PolicyName
from streamcache.cache.queues import SCHEMA as QUEUE_SCHEMA
from streamcache.cache.queues import SqliteQueues, pack, unpack
from streamcache.errors import CacheError

APPLICATION_ID: Final = 0x5343_6174  # "SCat", in the file's header
FORMAT: Final = 1  # user_version; any other is a foreign schema
PAGE_CACHE: Final = 32 * 1024  # KiB of pages held in memory
OBJECTS: Final = "objects"  # the name of the objects' own row among the totals

_SCHEMA = (
    *QUEUE_SCHEMA,
    """CREATE TABLE objects (
        name BLOB PRIMARY KEY, path BLOB NOT NULL, size INTEGER NOT NULL, blocks INTEGER NOT NULL,
        created REAL NOT NULL, used REAL NOT NULL, hits INTEGER NOT NULL, leaving INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX objects_by_path ON objects (path, name)",
    "CREATE INDEX objects_leaving ON objects (leaving) WHERE leaving = 1",
    """CREATE TABLE state (
        id INTEGER PRIMARY KEY, policy TEXT NOT NULL, complete INTEGER NOT NULL,
        bytes INTEGER NOT NULL, count INTEGER NOT NULL
    )""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
_ENTRY = "SELECT name, path, size, blocks, created, used, hits FROM objects"
# Our statements are fixed: an "SQL error" is another schema, a violated constraint false rows.
_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
    }
)
_TOP: Final = b"\xff" * 4096  # PATH_MAX: no path sorts after a prefix of it and this
_SUFFIXES: Final = ("", "-wal", "-shm")


class CatalogError(CacheError):
    """The catalog could not be read or written now (disk full, I/O error, locked)."""


class CatalogCorrupt(CatalogError):
    """The file is damaged or not a catalog of this format: `set_aside` it and rebuild."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of the cache.

    `name` is "<key>.<version>", `blocks` the bytes it takes on disk (st_blocks * 512), `created`
    and `used` are seconds since the epoch, `hits` its touches.
    """

    name: str
    path: str
    size: int
    blocks: int
    created: float
    used: float
    hits: int

    @property
    def key(self) -> str:
        return self.name[:32]


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What `Catalog.add` needs to know of an object; times in seconds since the epoch."""

    name: str
    path: str
    size: int
    blocks: int
    created: float


@dataclass(frozen=True, slots=True)
class Victim:
    """An object that should go, and the bytes it takes on disk."""

    name: str
    blocks: int


class Catalog:
    """An open catalog. Made by `open`."""

    def __init__(
        self, path: str, db: sqlite3.Connection, policy: PolicyName, capacity: int
    ) -> None:
        self._path = path
        self._db = db
        self._queues = SqliteQueues(db)
        self._policy = POLICIES[policy](self._queues, capacity)
        self._policy_name = policy

    def __repr__(self) -> str:
        return f"<Catalog {self._path} policy={self._policy_name}>"

    @classmethod
    def open(cls, path: str, *, policy: PolicyName = "s3fifo", capacity: int) -> Catalog:
        """Open or make the catalog at `path`; `capacity` is the size of the cache in bytes.

        Another `policy` than before takes all objects over in the order of their last use.
        Raises CatalogCorrupt (damaged, foreign) and CatalogError (not readable or writable).
        """
        with _translated(path):
            db = sqlite3.connect(path, timeout=5.0, isolation_level=None)
        try:
            with _translated(path):
                catalog = cls(path, db, policy, capacity)
                catalog._prepare()
        except BaseException:
            db.close()
            raise
        return catalog

    def close(self) -> None:
        """Close the file; idempotent."""
        self._db.close()

    @property
    def complete(self) -> bool:
        """False from birth until `set_complete`: objects on disk may have no row yet."""
        with _translated(self._path):
            return bool(self._db.execute("SELECT complete FROM state").fetchone()[0])

    def set_complete(self) -> None:
        """All objects on disk have rows now: the rebuild is done (also after a SIGKILL)."""
        with self._transaction():
            self._db.execute("UPDATE state SET complete = 1")

    def usage(self) -> tuple[int, int]:
        """Bytes on disk and number of all objects; O(1)."""
        with _translated(self._path):
            size, count = self._db.execute("SELECT bytes, count FROM state").fetchone()
        return size, count

    def add(self, new: NewEntry | Iterable[NewEntry]) -> int:
        """Enter objects, in one transaction; returns the bytes of those they replaced (same name).

        Idempotent: one that is there already keeps its place, hits and creation.
        """
        entries = (new,) if isinstance(new, NewEntry) else new
        replaced = 0
        with self._transaction():
            for entry in entries:
                replaced += self._add(entry)
        return replaced

    def touch(self, counts: Mapping[str, int], now: float) -> None:
        """Count uses of objects, {name: how many}; unknown names are ignored."""
        with self._transaction():
            for name, count in counts.items():
                self._db.execute(
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
        with self._transaction():
            # The order of eviction sees the cache at the size it will have after this round, so the
            # shares of its queues come out right also when partials take a part of the disk.
            size = self._db.execute("SELECT bytes FROM state").fetchone()[0]
            self._policy.capacity = max(1, size - need)
            rows = self._db.execute("SELECT name, blocks FROM objects WHERE leaving = 1").fetchall()
            for packed, blocks in rows:
                name = unpack(packed)
                if name in held:
                    self._rejoin(name, blocks)
                elif missing > 0 and len(chosen) < limit:
                    chosen.append(Victim(name, blocks))
                    missing -= blocks
            while missing > 0 and len(chosen) < limit and (item := self._policy.evict(held)):
                chosen.append(Victim(item.name, item.size))
                missing -= item.size
                self._db.execute(
                    "UPDATE objects SET leaving = 1 WHERE name = ?", (pack(item.name),)
                )
        return chosen

    def remove(self, names: Iterable[str]) -> int:
        """Delete the rows of objects that are gone from objects/; returns the bytes they had.

        Unknown names count nothing, so whoever comes second subtracts nothing.
        """
        return self._remove(names, "")

    def remove_victims(self, names: Iterable[str]) -> int:
        """As `remove`, for what `victims` answered: one that was added anew since then stays."""
        return self._remove(names, "AND leaving = 1")

    def leaving(self) -> list[str]:
        """Victims that were not removed: the last process may have ended in between."""
        with _translated(self._path):
            rows = self._db.execute("SELECT name FROM objects WHERE leaving = 1").fetchall()
        return [unpack(name) for (name,) in rows]

    def get(self, name: str) -> Entry | None:
        """The object of that name."""
        return self._one(f"{_ENTRY} WHERE name = ?", (pack(name),))

    def newest(self, key: str) -> Entry | None:
        """The version of `key` that was made last: what is served while the source is down."""
        prefix = bytes.fromhex(key)
        return self._one(
            f"{_ENTRY} WHERE name BETWEEN ? AND ? ORDER BY leaving, created DESC LIMIT 1",
            (prefix + bytes(16), prefix + b"\xff" * 16),
        )

    def entries(
        self, *, prefix: str = "", after: Entry | None = None, limit: int = 100
    ) -> list[Entry]:
        """Objects whose path begins with `prefix`, by path and name: the page after `after`."""
        start = _encode(prefix)
        begin = (start, b"") if after is None else (_encode(after.path), pack(after.name))
        with _translated(self._path):
            rows = self._db.execute(
                f"{_ENTRY} WHERE (path, name) > (?, ?) AND path BETWEEN ? AND ?"
                " ORDER BY path, name LIMIT ?",
                (*begin, start, start + _TOP, limit),
            ).fetchall()
        return [_entry(row) for row in rows]

    def _one(self, query: str, args: tuple[Any, ...]) -> Entry | None:
        with _translated(self._path):
            row = self._db.execute(query, args).fetchone()
        return None if row is None else _entry(row)

    def _add(self, new: NewEntry) -> int:
        packed, path = pack(new.name), _encode(new.path)
        before = self._db.execute(
            "SELECT blocks, leaving FROM objects WHERE name = ?", (packed,)
        ).fetchone()
        if before is None:
            self._db.execute(
                "INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, 0, 0)",
                (packed, path, new.size, new.blocks, new.created, new.created),
            )
            self._total(new.blocks, 1)
        else:
            self._db.execute(
                "UPDATE objects SET path = ?, size = ?, blocks = ?, leaving = 0 WHERE name = ?",
                (path, new.size, new.blocks, packed),
            )
            self._total(new.blocks - before[0], 0)
        if before != (new.blocks, 0):
            self._policy.discard(new.name)
            self._policy.insert(new.name, new.blocks, recalled=self._policy.recall(new.name))
        return before[0] if before else 0

    def _remove(self, names: Iterable[str], condition: str) -> int:
        freed = 0
        with self._transaction():
            for name in names:
                row = self._db.execute(
                    f"DELETE FROM objects WHERE name = ? {condition} RETURNING blocks",
                    (pack(name),),
                ).fetchone()
                if row is not None:
                    self._policy.discard(name)
                    self._total(-row[0], -1)
                    freed += row[0]
        return freed

    def _rejoin(self, name: str, blocks: int) -> None:
        """Put an object that should have gone, and is in use, back among the others."""
        self._db.execute("UPDATE objects SET leaving = 0 WHERE name = ?", (pack(name),))
        self._policy.insert(name, blocks, recalled=self._policy.recall(name))

    def _total(self, size: int, count: int) -> None:
        self._db.execute("UPDATE state SET bytes = bytes + ?, count = count + ?", (size, count))

    def _prepare(self) -> None:
        application = self._pragma("application_id")
        version = self._pragma("user_version")
        empty = not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, version) != (APPLICATION_ID, FORMAT) and not (empty and not application):
            raise CatalogCorrupt(f"{self._path}: no catalog of format {FORMAT}")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA cache_size = -{PAGE_CACHE}")
        self._db.execute("PRAGMA journal_size_limit = 67108864")
        self._db.execute("BEGIN IMMEDIATE")
        if empty:
            for statement in _SCHEMA:
                self._db.execute(statement)
            self._db.execute("INSERT INTO state VALUES (1, ?, 0, 0, 0)", (self._policy_name,))
        before = self._db.execute("SELECT policy FROM state").fetchone()
        if before is None:
            raise CatalogCorrupt(f"{self._path}: no state")
        if before != (self._policy_name,):
            self._queues.load()
            self._queues.refill(
                self._policy.home, "SELECT name, blocks AS size FROM objects ORDER BY used, name"
            )
            self._queues.save()
            self._db.execute("UPDATE objects SET leaving = 0 WHERE leaving = 1")
            self._db.execute("UPDATE state SET policy = ?", (self._policy_name,))
        self._db.execute("COMMIT")

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._queues.load()
                yield
                self._queues.save()
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise


def set_aside(path: str) -> str:
    """Rename the closed catalog at `path`, with its journal, so that a new one can be made there.

    A journal left behind would be replayed into the new file. Returns the new name, which replaces
    the one set aside before. Runs in a worker thread; raises OSError.
    """
    aside = f"{path}.corrupt"
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            os.unlink(aside + suffix)
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            os.rename(path + suffix, aside + suffix)
    return aside


def _entry(row: tuple[bytes, bytes, int, int, float, float, int]) -> Entry:
    name, path, size, blocks, created, used, hits = row
    text = path.decode("utf-8", "surrogateescape")
    return Entry(unpack(name), text, size, blocks, created, used, hits)


def _encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """SQLite's errors as ours: damage means a rebuild, all others may pass."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind = CatalogCorrupt if code in _DAMAGE else CatalogError
        raise kind(f"{path}: {error}") from error
