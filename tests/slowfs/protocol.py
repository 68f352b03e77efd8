"""The kernel's FUSE protocol (linux/fuse.h, 7.31), as far as this file system needs it.

Bytes in, values out and back; no system calls here. Spoken directly rather than through libfuse
because LOOKUP and GETATTR stay apart (they are one callback there), an operation that hangs costs
no thread, and nothing needs to be installed.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKDIR, UNLINK, RMDIR, RENAME = 9, 10, 11, 12
OPEN, READ, WRITE, STATFS, RELEASE, FSYNC = 14, 15, 16, 17, 18, 20
INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = 26, 27, 28, 29, 30
CREATE, INTERRUPT, DESTROY, BATCH_FORGET, RENAME2 = 35, 36, 38, 42, 45

NAMES = {
    LOOKUP: "lookup",
    GETATTR: "getattr",
    READLINK: "readlink",
    OPEN: "open",
    READ: "read",
    OPENDIR: "opendir",
    READDIR: "readdir",
}
CHANGES = {
    SETATTR: "setattr",
    SYMLINK: "symlink",
    MKDIR: "mkdir",
    UNLINK: "unlink",
    RMDIR: "rmdir",
    RENAME: "rename",
    RENAME2: "rename",
    WRITE: "write",
    FSYNC: "fsync",
    FSYNCDIR: "fsync",
    CREATE: "create",
}
"""What a file system that can be written to knows besides."""
NAMES |= CHANGES
"""Operations that take time and that faults can hit; the others are answered at once."""

# Flags of INIT. No FUSE_AUTO_INVAL_DATA: with it every read would ask for the attributes first,
# which a network file system does not do either (close-to-open: it asks when a file is opened).
ASYNC_READ = 1 << 0
ASYNC_DIO = 1 << 15
PARALLEL_DIROPS = 1 << 18
MAX_PAGES = 1 << 22
WANTED = ASYNC_READ | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES

FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
GETATTR_FH = 1 << 0

ROOT = 1  # nodeid
MINOR = 31  # highest version whose structures are used here
MAX_WRITE = 256 * 1024  # bytes of one WRITE at most
REQUEST_SIZE = MAX_WRITE + 64 * 1024  # bytes of buffer for one request

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_READ_IN = struct.Struct("<QQIIQII")
_WRITE_IN = struct.Struct("<QQIIQII")
_SETATTR_IN = struct.Struct("<II6Q8I")
_DIRENT = struct.Struct("<QQII")
_STATFS = struct.Struct("<5Q4I24x")


SET_MODE, SET_SIZE, SET_ATIME, SET_MTIME, SET_NOW = 1, 8, 16, 32, 128 | 256


@dataclass(frozen=True, slots=True)
class Wanted:
    """Attributes as they shall be; None: as they are."""

    size: int | None
    mode: int | None
    times: tuple[int, int] | None  # (atime, mtime) in ns
    now: bool  # the times shall be now


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the kernel; ``thread`` is the id of the thread that waits for it."""

    opcode: int
    unique: int
    node: int
    thread: int
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """The request in one read of /dev/fuse."""
        length, opcode, unique, node, _uid, _gid, thread, _ext, _pad = _IN.unpack_from(data)
        return cls(opcode, unique, node, thread, data[_IN.size : length])

    def name(self) -> str:
        """The name of LOOKUP."""
        return os.fsdecode(self.body.split(b"\0", 1)[0])

    def names(self, skip: int) -> list[str]:
        """The names after ``skip`` bytes: one of CREATE, MKDIR; two of RENAME, SYMLINK."""
        return [os.fsdecode(name) for name in self.body[skip:].split(b"\0")[:-1]]

    def number(self, offset: int = 0, *, wide: bool = False) -> int:
        """The number of 32 (64) bits there."""
        return struct.unpack_from("<Q" if wide else "<I", self.body, offset)[0]

    def write(self) -> tuple[int, int, bytes]:
        """(handle, offset, data) of WRITE."""
        handle, offset, size, *_rest = _WRITE_IN.unpack_from(self.body)
        return handle, offset, self.body[_WRITE_IN.size : _WRITE_IN.size + size]

    def setattr(self) -> Wanted:
        """What SETATTR wants to be so."""
        valid, _pad, _handle, size, _owner, atime, mtime, _ctime, *rest = _SETATTR_IN.unpack_from(
            self.body
        )
        atime_ns, mtime_ns, _ctime_ns, mode, *_rest = rest
        times = None
        if valid & (SET_ATIME | SET_MTIME) == SET_ATIME | SET_MTIME and not valid & SET_NOW:
            times = (atime * 10**9 + atime_ns, mtime * 10**9 + mtime_ns)
        return Wanted(
            size=size if valid & SET_SIZE else None,
            mode=mode & 0o7777 if valid & SET_MODE else None,
            times=times,
            now=bool(valid & SET_NOW),
        )

    def init(self) -> tuple[int, int, int, int]:
        """(major, minor, max_readahead, flags) of INIT."""
        return _INIT_IN.unpack_from(self.body)

    def read(self) -> tuple[int, int, int]:
        """(handle, offset, size) of READ and READDIR."""
        return _READ_IN.unpack_from(self.body)[:3]

    def handle(self) -> int:
        """The handle of RELEASE and RELEASEDIR."""
        return struct.unpack_from("<Q", self.body)[0]

    def getattr_handle(self) -> int | None:
        """The open handle GETATTR speaks of (fstat), or None (stat)."""
        flags, _pad, handle = struct.unpack_from("<IIQ", self.body)
        return handle if flags & GETATTR_FH else None

    def open_flags(self) -> int:
        """The O_ flags of OPEN."""
        return struct.unpack_from("<I", self.body)[0]

    def forgotten(self) -> list[tuple[int, int]]:
        """(node, lookups to take back) of FORGET and BATCH_FORGET."""
        if self.opcode == FORGET:
            return [(self.node, struct.unpack_from("<Q", self.body)[0])]
        count, _pad = struct.unpack_from("<II", self.body)
        return list(struct.iter_unpack("<QQ", self.body[8 : 8 + 16 * count]))

    def interrupted(self) -> int:
        """``unique`` of the request that INTERRUPT is about."""
        return struct.unpack_from("<Q", self.body)[0]


