"""What the map of a partial begins with, for tests that need some partial or object."""

from __future__ import annotations

from streamcache.cache.blockmap import BLOCK
from streamcache.cache.partial import PartialHeader
from streamcache.cache.store import Store

KEY, VERSION = "ab" * 16, "cd" * 16
NAME = f"{KEY}.{VERSION}"
SIZE = 3 * BLOCK + 10


def header(store: Store, **fields: object) -> PartialHeader:
    values = {
        "boot": store.boot,
        "source": "source",
        "path": "a.mp4",
        "version": VERSION,
        "size": SIZE,
        "mtime_ns": 5,
        "ctime_ns": 6,
        "inode": 7,
    }
    return PartialHeader(**{**values, **fields})
