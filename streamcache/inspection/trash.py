"""Trash: the files under ``trash/``, and what is counted for them."""

from __future__ import annotations

import os
import time
from functools import partial

from streamcache.inspection.directory import MOMENT, CacheDirectory
from streamcache.inspection.findings import Finding, Kind


def inspect_trash(directory: CacheDirectory) -> None:
    """Raises CatalogError, OSError."""
    suspects = _suspects(directory)
    if suspects:
        time.sleep(MOMENT)  # whose last reader has just left is removed in a moment
        again = _suspects(directory)
        for file in sorted(suspects.keys() & again.keys()):
            finding = Finding(Kind.TRASH, f"trash/{file}", again[file])
            directory.tell(finding, partial(_remove, directory, file))


def _suspects(directory: CacheDirectory) -> dict[str, str]:
    """What is in trash/, or counted there, and should not be; and why."""
    rows = {}
    if directory.rows is not None:
        rows = {row.file: row.on_disk for row in directory.rows.account.trash()}
    there = set(os.listdir(directory.path("trash")))
    found = {file: f"{rows[file]} bytes counted for it" for file in rows.keys() - there}
    return found | {
        file: "nobody reads it" for file in there if not directory.store.objects.is_read(file)
    }


def _remove(directory: CacheDirectory, file: str) -> bool:
    gone = directory.store.objects.empty_trash([file])
    if gone and directory.catalog is not None:
        directory.catalog.account.free_trash(file)
    return bool(gone)
