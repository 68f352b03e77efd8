"""What of the kernel's FUSE protocol (7.31) a file system needs that can be written to.

Bytes in, values out and back; the rest is in ``tests/slowfs/protocol.py``.
"""

from __future__ import annotations

import os
import struct

from tests.slowfs.protocol import ASYNC_READ, MAX_PAGES

SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME = 4, 6, 8, 9, 10, 11, 12
WRITE, FSYNC, FLUSH, FSYNCDIR, CREATE, RENAME2 = 16, 20, 25, 30, 35, 45
BIG_WRITES = 1 << 5
WANTED = ASYNC_READ | BIG_WRITES | MAX_PAGES  # no write-back cache: a write arrives when it is made
MAX_WRITE = 1024 * 1024  # bytes
REQUEST_SIZE = MAX_WRITE + 64 * 1024

VALID_MODE, VALID_SIZE, VALID_MTIME, VALID_MTIME_NOW = 1 << 0, 1 << 3, 1 << 5, 1 << 8

_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_SETATTR_IN = struct.Struct("<IIQQQQQQIIIIIIII")
_WRITE_IN = struct.Struct("<QQIIQII")
_ATTR = struct.Struct("<6Q10I")


def init_reply(minor: int, max_readahead: int, flags: int) -> bytes:
    """Body of the answer to INIT."""
    pages = MAX_WRITE // 4096
    return _INIT_OUT.pack(
        7, minor, max_readahead, flags & WANTED, 64, 64, MAX_WRITE, 1, pages, 0, 0
    )


def names(body: bytes, skip: int) -> list[str]:
    """The names that follow ``skip`` bytes."""
    return [os.fsdecode(raw) for raw in body[skip:].split(b"\0")[:-1]]


def write(body: bytes) -> tuple[int, bytes]:
    """(offset, data) of WRITE."""
    _handle, offset, size, *_ = _WRITE_IN.unpack_from(body)
    return offset, body[_WRITE_IN.size : _WRITE_IN.size + size]


def changes(body: bytes) -> tuple[int, int, int, int]:
    """(which are valid, size, mtime in ns, mode) of SETATTR."""
    valid, _, _, size, _, _, mtime, _, _, mtime_ns, _, mode, *_ = _SETATTR_IN.unpack_from(body)
    return valid, size, mtime * 10**9 + mtime_ns, mode


def attributes(
    *, inode: int, size: int, blocks: int, mtime_ns: int, ctime_ns: int, mode: int, links: int
) -> bytes:
    """``struct fuse_attr``."""
    times = (mtime_ns, mtime_ns, ctime_ns)
    return _ATTR.pack(
        *(inode, size, blocks),
        *(time // 10**9 for time in times),
        *(time % 10**9 for time in times),
        *(mode, links, os.getuid(), os.getgid(), 0, 4096, 0),
    )
