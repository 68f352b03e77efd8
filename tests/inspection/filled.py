"""A cache directory that nobody uses: objects with digests, and a partial."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from streamcache import StreamCache
from tests.content import write
from tests.system.site import MiB, at_rest, config, eventually, fetch, opened, take

SIZE = 300_000
NAMES = [f"film{number}" for number in range(6)]
PARTIAL_SIZE = 4 * MiB


def fill(source: Path, at: Path) -> None:
    """Make the files of ``NAMES`` and "partial" at the source; copy those, and a part of this."""
    for name in NAMES:
        write(source, name, SIZE)
    write(source, "partial", PARTIAL_SIZE)
    options = config(
        cache={"checksum": "xxh3"}, copy={"when_idle": "stop", "max_bandwidth": MiB // 4}
    )
    with StreamCache(source, at, "1GB", config=options) as cache:
        for name in NAMES:
            fetch(cache, name)
        eventually(lambda: at_rest(cache))
        with opened(cache, "partial") as film:
            for offset in (0, MiB, 2 * MiB):
                take(film, offset, offset + 1000)
            (session,) = cache._parts.provider.copies.sessions.values()
            eventually(lambda: session.map.present > 2)
        eventually(lambda: at_rest(cache))


def objects(at: Path) -> list[Path]:
    """The files of its objects, without their digests."""
    return [path for path in sorted(at.glob("objects/*/*")) if path.suffix != ".sums"]


def sql(at: Path, statement: str) -> list[Any]:
    """Done to its catalog, behind everybody's back; the first row that it gives."""
    with sqlite3.connect(at / "catalog.sqlite") as db:
        row = db.execute(statement).fetchone()
    db.close()
    return [] if row is None else list(row)
