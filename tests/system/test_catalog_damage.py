"""I7: the disk is the truth. A catalog that breaks while it is used is replaced and rebuilt."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from streamcache import CacheStatus, StreamCache
from tests import content
from tests.system.site import assert_right, config, eventually, fetch, objects_in, settle

SIZE = 200_000


def titles(source: Path, *names: str) -> None:
    for name in names:
        content.write(source, name, SIZE)


def damage(cache_dir: Path) -> None:
    """Overwrite the page that the objects' table begins on."""
    path = cache_dir / "catalog.sqlite"
    with sqlite3.connect(path) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'objects'").fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with open(path, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(os.urandom(size))


def test_a_catalog_that_was_damaged_while_stopped_is_rebuilt(tmp_path: Path) -> None:
    source, cache_dir = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    titles(source, "a.mkv", "b.mkv")
    with StreamCache(source, cache_dir, "1GB") as cache:
        fetch(cache, "a.mkv")
        settle(cache, cache_dir)
    damage(cache_dir)
    with StreamCache(source, cache_dir, "1GB") as cache:
        hit = fetch(cache, "a.mkv")
        assert hit.status is CacheStatus.HIT
        assert_right(hit, "a.mkv", SIZE)
        settle(cache, cache_dir)
        fetch(cache, "b.mkv")
        settle(cache, cache_dir)
        assert cache.statistics().objects == 2


def test_a_catalog_that_breaks_under_us_is_replaced_and_caching_goes_on(tmp_path: Path) -> None:
    source, cache_dir = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    titles(source, "a.mkv", "b.mkv", "c.mkv")
    settings = config(source={"path": str(source)}, cache={"dir": str(cache_dir), "size": 1 << 30})
    with StreamCache(config=settings) as cache:
        fetch(cache, "a.mkv")
        settle(cache, cache_dir)
        ledger = cache._parts.ledger
        broken = ledger.catalog.database.state.id
        ledger.call(ledger.catalog.database.db.execute, "DROP TABLE objects")
        assert_right(fetch(cache, "b.mkv"), "b.mkv", SIZE)
        eventually(lambda: ledger.catalog.database.state.id != broken)
        settle(cache, cache_dir)
        assert_right(fetch(cache, "c.mkv"), "c.mkv", SIZE)
        settle(cache, cache_dir)
        assert cache.statistics().objects == 3 == len(objects_in(cache_dir))
        assert fetch(cache, "a.mkv").status is CacheStatus.HIT
