"""The account of a cache directory: reservations, trash, and the totals of all that lies there.

In the catalog's thread, in the catalog's transactions: usage is one truth for all processes (I13).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from streamcache.cache.database import Database, State
from streamcache.cache.queues import pack, unpack


@dataclass(frozen=True, slots=True)
class Totals:
    """What lies in the cache directory, by all processes; sizes in bytes on disk."""

    id: int  # of the catalog that says so
    complete: bool  # False: it is being rebuilt, usage is not known
    objects: int
    count: int  # of objects
    reserved: int
    trash: int


@dataclass(slots=True)
class Order:
    """A wish for room, and what became of it; filled in by `Account.draw`. Sizes in bytes."""

    name: str
    amount: int  # more than the reservation has now
    footprint: int  # the most that the partial will ever need
    limit: int  # for all that lies there
    mark: int | None = None  # usage from which nothing new begins; None: the limit alone counts
    granted: bool = False
    before: int = 0  # the reservation, and its generation, before ...
    generation_before: int = 0  # 0: there was none
    after: int = 0  # ... and after it was granted
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Reserved:
    """Room that belongs to a partial."""

    name: str
    bytes: int
    generation: int
    used: float  # s since the epoch: last drawn or settled


@dataclass(frozen=True, slots=True)
class Trashed:
    """A file in trash/ whose blocks are not free yet."""

    file: str
    on_disk: int  # bytes


class Account:
    """Reservations and trash of an open catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def totals(self) -> Totals:
        """As of this process's last transaction or look; no I/O."""
        state = self._database.state
        return Totals(
            state.id,
            bool(state.complete),
            state.objects,
            state.count,
            state.reserved,
            state.trash,
        )

    def look(self) -> Totals:
        """As of now."""
        self._database.look()
        return self.totals

    def draw(self, order: Order) -> Order:
        """Reserve what is wished for, all of it or nothing (``granted``); returns the order.

        Nothing is granted while the catalog is not complete.
        """
        with self._database.transaction() as state:
            row = self._find(order.name)
            before, generation_before = row or (0, 0)
            after = max(before, min(order.footprint, before + order.amount))
            more = after - before
            generation = 0
            if state.complete and self._is_room(state, order, more, fresh=row is None):
                generation = self._next(state)
                self._write(state, order.name, before, after, generation)
        order.before, order.generation_before = before, generation_before
        order.after, order.generation = after, generation
        order.granted = generation > 0  # not before it is committed
        return order

    def undo(self, order: Order) -> None:
        """Nobody took what was granted: as it was before, unless somebody drew since."""
        if not order.granted:
            return
        with self._database.transaction() as state:
            row = self._find(order.name)
            if row is not None and row[1] == order.generation:
                if order.generation_before:
                    self._write(state, order.name, row[0], order.before, order.generation_before)
                else:
                    self._drop(state, order.name, row[0])

    def settle(self, name: str, generation: int, on_disk: int) -> bool:
        """The reservation becomes ``on_disk``, or goes if that is 0; False: somebody drew since.

        Who has drawn and waits for the key's lock sees by its generation that it was settled.
        """
        with self._database.transaction() as state:
            row = self._find(name)
            if row is None or row[1] != generation:
                return False
            if on_disk:
                self._write(state, name, row[0], on_disk, self._next(state))
            else:
                self._drop(state, name, row[0])
        return True

    def enter(self, partials: Iterable[tuple[str, int]]) -> None:
        """Partials that a new catalog does not know: room for at least so many bytes each.

        One whose object is entered already needs none.
        """
        with self._database.transaction() as state:
            for name, size in partials:
                published = self._database.db.execute(
                    "SELECT 1 FROM objects WHERE name = ?", (pack(name),)
                ).fetchone()
                row = self._find(name)
                if not published and (row is None or row[0] < size):
                    before = row[0] if row else 0
                    self._write(state, name, before, size, self._next(state))

    def generation(self, name: str) -> int:
        """Of the reservation; 0: there is none."""
        self._database.look()
        row = self._find(name)
        return row[1] if row else 0

    def names(self, key: str) -> list[str]:
        """The names of this key (32 hex digits) that have a reservation."""
        self._database.look()
        prefix = bytes.fromhex(key)
        rows = self._database.db.execute(
            "SELECT name FROM reservations WHERE name BETWEEN ? AND ?",
            (prefix + bytes(16), prefix + b"\xff" * 16),
        ).fetchall()
        return [unpack(name) for (name,) in rows]

    def reservations(self, limit: int) -> list[Reserved]:
        """The oldest first; ``limit`` -1: all."""
        self._database.look()
        rows = self._database.db.execute(
            "SELECT name, bytes, generation, used FROM reservations ORDER BY used, name LIMIT ?",
            (limit,),
        ).fetchall()
        return [Reserved(unpack(name), *rest) for name, *rest in rows]

    def add_trash(self, files: Iterable[tuple[str, int]]) -> None:
        """Files in trash/ and their bytes; one that is there already counts once."""
        with self._database.transaction() as state:
            for file, on_disk in files:
                self.put_trash(state, file, on_disk)

    def put_trash(self, state: State, file: str, on_disk: int) -> None:
        """The same for one, within a transaction."""
        self._take_trash(state, file)
        self._database.db.execute("INSERT INTO trash VALUES (?, ?)", (file, on_disk))
        state.trash += on_disk

    def trash_reservation(self, name: str, file: str) -> int:
        """The partial, which is worked on, was renamed to ``file`` in trash/; its bytes.

        Those who work on it write no more than they drew, so what was reserved is what it takes.
        """
        with self._database.transaction() as state:
            row = self._find(name)
            if row is None:
                return 0
            self._drop(state, name, row[0])
            self.put_trash(state, file, row[0])
            return row[0]

    def free_trash(self, file: str) -> None:
        """Its blocks are free."""
        with self._database.transaction() as state:
            self._take_trash(state, file)

    def trash(self) -> list[Trashed]:
        """All that is counted in trash/."""
        self._database.look()
        rows = self._database.db.execute("SELECT file, blocks FROM trash ORDER BY file").fetchall()
        return [Trashed(*row) for row in rows]

    def end_reservation(self, state: State, name: str) -> None:
        """The partial became an object; within a transaction."""
        row = self._find(name)
        if row is not None:
            self._drop(state, name, row[0])

    @staticmethod
    def _is_room(state: State, order: Order, more: int, *, fresh: bool) -> bool:
        if fresh and order.mark is not None and state.used >= order.mark:
            return False
        return state.used + more <= order.limit or not (fresh or more)

    def _find(self, name: str) -> tuple[int, int] | None:
        found: tuple[int, int] | None = self._database.db.execute(
            "SELECT bytes, generation FROM reservations WHERE name = ?", (pack(name),)
        ).fetchone()
        if found is not None and any(type(number) is not int for number in found):
            raise ValueError("odd reservation")  # see Database.has_odd_rows
        return found

    def _write(self, state: State, name: str, before: int, after: int, generation: int) -> None:
        self._database.db.execute(
            "REPLACE INTO reservations VALUES (?, ?, ?, ?)",
            (pack(name), after, generation, time.time()),
        )
        state.reserved += after - before

    def _drop(self, state: State, name: str, before: int) -> None:
        self._database.db.execute("DELETE FROM reservations WHERE name = ?", (pack(name),))
        state.reserved -= before

    def _take_trash(self, state: State, file: str) -> None:
        row = self._database.db.execute(
            "DELETE FROM trash WHERE file = ? RETURNING blocks", (file,)
        ).fetchone()
        if row is not None:
            state.trash -= row[0]

    def _next(self, state: State) -> int:
        state.generation += 1
        return state.generation
