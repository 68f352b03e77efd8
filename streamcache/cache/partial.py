"""A copy that is not complete: a sparse data file and its block map, under ``partial/``.

The data file is opened twice, read-only and write-only: closing a descriptor that wrote would
change the modification time that is pinned to the source's, while readers keep theirs. The map is
written with ``pwrite`` after the data it speaks of (I6), never mapped into memory (SIGBUS).

Everything here but ``PartialHeader`` runs in worker threads.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass

from streamcache.cache.blockmap import BLOCK, Extent

FORMAT = 1
SYNC_BYTES = 64 * 1024 * 1024  # written since the last fdatasync: no 50 GB flush at the end
_MAGIC = b"streamcache map\n"
_ALIGN = 4096


@dataclass(frozen=True, slots=True)
class PartialHeader:
    """Whose copy this is: what must be equal for it to be continued."""

    boot: str  # boot id: after a reboot the map may be newer than the data
    source: str  # source id
    path: str
    version: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    format: int = FORMAT

    def encode(self) -> bytes:
        """Magic, length, JSON, padded to whole pages."""
        text = json.dumps(asdict(self)).encode("ascii")
        length = -(-(len(_MAGIC) + 8 + len(text)) // _ALIGN) * _ALIGN
        return (_MAGIC + b"%08x" % length + text).ljust(length, b"\0")

    @classmethod
    def decode(cls, raw: bytes) -> tuple[PartialHeader, int]:
        """The header at the start of ``raw``, and its length. ValueError: not ours."""
        if not raw.startswith(_MAGIC):
            raise ValueError("no block map")
        start = len(_MAGIC) + 8
        length = int(raw[len(_MAGIC) : start], 16)
        if length > len(raw):
            raise ValueError("cut short")
        try:
            fields = json.loads(raw[start:length].rstrip(b"\0"))
        except RecursionError as error:
            raise ValueError("no header") from error
        if not isinstance(fields, dict):
            raise ValueError("no header")
        try:
            header = cls(**fields)
        except TypeError as error:
            raise ValueError(str(error)) from error
        if header.encode() != raw[:length]:
            raise ValueError("not a header of this format")
        return header, length


class Partial:
    """The open files of one copy, and how much of them was written since the last sync."""

    __slots__ = ("_map_fd", "_map_start", "_unsynced", "_write_fd", "name", "read_fd")

    def __init__(
        self, name: str, *, read_fd: int, write_fd: int, map_fd: int, map_start: int
    ) -> None:
        self.name = name
        self.read_fd = read_fd
        self._write_fd = write_fd
        self._map_fd = map_fd
        self._map_start = map_start
        self._unsynced = 0

    def write(self, extent: Extent, data: memoryview) -> None:
        """Data first, then the map bytes that say so. Raises OSError; then nothing is promised."""
        _pwrite_all(self._write_fd, data, extent.start * BLOCK)
        _pwrite_all(self._map_fd, memoryview(b"\1" * len(extent)), self._map_start + extent.start)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            self._unsynced = 0
            os.fdatasync(self._write_fd)

    def seal(self, mtime_ns: int) -> None:
        """Pin the modification time and make the data durable. Raises OSError; not retried.

        A failed fsync may have thrown the data away (Rebello et al., ATC'20).
        """
        os.utime(self._write_fd, ns=(mtime_ns, mtime_ns))
        os.fsync(self._write_fd)

    def close(self) -> None:
        """Close all descriptors but those that were given away. Idempotent."""
        fds = (self.read_fd, self._write_fd, self._map_fd)
        self.read_fd = self._write_fd = self._map_fd = -1
        with contextlib.ExitStack() as stack:  # one that fails leaves no other open
            for fd in fds:
                if fd >= 0:
                    stack.callback(os.close, fd)

    def give_away(self) -> int:
        """The read-only descriptor, which has a new owner from now on."""
        fd, self.read_fd = self.read_fd, -1
        return fd


def _pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        offset += count
        data = data[count:]