def header(unique: int, length: int, error: int = 0) -> bytes:
    """The head of an answer with ``length`` bytes of body, or with an errno."""
    return _OUT.pack(_OUT.size + length, -error, unique)


def init_reply(*, max_readahead: int, flags: int, max_background: int, max_pages: int) -> bytes:
    """Body of the answer to INIT."""
    return _INIT_OUT.pack(
        7,
        MINOR,
        max_readahead,
        flags,
        max_background,
        max_background,
        MAX_WRITE,
        1,
        max_pages,
        0,
        0,
    )


def attributes(stat: os.stat_result, size: int) -> bytes:
    """``struct fuse_attr``; ``size`` may differ from the real one (truncation fault)."""
    return _ATTR.pack(
        stat.st_ino,
        size,
        stat.st_blocks,
        *(ns // 10**9 for ns in (stat.st_atime_ns, stat.st_mtime_ns, stat.st_ctime_ns)),
        *(ns % 10**9 for ns in (stat.st_atime_ns, stat.st_mtime_ns, stat.st_ctime_ns)),
        stat.st_mode,
        stat.st_nlink,
        stat.st_uid,
        stat.st_gid,
        0,
        4096,
        0,
    )


def entry_reply(node: int, attr: bytes, entry_timeout: float, attr_timeout: float) -> bytes:
    """Body of the answer to LOOKUP."""
    (entry_s, entry_ns), (attr_s, attr_ns) = _split(entry_timeout), _split(attr_timeout)
    return struct.pack("<QQQQII", node, 0, entry_s, attr_s, entry_ns, attr_ns) + attr


def attr_reply(attr: bytes, attr_timeout: float) -> bytes:
    """Body of the answer to GETATTR."""
    seconds, nanoseconds = _split(attr_timeout)
    return struct.pack("<QII", seconds, nanoseconds, 0) + attr


def open_reply(handle: int, flags: int) -> bytes:
    """Body of the answer to OPEN and OPENDIR."""
    return struct.pack("<QII", handle, flags, 0)


def write_reply(size: int) -> bytes:
    """Body of the answer to WRITE."""
    return struct.pack("<II", size, 0)


def directory_entry(inode: int, offset: int, kind: int, name: str) -> bytes:
    """One padded entry of READDIR; ``offset`` is where the next one starts."""
    raw = os.fsencode(name)
    return _DIRENT.pack(inode, offset, len(raw), kind) + raw + bytes(-len(raw) % 8)


def statfs_reply(stat: os.statvfs_result) -> bytes:
    """Body of the answer to STATFS."""
    return _STATFS.pack(
        stat.f_blocks,
        stat.f_bfree,
        stat.f_bavail,
        stat.f_files,
        stat.f_ffree,
        stat.f_bsize,
        stat.f_namemax,
        stat.f_frsize,
        0,
    )


def _split(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole, int((seconds - whole) * 10**9)
