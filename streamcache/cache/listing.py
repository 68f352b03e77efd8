"""Pages of the catalog: which objects there are, in the order that somebody wants to see them.

Runs in the disk pool, with a connection of its own that only reads: to sort a million rows takes a
second, and the catalog's own thread has room to give meanwhile (WAL: who reads holds up nobody).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, get_args

from streamcache.cache.database import BUSY, CatalogReplaced, translated
from streamcache.cache.entry import ENTRY, Entry
from streamcache.cache.names import decoded, encoded
from streamcache.cache.queues import pack
from streamcache.cache.selection import Selection

SortBy = Literal["path", "size", "used", "hits"]
Direction = Literal["asc", "desc"]
Key = Callable[[str], str]  # of a path

MOST: Final = 10_000  # entries of one page
_TOP: Final = b"\xff" * 4096  # PATH_MAX: no path sorts after a prefix of it and this


@dataclass(frozen=True, slots=True)
class Listing:
    """What is to be listed: at most ``limit`` entries, those after the cursor ``after``.

    Equal sizes, uses and hits are in the order of their names.
    """

    selection: Selection
    sort: SortBy = "path"
    order: Direction = "asc"
    limit: int = 100
    after: str = ""

    def __post_init__(self) -> None:
        for text, allowed in ((self.sort, SortBy), (self.order, Direction)):
            if text not in get_args(allowed):
                raise ValueError(f"{text!r} is not one of {', '.join(get_args(allowed))}")
        if not 0 < self.limit <= MOST:
            raise ValueError(f"limit {self.limit} is not in 1 to {MOST}")
        _ = self.place

    @property
    def place(self) -> tuple[Any, bytes] | None:
        """Sort key and name of the last entry of the page before; None: there is none."""
        if not self.after:
            return None
        try:
            sort, order, value, name = json.loads(base64.urlsafe_b64decode(self.after))
            by_path = self.sort == "path"
            place = bytes.fromhex(value) if by_path else value, bytes.fromhex(name)
            if [sort, order] != [self.sort, self.order] or type(place[0]) is bool:
                raise ValueError
            if not by_path and not isinstance(place[0], int | float):
                raise ValueError
        except (ValueError, TypeError, RecursionError, binascii.Error):
            raise ValueError(
                f"cursor {self.after[:40]!r} was not given for this sort and order"
            ) from None
        return place

    def cursor(self, last: Entry) -> str:
        """The ``after`` of the page that comes after this entry."""
        value: Any = getattr(last, self.sort)
        if self.sort == "path":
            value = encoded(last.path).hex()
        text = json.dumps([self.sort, self.order, value, pack(last.name).hex()])
        return base64.urlsafe_b64encode(text.encode()).decode()


@dataclass(frozen=True, slots=True)
class Others:
    """Objects of other sources, and their bytes on disk."""

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, the cursor of the next page ("": this is the last one), and how many there are.

    ``others`` are meant too, and left out.
    """

    entries: tuple[Entry, ...]
    next: str
    count: int
    others: Others = Others()


def page(catalog: str, listing: Listing, key: Key | None = None) -> Page:
    """One page from the catalog at this path, without objects of other sources if ``key`` gives the
    keys of ours: each row is then looked at. Worker thread. Raises CatalogError.
    """
    with _reading(catalog, listing.selection, key) as db:
        where, args = _where(listing.selection)
        if key is None:
            count = db.execute(f"SELECT count(*) FROM objects WHERE {where}", args).fetchone()[0]
            return Page(*_entries(db, listing), count)
        query = f"SELECT ours(name, path), count(*), sum(blocks) FROM objects WHERE {where}"
        found = {ours: rest for ours, *rest in db.execute(f"{query} GROUP BY 1", args)}
        count, others = found.get(1, [0])[0], Others(*found.get(0, ()))
        return Page(*_entries(db, listing, " AND ours(name, path)"), count, others)


def entries(catalog: str, listing: Listing) -> tuple[tuple[Entry, ...], str]:
    """The same without the count, for which all are looked at: for who wants one page after the
    other, which would take the square of the time.
    """
    with _reading(catalog, listing.selection) as db:
        return _entries(db, listing)


def _entries(
    db: sqlite3.Connection, listing: Listing, also: str = ""
) -> tuple[tuple[Entry, ...], str]:
    where, args = _where(listing.selection, listing if listing.sort == "path" else None)
    where += also
    if listing.place is not None:
        than = ">" if listing.order == "asc" else "<"
        where += f" AND ({listing.sort}, name) {than} (?, ?)"
        args += listing.place
    rows = db.execute(
        f"{ENTRY} WHERE {where} ORDER BY {listing.sort} {listing.order}, name {listing.order}"
        " LIMIT ?",
        (*args, listing.limit + 1),
    ).fetchall()
    found = tuple(Entry.of(row) for row in rows[: listing.limit])
    return found, listing.cursor(found[-1]) if len(rows) > listing.limit else ""


def _where(selection: Selection, by_path: Listing | None = None) -> tuple[str, tuple[Any, ...]]:
    start = encoded(selection.literal)
    if selection.path is not None:
        return "path = ?", (start,)
    stop = start + _TOP
    if by_path is not None and by_path.place is not None:
        # SQLite begins where "BETWEEN" says, and not at the cursor.
        if by_path.order == "asc":
            start = max(start, by_path.place[0])
        else:
            stop = min(stop, by_path.place[0])
    where = "path BETWEEN ? AND ?"
    if selection.glob is not None:
        where += " AND selected(path)"
    return where, (start, stop)


@contextmanager
def _reading(
    path: str, selection: Selection, key: Key | None = None
) -> Iterator[sqlite3.Connection]:
    real = os.path.realpath(path)
    if not os.path.exists(real):
        raise CatalogReplaced(f"{path}: is being made")
    with translated(path):
        db = sqlite3.connect(real, timeout=BUSY, isolation_level=None)
        try:
            db.execute("PRAGMA query_only = 1")
            db.create_function(
                "selected",
                1,
                lambda path: selection.matches(decoded(path)),
                deterministic=True,
            )
            if key is not None:
                db.create_function("ours", 2, partial(_is_ours, key), deterministic=True)
            yield db
        finally:
            db.close()


def _is_ours(key: Key, name: bytes, path: bytes) -> bool:
    """Also one whose path was lost with a catalog: nobody can say whose it is."""
    text = decoded(path)
    return not text or bytes.fromhex(key(text)) == name[:16]
