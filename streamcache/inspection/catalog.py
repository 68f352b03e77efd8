"""The catalog's health: can it be read, and do its totals say what its rows say?"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from typing import Final

from streamcache.cache import audit
from streamcache.cache.catalog import Catalog
from streamcache.cache.database import (
    CatalogCorrupt,
    CatalogError,
    CatalogReplaced,
    Database,
    set_aside,
    take_lock,
)
from streamcache.cache.policy import POLICIES
from streamcache.inspection.directory import CacheDirectory
from streamcache.inspection.findings import Finding, Kind

_FILE: Final = "catalog.sqlite"


def inspect_catalog(directory: CacheDirectory) -> None:
    """Open it, for all that comes after; one that cannot be used is told of, and set aside."""
    try:
        database = Database(directory.path(_FILE))
    except CatalogReplaced:
        text = "not there; a server makes it anew from the objects"
        directory.tell(Finding(Kind.CATALOG, _FILE, text))
        return
    except CatalogCorrupt as error:
        _tell_damaged(directory, str(error))
        return
    except CatalogError as error:
        directory.tell(Finding(Kind.CATALOG, _FILE, str(error)))
        return
    with ExitStack() as stack:
        stack.callback(database.close)
        try:
            catalog = _catalog_of(database)
            problem = audit.damage(catalog)
        except CatalogError as error:
            problem = str(error)
        else:
            if not problem:
                directory.catalog = catalog
                stack.pop_all()
    if problem:  # a server finds that out too, and makes another
        _tell_damaged(directory, problem)


def inspect_totals(directory: CacheDirectory) -> None:
    """After all repairs, which change rows and totals together. Raises CatalogError."""
    if directory.rows is None:
        return
    wrong = audit.wrong_totals(directory.rows, repair=directory.repair)
    if wrong:
        directory.tell(Finding(Kind.ACCOUNT, _FILE, wrong), lambda: True)


def _catalog_of(database: Database) -> Catalog:
    state = database.state
    policy = next((name for name in POLICIES if name == state.policy), None)
    if policy is None:
        raise CatalogCorrupt(f"{database.path}: unknown policy {state.policy!r}")
    return Catalog(database, policy, max(1, state.size))


def _tell_damaged(directory: CacheDirectory, problem: str) -> None:
    directory.tell(Finding(Kind.CATALOG, _FILE, problem), partial(_set_aside, directory))


def _set_aside(directory: CacheDirectory) -> bool:
    lock = take_lock(directory.path("catalog.lock"))
    if lock < 0:
        return False  # somebody is at it
    try:
        set_aside(directory.path(_FILE))
    finally:
        os.close(lock)
    return True
