"""A catalog that SQLite reads well, with values in it that we never write."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from streamcache.cache.database import Database
from tests.fuzz import files

TABLES = ("queued", "queue_totals", "queue_state", "objects", "reservations", "state")
VALUES = ("'x'", "NULL", "X'00'", "9223372036854775807")


def columns(catalog: Path, table: str) -> list[str]:
    db = sqlite3.connect(os.path.realpath(catalog))
    try:
        return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    finally:
        db.close()


def overwrite(catalog: Path, table: str, column: str, value: str) -> bool:
    """Whether any row took it."""
    db = sqlite3.connect(os.path.realpath(catalog))
    try:
        count = db.execute(f"UPDATE {table} SET {column} = {value}").rowcount
        db.commit()
        return count > 0
    except sqlite3.IntegrityError:  # NOT NULL
        return False
    finally:
        db.close()


@pytest.mark.parametrize("table", TABLES)
def test_odd_values_end_neither_start_nor_request(table: str) -> None:
    tried = 0
    for column in columns(files.template().cache / "catalog.sqlite", table):
        for value in VALUES:
            with files.Copy() as copy:
                if overwrite(copy.path / "catalog.sqlite", table, column, value):
                    tried += 1
                    copy.serves_all()
    assert tried > 4


def test_what_we_write_is_not_odd() -> None:
    with files.Copy() as copy:
        database = Database(str(copy.path / "catalog.sqlite"))
        try:
            assert not database.has_odd_rows()
        finally:
            database.close()
        for value in ("X'00'", "'x'"):
            assert overwrite(copy.path / "catalog.sqlite", "reservations", "name", value)
            database = Database(str(copy.path / "catalog.sqlite"))
            try:
                assert database.has_odd_rows()
            finally:
                database.close()
