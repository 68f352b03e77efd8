"""Named FIFO queues, the storage that the eviction orders are written over: in memory or in SQLite.

An eviction order needs little: append, look at the first one, move, take out, and the size of each
queue in O(1). So one implementation of S3-FIFO serves the catalog, a simulation and the tests.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from streamcache.cache.names import key_of, name_of, version_of

SCHEMA = (
    """CREATE TABLE queued (
        name BLOB PRIMARY KEY, queue TEXT NOT NULL, seq INTEGER NOT NULL,
        size INTEGER NOT NULL, freq INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX queued_in_order ON queued (queue, seq)",
    "CREATE TABLE queue_totals (queue TEXT PRIMARY KEY, size INTEGER, count INTEGER)",
    "CREATE TABLE queue_state (id INTEGER PRIMARY KEY, seq INTEGER, evicted INTEGER)",
    "INSERT INTO queue_state VALUES (1, 0, 0)",  # its one row
)


@dataclass(frozen=True, slots=True)
class Queued:
    """One name in one queue; `size` in bytes, `freq` is the eviction order's own counter."""

    name: str
    queue: str
    size: int
    freq: int


class Queues(Protocol):
    """FIFO queues by name; a name is in at most one of them."""

    evicted: bool  # something was evicted since these queues began (kept with them)

    def find(self, name: str) -> Queued | None:
        """The place of `name`, or None."""

    def first(self, queue: str) -> Queued | None:
        """The oldest of `queue`, or None when it is empty."""

    def push(self, queue: str, name: str, size: int) -> None:
        """Append `name`, which is in no queue, with counter 0."""

    def move(self, item: Queued, queue: str, freq: int) -> None:
        """Append `item` to `queue` (its own, too) with this counter."""

    def mark(self, item: Queued, freq: int) -> None:
        """Set the counter of `item`, which keeps its place."""

    def drop(self, item: Queued) -> None:
        """Take `item` out."""

    def size(self, queue: str) -> int:
        """Bytes in `queue`; O(1)."""

    def count(self, queue: str) -> int:
        """Names in `queue`; O(1)."""


class MemoryQueues:
    """Queues in memory, for simulations and tests."""

    def __init__(self) -> None:
        self.evicted = False
        self._places: dict[str, Queued] = {}
        self._orders: dict[str, OrderedDict[str, None]] = {}
        self._sizes: dict[str, int] = {}

    def find(self, name: str) -> Queued | None:
        return self._places.get(name)

    def first(self, queue: str) -> Queued | None:
        name = next(iter(self._orders.get(queue, ())), None)
        return None if name is None else self._places[name]

    def push(self, queue: str, name: str, size: int) -> None:
        self._append(Queued(name, queue, size, 0))

    def move(self, item: Queued, queue: str, freq: int) -> None:
        self.drop(item)
        self._append(Queued(item.name, queue, item.size, freq))

    def mark(self, item: Queued, freq: int) -> None:
        self._places[item.name] = Queued(item.name, item.queue, item.size, freq)

    def drop(self, item: Queued) -> None:
        place = self._places.pop(item.name)
        del self._orders[place.queue][item.name]
        self._sizes[place.queue] -= place.size

    def size(self, queue: str) -> int:
        return self._sizes.get(queue, 0)

    def count(self, queue: str) -> int:
        return len(self._orders.get(queue, ()))

    def _append(self, item: Queued) -> None:
        self._places[item.name] = item
        self._orders.setdefault(item.queue, OrderedDict())[item.name] = None
        self._sizes[item.queue] = self._sizes.get(item.queue, 0) + item.size


