"""The catalog's file: where it lies, its transactions, and when it is no longer the right one.

Threads: all of one `Database` in one and the same worker thread; SQLite refuses any other.
Processes: several have the file open at once (WAL). Totals and queues are kept in memory between
transactions and read again when another connection has written.

`catalog.sqlite` is a link to a file with a name of its own, "catalog-<hex>.sqlite". A replacement
makes a new file and renames a new link over the old one. So who still has the old file open keeps
its own journal: SQLite finds journals by name, and the last one to close a file removes the journal
of that name, which must not be the one of the new file.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from streamcache.cache.queues import SCHEMA as QUEUE_SCHEMA
from streamcache.cache.queues import SqliteQueues
from streamcache.errors import CacheError

APPLICATION_ID: Final = 0x5343_6174  # "SCat", in the file's header
FORMAT: Final = 2  # user_version; any other is a foreign schema
PAGE_CACHE: Final = 32 * 1024  # KiB of pages held in memory
NAME_BYTES: Final = 32  # of an object's name, packed
_MOST: Final = 1 << 62  # of any number in a row
BUSY: Final = 5.0  # s that a transaction waits for another process's

# Came with a later version, and one that knows nothing of it goes on with the same file.
_PINS: Final = (
    "CREATE TABLE IF NOT EXISTS pins (key BLOB PRIMARY KEY, path BLOB NOT NULL) WITHOUT ROWID"
)
# Likewise. Of the machine, when the catalog was last made sure to say what is on the disk.
_BOOT = "CREATE TABLE IF NOT EXISTS boot (row INTEGER PRIMARY KEY, id TEXT NOT NULL)"
# "blocks" are bytes on disk; the name of the column stays, as caches of 0.2.0 have it.
_SCHEMA = (
    *QUEUE_SCHEMA,
    _PINS,
    _BOOT,
    """CREATE TABLE objects (
        name BLOB PRIMARY KEY, path BLOB NOT NULL, size INTEGER NOT NULL, blocks INTEGER NOT NULL,
        created REAL NOT NULL, used REAL NOT NULL, hits INTEGER NOT NULL, leaving INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX objects_by_path ON objects (path, name)",
    "CREATE INDEX objects_leaving ON objects (leaving) WHERE leaving = 1",
    """CREATE TABLE reservations (
        name BLOB PRIMARY KEY, bytes INTEGER NOT NULL, generation INTEGER NOT NULL,
        used REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX reservations_by_use ON reservations (used, name)",
    "CREATE TABLE trash (file TEXT PRIMARY KEY, blocks INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE state (
        row INTEGER PRIMARY KEY, id INTEGER NOT NULL, policy TEXT NOT NULL, size INTEGER NOT NULL,
        complete INTEGER NOT NULL, objects INTEGER NOT NULL, count INTEGER NOT NULL,
        reserved INTEGER NOT NULL, trash INTEGER NOT NULL, generation INTEGER NOT NULL
    )""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
_STATE = "SELECT id, policy, size, complete, objects, count, reserved, trash, generation FROM state"
_SAVE = (
    "UPDATE state SET id = ?, policy = ?, size = ?, complete = ?, objects = ?, count = ?,"
    " reserved = ?, trash = ?, generation = ?"
)
# Our statements are fixed: an "SQL error" is another schema, a violated constraint false rows.
_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
    }
)
_SUFFIXES: Final = ("", "-wal", "-shm")
_OWN_NAME: Final = re.compile(r"-[0-9a-f]{12}\.sqlite(-wal|-shm|\.link)?\Z")


class CatalogError(CacheError):
    """The catalog could not be read or written now (disk full, I/O error, locked)."""


class CatalogCorrupt(CatalogError):
    """The file is damaged or not a catalog of this format: `set_aside` it and rebuild."""

    id = 0  # of the catalog, where it was open already


class CatalogLate(CatalogError):
    """No answer in time: what was asked for may be done still."""


class CatalogReplaced(CatalogError):
    """Another file is in its place now, or none: nothing was written. `reopen`, do it again."""


@dataclass(slots=True)
class State:
    """The row of totals. Sizes in bytes."""

    id: int  # of this file: a replacement has another one
    policy: str
    size: int  # of the cache, as all who share it agreed; 0: not yet
    complete: int  # 0 until all objects on disk have rows
    objects: int
    count: int  # of objects
    reserved: int
    trash: int
    generation: int  # the last one given to a reservation

    @property
    def used(self) -> int:
        """Bytes of all kinds."""
        return self.objects + self.reserved + self.trash

    def row(self) -> tuple[object, ...]:
        """As it is stored."""
        return (
            self.id,
            self.policy,
            self.size,
            self.complete,
            self.objects,
            self.count,
            self.reserved,
            self.trash,
            self.generation,
        )


class Database:
    """The open file."""

    def __init__(self, path: str) -> None:
        """Opens what is at `path` (":memory:" makes one).

        Raises CatalogReplaced (nothing is there), CatalogCorrupt, CatalogError.
        """
        self.path = path
        self._open()

    def __repr__(self) -> str:
        return f"<Database {self.path}>"

    def _open(self) -> None:
        place = None
        real = self.path
        if self.path != ":memory:":
            real = os.path.realpath(self.path)
            try:
                status = os.stat(real)
            except OSError as error:
                raise CatalogReplaced(f"{self.path}: {error.strerror}") from error
            place = (status.st_dev, status.st_ino)
        with translated(self.path):
            # Not by URI: a path may have any character. It exists, so nothing is made here.
            db = sqlite3.connect(real, timeout=BUSY, isolation_level=None)
        try:
            with translated(self.path):
                if self.path == ":memory:":
                    _fill(db, "s3fifo", 0, "")
                state = self._prepare(db)
        except BaseException:
            db.close()
            raise
        self.db, self.state, self.queues = db, state, SqliteQueues(db)
        self._place = place
        self._version: int | None = None  # of the data that is in memory; None: read it all

    def _prepare(self, db: sqlite3.Connection) -> State:
        found = (_pragma(db, "application_id"), _pragma(db, "user_version"))
        if found != (APPLICATION_ID, FORMAT):
            raise CatalogCorrupt(f"{self.path}: no catalog of format {FORMAT}")
        db.execute(_PINS)
        db.execute(_BOOT)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA cache_size = -{PAGE_CACHE}")
        db.execute("PRAGMA journal_size_limit = 67108864")
        return self._read_state(db)

    def close(self) -> None:
        """Idempotent."""
        self.db.close()

    def reopen(self) -> None:
        """Go over to the file that is at the path now. Raises as the constructor does."""
        before = self.db
        self._open()
        before.close()

    @property
    def current(self) -> bool:
        """Whether the open file is the one at the path."""
        if self._place is None:
            return True
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._place

    def look(self) -> State:
        """The totals now, also those that others wrote. Raises CatalogReplaced, CatalogError."""
        self._check_place()
        with translated(self.path):
            self.state = self._read_state(self.db)
        return self.state

    @contextmanager
    def transaction(self) -> Iterator[State]:
        """Changes of rows, queues and state, all or none. Raises CatalogReplaced, CatalogError.

        The one writer at a time over all processes, so what is read in here is true until the end.
        """
        with translated(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                # A rename after this look is one after the commit: what a rebuild then finds on
                # the disk has all that was there before this call.
                self._check_place()
                before = self._load()
                yield self.state
                self.queues.save()
                if (after := self.state.row()) != before:
                    self.db.execute(_SAVE, after)
                self.db.execute("COMMIT")
            except BaseException:
                self._version = None
                with suppress(sqlite3.Error):
                    self.db.execute("ROLLBACK")
                raise

    def take_up(self, boot: str) -> None:
        """The machine's ``boot``: what another one left is not `complete`, as a power cut may have
        taken its last transactions and kept what they were about. Raises CatalogError.
        """
        with self.transaction() as state:
            if self.db.execute("SELECT id FROM boot").fetchone() != (boot,):
                state.complete = 0
                self.db.execute("REPLACE INTO boot VALUES (1, ?)", (boot,))

    def has_odd_rows(self) -> bool:
        """Whether a row holds what we never wrote: SQLite takes any value in any column.

        Reads every table, so ask only when what was read has made no sense.
        """
        with translated(self.path):
            tables = self.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return any(self._is_odd(name) for (name,) in tables.fetchall())

    def _is_odd(self, table: str) -> bool:
        tests = []
        for _, column, kind, *_ in self.db.execute(f'PRAGMA table_info("{table}")').fetchall():
            tests.append(f"typeof({column}) != '{kind.lower()}'")
            if kind == "BLOB" and column == "name":
                tests.append(f"length({column}) != {NAME_BYTES}")
            if kind == "INTEGER":
                tests.append(f"abs({column} / 2) >= {_MOST >> 1}")  # sums of them must fit too
        query = f'SELECT EXISTS (SELECT 1 FROM "{table}" WHERE {" OR ".join(tests)})'
        return bool(self.db.execute(query).fetchone()[0])

    def _load(self) -> tuple[object, ...]:
        """Read again what another connection has changed since our last transaction."""
        version = _pragma(self.db, "data_version")
        if version != self._version:
            self.state = self._read_state(self.db)
            self.queues.load()
            self._version = version
        return self.state.row()

    def _read_state(self, db: sqlite3.Connection) -> State:
        row = db.execute(_STATE).fetchone()
        if row is None:
            raise CatalogCorrupt(f"{self.path}: no state")
        numbers = (*row[:1], *row[2:])
        if type(row[1]) is not str or any(type(number) is not int for number in numbers):
            raise CatalogCorrupt(f"{self.path}: odd state")  # SQLite itself takes any type
        return State(*row)

    def _check_place(self) -> None:
        if not self.current:
            raise CatalogReplaced(f"{self.path}: replaced")


def create(path: str, *, policy: str, size: int, boot: str = "") -> None:
    """Put an empty catalog at `path`, in one step: nobody sees half of it.

    What was there is gone, unless it was `set_aside`. Raises CatalogError, CatalogCorrupt.
    """
    stem, _ = os.path.splitext(path)
    real = f"{stem}-{secrets.token_hex(6)}.sqlite"
    try:
        with translated(path):
            db = sqlite3.connect(real, isolation_level=None)
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                _fill(db, policy, size, boot)
            finally:
                db.close()
        os.symlink(os.path.basename(real), real + ".link")
        os.rename(real + ".link", path)
    except BaseException as error:
        for suffix in (*_SUFFIXES, ".link"):
            with suppress(OSError):
                os.unlink(real + suffix)
        if isinstance(error, OSError):
            raise CatalogError(f"{path}: {error.strerror}") from error
        raise
    _sweep(path, keep=real)


def set_aside(path: str) -> str:
    """Rename the catalog at `path`, with its journal, so that a new one can be made there.

    Who has it open still may go on, to no effect. Returns the new name, which replaces the one set
    aside before. Runs in a worker thread; raises OSError.
    """
    aside, real = f"{path}.corrupt", os.path.realpath(path)
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            os.unlink(aside + suffix)
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            os.rename(real + suffix, aside + suffix)
    with suppress(FileNotFoundError):
        os.unlink(path)  # the link
    return aside


def take_lock(path: str) -> int:
    """A descriptor that holds the lock of this file until it is closed; -1: another has it.

    flock: the kernel gives it up when the process dies, however it dies. Raises OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    except BaseException:
        os.close(fd)
        raise
    return fd


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _fill(db: sqlite3.Connection, policy: str, size: int, boot: str) -> None:
    db.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        db.execute(statement)
    # A reservation's generation must be unknown to any other catalog: who drew from a catalog that
    # was lost must not settle a row of this one by accident.
    db.execute(
        "INSERT INTO state VALUES (1, ?, ?, ?, 0, 0, 0, 0, 0, ?)",
        (secrets.randbits(62), policy, size, secrets.randbits(30) << 32),
    )
    db.execute("INSERT INTO boot VALUES (1, ?)", (boot,))
    db.execute("COMMIT")


def _sweep(path: str, *, keep: str) -> None:
    """Remove files of catalogs that were replaced; who has them open loses nothing by it."""
    folder, name = os.path.split(os.path.splitext(path)[0])
    with suppress(OSError):
        for file in os.listdir(folder or "."):
            found = os.path.join(folder, file)
            ours = file.startswith(name) and _OWN_NAME.fullmatch(file[len(name) :])
            if ours and not found.startswith(keep):
                with suppress(OSError):
                    os.unlink(found)


@contextmanager
def translated(path: str) -> Iterator[None]:
    """SQLite's errors as ours: damage means a rebuild, all others may pass."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind = CatalogCorrupt if code in _DAMAGE else CatalogError
        raise kind(f"{path}: {error}") from error
