"""What the kernel knows of an open file without asking its server, or what the server says now.

``statx(2)`` with DONT_SYNC and FORCE_SYNC. Worker-thread functions.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from streamcache.source.base import Fingerprint

_AT_EMPTY_PATH = 0x1000
_AT_STATX_FORCE_SYNC = 0x2000
_AT_STATX_DONT_SYNC = 0x4000
_BASIC_STATS = 0x7FF
_SIZE = 256
# mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask,
# then atime, btime, ctime, mtime as (seconds, nanoseconds), then rdev and dev as (major, minor)
_LAYOUT = struct.Struct("=IIQIIIHxxQQQQ" + "qIxxxx" * 4 + "IIII")

_libc = ctypes.CDLL(None, use_errno=True)


def cached_fingerprint(fd: int) -> Fingerprint | None:
    """The attributes in the kernel's cache, however old, if it is a regular file.

    None: it is none, or the system has no such call. A network file system fills them when the
    file is looked up, so just after ``open`` they are what the server said a moment ago, and cost
    no second question.
    """
    buffer = ctypes.create_string_buffer(_SIZE)
    try:
        failed = _libc.statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, _BASIC_STATS, buffer)
    except AttributeError:  # a C library without it
        return None
    if failed:
        return None
    fields = _LAYOUT.unpack_from(buffer.raw)
    mask, links, inode, size = fields[0], fields[3], fields[7], fields[8]
    if mask & _BASIC_STATS != _BASIC_STATS or not stat.S_ISREG(fields[6]):
        return None
    change, modification, device = fields[15:17], fields[17:19], fields[21:23]
    return Fingerprint(
        size=size,
        mtime_ns=modification[0] * 1_000_000_000 + modification[1],
        ctime_ns=change[0] * 1_000_000_000 + change[1],
        inode=inode,
        device=os.makedev(*device),
        links=links,
    )


def ask_server(fd: int) -> None:
    """Have the server say what the open file is, whatever the kernel remembers. Raises OSError.

    An ordinary ``fstat`` may be answered out of the attribute cache of a mount whose server is
    dead.
    """
    buffer = ctypes.create_string_buffer(_SIZE)
    try:
        failed = _libc.statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_FORCE_SYNC, _BASIC_STATS, buffer)
    except AttributeError:  # a C library without it
        os.fstat(fd)
        return
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
