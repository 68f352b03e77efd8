"""Pinned paths: their objects are not evicted, in whichever version they are there.

A pin is a small file, ``pins/<key>``, that holds the path: so it outlives the catalog (I7), a
purge, and the versions of the file, and can come before the object. The catalog has a row for each,
which keeps the objects of that key out of the order of eviction. `PinFolder` runs in the disk pool,
`PinTable` in the catalog's thread.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from streamcache.cache.database import Database, translated
from streamcache.cache.names import (
    decoded,
    encoded,
    is_key,
    key_of,
    name_of,
    remove_foreign,
    sync_directory,
)
from streamcache.cache.queues import pack

_LONGEST: Final = 4096  # bytes of a path


class PinFolder:
    """The ``pins/`` of one cache directory."""

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, "pins")

    def add(self, pins: Mapping[str, str]) -> None:
        """{key: path} are pinned, durably. Raises OSError."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._root, 0o700)
        for key, path in pins.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(os.path.join(self._root, key), flags, 0o600)
            try:
                os.pwrite(fd, encoded(path), 0)
                os.fsync(fd)  # or a power cut could leave the name and no content
            finally:
                os.close(fd)
        sync_directory(self._root)

    def remove(self, keys: Iterable[str]) -> None:
        """These are not pinned any more. Raises OSError."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._root, key))
        sync_directory(self._root)

    def all(self, known: Collection[str] = ()) -> dict[str, str]:
        """{key: path} of all pins, "" where the key is ``known``. Foreign files go.

        Raises OSError.
        """
        found: dict[str, str] = {}
        for key in os.listdir(self._root) if os.path.isdir(self._root) else ():
            path = os.path.join(self._root, key)
            if not is_key(key):
                remove_foreign(path)
            elif key in known:
                found[key] = ""
            else:
                with contextlib.suppress(FileNotFoundError):
                    if stat.S_ISREG(os.lstat(path).st_mode):
                        found[key] = _content(path)
                    else:
                        remove_foreign(path)
        return found


def _content(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return decoded(os.read(fd, _LONGEST))
    finally:
        os.close(fd)


class PinTable:
    """The pins of an open catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def has(self, name: str) -> bool:
        """Whether objects of this key are pinned; "<key>" or a name. Within a transaction, too."""
        query = "SELECT 1 FROM pins WHERE key = ?"
        key = bytes.fromhex(key_of(name))
        return self._database.db.execute(query, (key,)).fetchone() is not None

    def put(self, key: str, path: str) -> None:
        """A row more; within a transaction."""
        row = bytes.fromhex(key), encoded(path)
        self._database.db.execute("REPLACE INTO pins VALUES (?, ?)", row)

    def drop(self, key: str) -> None:
        """A row less; within a transaction."""
        self._database.db.execute("DELETE FROM pins WHERE key = ?", (bytes.fromhex(key),))

    def all(self) -> dict[str, str]:
        """{key: path}."""
        with translated(self._database.path):
            rows = self._database.db.execute("SELECT key, path FROM pins").fetchall()
        return {key.hex(): decoded(path) for key, path in rows}

    def objects(self, key: str) -> list[tuple[bytes, int]]:
        """Packed names and bytes of this key's objects that stay; within a transaction, too."""
        low, high = pack(name_of(key, "0" * 32)), pack(name_of(key, "f" * 32))
        found: list[tuple[bytes, int]] = self._database.db.execute(
            "SELECT name, blocks FROM objects WHERE name BETWEEN ? AND ? AND leaving = 0",
            (low, high),
        ).fetchall()
        return found

    def bytes(self) -> int:
        """What all pinned objects take on disk."""
        with translated(self._database.path):
            row = self._database.db.execute(
                "SELECT ifnull(sum(blocks), 0) FROM pins JOIN objects ON objects.name BETWEEN"
                " CAST(pins.key || zeroblob(16) AS BLOB) AND CAST(pins.key || ? AS BLOB)",
                (b"\xff" * 16,),
            ).fetchone()
        return int(row[0])
