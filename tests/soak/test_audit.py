"""The audit finds whatever is wrong in a cache directory, and nothing in a sound one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pytest

from streamcache import StreamCache
from tests.soak import audit as module
from tests.soak.audit import Books, audit, held, unsound
from tests.soak.source import SMALL
from tests.soak.titles import Content, Titles
from tests.system.site import config, disk_usage, eventually, fetch, opened, settle, take

SIZE = 64 * 1024 * 1024


class Filled:
    """A cache directory with objects and a partial, closed."""

    def __init__(self, at: Path) -> None:
        source, self.cache_dir = at / "source", at / "cache"
        source.mkdir()
        self.titles = Titles(source, SMALL, Random(3), count=6)
        options = config(copy={"when_idle": "stop"})
        with StreamCache(source, self.cache_dir, SIZE, config=options) as cache:
            largest = max(self.titles.names, key=lambda name: self.now(name).size)
            for name in self.titles.names:
                if name != largest:
                    fetch(cache, name)
            settle(cache, self.cache_dir)
            read = cache._parts.source.read_into

            def slow(*args: Any) -> int:
                time.sleep(0.05)  # in a worker thread
                return read(*args)

            with (
                mock.patch.object(cache._parts.source, "read_into", slow),
                opened(cache, largest) as delegate,
            ):
                take(delegate, 0, 1)
                eventually(lambda: cache.statistics().sessions[0].present)
            settle(cache, self.cache_dir)

    def now(self, name: str) -> Content:
        found = self.titles.current(name)
        assert found is not None
        return found

    @property
    def object(self) -> Path:
        """One that is not small."""
        return max((self.cache_dir / "objects").glob("*/*"), key=lambda path: path.stat().st_size)

    @property
    def other(self) -> Path:
        """Another one."""
        return min((self.cache_dir / "objects").glob("*/*"), key=lambda path: path.stat().st_size)

    @property
    def map(self) -> Path:
        (found,) = (self.cache_dir / "partial").glob("*.map")
        return found

    def sql(self, statement: str, *arguments: object) -> None:
        with closing(sqlite3.connect(os.path.realpath(self.cache_dir / "catalog.sqlite"))) as db:
            db.execute(statement, arguments)
            db.commit()

    def findings(self) -> list[str]:
        difference = Books.read(self.cache_dir).difference(self.cache_dir)
        found = [*audit(self.cache_dir, self.titles), *unsound(self.cache_dir)]
        return [*found, *([difference] if difference else [])]


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    made = Filled(tmp_path)
    assert made.findings() == []
    return made


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(data)


def wrong_byte(filled: Filled) -> None:
    overwrite(filled.object, 70_000, b"?")


def short(filled: Filled) -> None:
    os.truncate(filled.object, 70_000)


def no_such_version(filled: Filled) -> None:
    path = filled.object
    path.rename(path.with_name(path.name.partition(".")[0] + "." + "0" * 32))


def of_another_title(filled: Filled) -> None:
    key, version = filled.other.name.partition(".")[0], filled.object.name.partition(".")[2]
    shutil.copy(filled.object, filled.other.with_name(f"{key}.{version}"))


def lying_map(filled: Filled) -> None:
    overwrite(filled.map, -1, b"\1")


def short_map(filled: Filled) -> None:
    os.truncate(filled.map, filled.map.stat().st_size - 1)


def data_without_map(filled: Filled) -> None:
    filled.map.unlink()


def map_without_data(filled: Filled) -> None:
    filled.map.with_suffix(".data").unlink()


def lost_object(filled: Filled) -> None:
    filled.object.unlink()


def row_that_is_missing(filled: Filled) -> None:
    filled.sql(
        "DELETE FROM objects WHERE name = ?", bytes.fromhex(filled.object.name.replace(".", ""))
    )


def false_usage(filled: Filled) -> None:
    filled.sql("UPDATE state SET reserved = reserved + 4096")


def incomplete(filled: Filled) -> None:
    filled.sql("UPDATE state SET complete = 0")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (wrong_byte, "is wrong at 70000"),
        (short, "has 70000 bytes"),
        (no_such_version, "of no version"),
        (of_another_title, "has the key of"),
        (lying_map, "is present"),
        (short_map, "blocks for"),
        (data_without_map, "without a map"),
        (map_without_data, "its data is not of"),
        (lost_object, "only in the catalog ['"),
        (row_that_is_missing, "only on disk ['"),
        (false_usage, "usage"),
        (incomplete, "not complete"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_found(filled: Filled, damage: Callable[[Filled], None], word: str) -> None:
    damage(filled)
    found = filled.findings()
    assert any(word in text for text in found), found


def test_what_is_held_is_what_the_disk_says_without_the_map_of_an_object(filled: Filled) -> None:
    assert sum(held(filled.cache_dir).values()) == disk_usage(filled.cache_dir)
    filled.map.with_suffix(".data").unlink()
    left = disk_usage(filled.cache_dir) - filled.map.stat().st_blocks * 512
    assert sum(held(filled.cache_dir).values()) == left


def test_what_comes_in_the_room_of_another_is_not_counted_beside_it(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two looks; the inode is the same, as it is on many file systems."""
    real, looks = module._look, []

    def look(cache_dir: Path) -> dict[tuple[int, str], tuple[str, int]]:
        looks.append(real(cache_dir))
        if len(looks) == 2:
            (inode, name), there = next(iter(looks[0].items()))
            del looks[1][inode, name]
            looks[1][inode, "another"] = there
        return looks[-1]

    monkeypatch.setattr(module, "_look", look)
    assert len(held(filled.cache_dir)) == len(looks[0]) - 1
