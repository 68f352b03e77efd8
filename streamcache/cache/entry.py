"""One object as the catalog knows it, enters it, gives it up: values, for any thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from streamcache.cache.names import decoded, key_of, version_of
from streamcache.cache.queues import unpack

# What `Entry.of` reads; the last one says whether it is pinned.
ENTRY: Final = (
    "SELECT name, path, size, blocks, created, used, hits,"
    " EXISTS (SELECT 1 FROM pins WHERE key = substr(name, 1, 16)) FROM objects"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of the cache.

    `name` is "<key>.<version>", `on_disk` the bytes it takes on disk (st_blocks * 512), `created`
    and `used` are seconds since the epoch, `hits` its touches. A `pinned` one is not evicted.
    """

    name: str
    path: str
    size: int
    on_disk: int
    created: float
    used: float
    hits: int
    pinned: bool = False

    @classmethod
    def of(cls, row: Sequence[Any]) -> Entry:
        """From a row of `ENTRY`."""
        name, path, size, on_disk, created, used, hits, pinned = row
        return cls(unpack(name), decoded(path), size, on_disk, created, used, hits, bool(pinned))

    @property
    def key(self) -> str:
        return key_of(self.name)

    @property
    def version(self) -> str:
        """32 hex digits, the entity tag that clients see."""
        return version_of(self.name)


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What `Catalog.add` needs to know of an object; times in seconds since the epoch."""

    name: str
    path: str
    size: int
    on_disk: int
    created: float


@dataclass(frozen=True, slots=True)
class Victim:
    """An object that should go, and the bytes it takes on disk."""

    name: str
    on_disk: int
