"""A cache directory and those who share its account, each as a process of its own would see it."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent

from streamcache.cache.ledger import Ledger
from streamcache.cache.space import Space
from streamcache.cache.store import Store
from streamcache.cache.workers import WorkerPool
from streamcache.config.cache import CacheConfig

_STUCK = 20.0  # s


def name(number: int) -> str:
    """The "<key>.<version>" of an object or a partial."""
    return f"{number % 256:02x}{number:030x}.{number:032x}"


class Sharer:
    """Store, space, ledger over one directory. Several of them share it as processes do.

    Rows and files are the test's business: ``put`` enters objects that have no file.
    """

    def __init__(
        self,
        root: Path,
        limit: int = 1000,
        *,
        high: float = 0.9,
        low: float = 0.5,
        cleanup: bool = True,
        alone: bool = True,
        config: CacheConfig | None = None,
        partials: Callable[[], list[tuple[str, int]]] = list,
        trash_files: Callable[[], list[tuple[str, int]]] = list,
    ) -> None:
        self.root = root
        self.store = Store(str(root))
        self.store.prepare()
        self.store.share()
        self.disk = WorkerPool("disk", size=2)
        self.space = Space(limit, high=high, low=low, cleanup=cleanup)
        try:
            self.ledger = Ledger.open(
                self.store,
                self.space,
                self.disk,
                config or CacheConfig(),
                alone=alone,
                partials=partials,
                trash_files=trash_files,
            )
        except BaseException:
            self.disk.close()
            self.disk.join(_STUCK)
            self.store.close()
            raise
        self.ledger.start()

    def put(self, number: int, on_disk: int) -> None:
        """An object of that many bytes."""
        self.ledger.add(name(number), f"/{number}.mp4", on_disk, on_disk)

    def close(self) -> None:
        self.ledger.close()
        self.disk.close()
        assert self.ledger.pool.join(_STUCK)
        assert self.disk.join(_STUCK)
        self.store.close()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """In the catalog's thread."""
        return self.ledger.call(function, *args)


def until(condition: Callable[[], Any], timeout: float = _STUCK) -> None:
    """Switch until this is true."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never came true"
        gevent.sleep(0.002)


def check(db: sqlite3.Connection) -> dict[str, int]:
    """The totals, in one look: they are the sums of the rows."""
    db.execute("BEGIN")
    try:
        keys = ("complete", "objects", "count", "reserved", "trash", "generation")
        row = db.execute(f"SELECT {', '.join(keys)} FROM state").fetchone()
        totals = dict(zip(keys, row, strict=True))
        sums = {
            "objects": db.execute("SELECT ifnull(sum(blocks), 0) FROM objects").fetchone()[0],
            "count": db.execute("SELECT count(*) FROM objects").fetchone()[0],
            "reserved": db.execute("SELECT ifnull(sum(bytes), 0) FROM reservations").fetchone()[0],
            "trash": db.execute("SELECT ifnull(sum(blocks), 0) FROM trash").fetchone()[0],
        }
        assert {key: totals[key] for key in sums} == sums
        queued = db.execute(
            "SELECT queue, sum(size), count(*) FROM queued GROUP BY queue ORDER BY queue"
        ).fetchall()
        counted = "SELECT queue, size, count FROM queue_totals WHERE count ORDER BY queue"
        assert db.execute(counted).fetchall() == queued
        highest = db.execute("SELECT ifnull(max(generation), 0) FROM reservations").fetchone()[0]
        assert highest <= totals["generation"]
        return totals
    finally:
        db.execute("COMMIT")


def checked(root: Path) -> dict[str, int]:
    """``check`` of the catalog in this directory."""
    db = sqlite3.connect(os.path.realpath(root / "catalog.sqlite"), isolation_level=None, timeout=5)
    try:
        return check(db)
    finally:
        db.close()
