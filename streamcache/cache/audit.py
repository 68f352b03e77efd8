"""Questions to the catalog that only a look through everything asks. In the catalog's thread."""

from __future__ import annotations

from streamcache.cache.catalog import Catalog
from streamcache.cache.database import translated
from streamcache.cache.entry import ENTRY, Entry


def rows_of(catalog: Catalog, folder: str) -> dict[str, Entry]:
    """The objects that should lie in this folder ("ab"), by name. Raises CatalogError."""
    first = bytes.fromhex(folder)
    with translated(catalog.database.path):
        rows = catalog.database.db.execute(
            f"{ENTRY} WHERE name BETWEEN ? AND ?", (first + bytes(31), first + b"\xff" * 31)
        ).fetchall()
    return {entry.name: entry for entry in map(Entry.of, rows)}


def damage(catalog: Catalog) -> str:
    """What SQLite finds wrong with the file, in words; "": nothing. Raises CatalogError."""
    with translated(catalog.database.path):
        (found,) = catalog.database.db.execute("PRAGMA quick_check(1)").fetchone()
    return "" if found == "ok" else str(found)


def wrong_totals(catalog: Catalog, *, repair: bool) -> str:
    """How the totals differ from the rows that they are of; "": not at all. Raises CatalogError."""
    wrong = []
    with catalog.database.transaction() as state:
        for name, query in (
            ("objects", "SELECT coalesce(sum(blocks), 0) FROM objects"),
            ("count", "SELECT count(*) FROM objects"),
            ("reserved", "SELECT coalesce(sum(bytes), 0) FROM reservations"),
            ("trash", "SELECT coalesce(sum(blocks), 0) FROM trash"),
        ):
            (real,) = catalog.database.db.execute(query).fetchone()
            said = getattr(state, name)
            if said != real:
                wrong.append(f"{name} is {said}, its rows say {real}")
                if repair:
                    setattr(state, name, real)
    return "; ".join(wrong)