class SqliteQueues:
    """Queues in the catalog's database; used inside the catalog's transactions only.

    `save` comes last in a transaction: totals and sequence live in memory until then, which saves
    two statements per step, and are as durable as the rows themselves. `load` comes first in one
    that follows another connection's, or one of ours that failed.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._seq = 0
        self._sizes: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self.evicted = False
        self._changed: set[str] = set()  # queues whose totals are to be written
        self._saved = (0, False)

    def load(self) -> None:
        """Read totals and sequence: another process may have changed them."""
        self._seq, evicted = self._db.execute("SELECT seq, evicted FROM queue_state").fetchone()
        self.evicted = bool(evicted)
        self._saved = (self._seq, self.evicted)
        self._changed.clear()
        rows = self._db.execute("SELECT queue, size, count FROM queue_totals").fetchall()
        self._sizes = {queue: size for queue, size, _ in rows}
        self._counts = {queue: count for queue, _, count in rows}

    def save(self) -> None:
        """Write what changed of them, before the commit."""
        if (state := (self._seq, self.evicted)) != self._saved:
            self._db.execute("UPDATE queue_state SET seq = ?, evicted = ?", state)
            self._saved = state
        for queue in self._changed:
            self._db.execute(
                "REPLACE INTO queue_totals VALUES (?, ?, ?)",
                (queue, self._sizes[queue], self._counts[queue]),
            )
        self._changed.clear()

    def find(self, name: str) -> Queued | None:
        row = self._db.execute(
            "SELECT queue, size, freq FROM queued WHERE name = ?", (pack(name),)
        ).fetchone()
        return None if row is None else Queued(name, *row)

    def first(self, queue: str) -> Queued | None:
        row = self._db.execute(
            "SELECT name, size, freq FROM queued WHERE queue = ? ORDER BY seq LIMIT 1", (queue,)
        ).fetchone()
        return None if row is None else Queued(unpack(row[0]), queue, row[1], row[2])

    def push(self, queue: str, name: str, size: int) -> None:
        self._db.execute(
            "INSERT INTO queued VALUES (?, ?, ?, ?, 0)", (pack(name), queue, self._next(), size)
        )
        self._count(queue, size, 1)

    def move(self, item: Queued, queue: str, freq: int) -> None:
        self._db.execute(
            "UPDATE queued SET queue = ?, seq = ?, freq = ? WHERE name = ?",
            (queue, self._next(), freq, pack(item.name)),
        )
        self._count(item.queue, -item.size, -1)
        self._count(queue, item.size, 1)

    def mark(self, item: Queued, freq: int) -> None:
        self._db.execute("UPDATE queued SET freq = ? WHERE name = ?", (freq, pack(item.name)))

    def drop(self, item: Queued) -> None:
        self._db.execute("DELETE FROM queued WHERE name = ?", (pack(item.name),))
        self._count(item.queue, -item.size, -1)

    def size(self, queue: str) -> int:
        return self._sizes.get(queue, 0)

    def count(self, queue: str) -> int:
        return self._counts.get(queue, 0)

    def refill(self, queue: str, names_by_age: str) -> None:
        """Forget all places; put this SELECT's rows (name, size), oldest first, into `queue`."""
        self._db.execute("DELETE FROM queued")
        self._db.execute("DELETE FROM queue_totals")
        self._db.execute(
            "INSERT INTO queued SELECT name, ?, row_number() OVER (), size, 0"
            f" FROM ({names_by_age})",
            (queue,),
        )
        size, count = self._db.execute(
            "SELECT ifnull(sum(size), 0), count(*) FROM queued"
        ).fetchone()
        self._sizes, self._counts = {queue: size}, {queue: count}
        self._changed = {queue}
        self._seq, self.evicted = count, False

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _count(self, queue: str, size: int, count: int) -> None:
        self._changed.add(queue)
        self._sizes[queue] = self._sizes.get(queue, 0) + size
        self._counts[queue] = self._counts.get(queue, 0) + count


def pack(name: str) -> bytes:
    """The 32 bytes of "<32 hex>.<32 hex>": half the size of the text in each B-tree."""
    return bytes.fromhex(key_of(name) + version_of(name))


def unpack(packed: bytes) -> str:
    """The inverse of `pack`. Raises ValueError for what it never made."""
    if type(packed) is not bytes or len(packed) != 32:
        raise ValueError("no name")
    digits = packed.hex()
    return name_of(digits[:32], digits[32:])
