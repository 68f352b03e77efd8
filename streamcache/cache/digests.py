"""Digests of the blocks of a file: a file of their own beside it, ``<name>.sums``.

A header, then 8 bytes per block of 64 KiB: its xxh3 digest, 0 where none was recorded (a digest of
0 comes once in 2^64). They are written by the worker that writes the block, before the map says
that it is present, and are renamed with the data, so they belong to the object. Not in an extended
attribute: ext4 has 4 KiB for all of them.

Worker threads. The digest is for finding what a disk or a stranger did, not for keeping an attacker
out: whoever can write the file can write its digests. Source: XXH3, https://xxhash.com.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from streamcache.cache.blockmap import BLOCK
from streamcache.errors import ConfigError
from streamcache.extras import installing

SUFFIX: Final = ".sums"
_HEADER: Final = b"streamcache sums xxh3 65536\n".ljust(64, b"\0")
_WIDTH: Final = 8
_MAX: Final = 1 << 33  # bytes: of a file of 64 TiB

Digest = Callable[[Any], int]


def digest() -> Digest:
    """The function from a block's bytes to its digest.

    Raises ConfigError without the package, which does not say who needs it.
    """
    try:
        import xxhash
    except ImportError:
        raise ConfigError(f"needs the package xxhash; install it: {installing('xxhash')}") from None
    function: Digest = xxhash.xxh3_64_intdigest
    return function


def digest_of_copies(where: str = "cache.checksum") -> Digest:
    """The same for what is copied. Raises ConfigError; ``where`` the option stands."""
    try:
        return digest()
    except ConfigError as error:
        raise ConfigError(f'{where}: "xxh3" {error}; allowed: "off" without it') from None


def digests_of(data: memoryview, function: Digest) -> bytes:
    """Of whole blocks from ``data`` on, the last one perhaps shorter."""
    found = [function(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK)]
    return struct.pack(f"<{len(found)}Q", *found)


def place(block: int) -> int:
    """Where the digest of this block is in the file."""
    return len(_HEADER) + block * _WIDTH


def open_for(path: str, size: int) -> int:
    """A descriptor to write digests of a file of ``size`` bytes with; one that is there goes on.

    What is there and is none of ours is replaced. Raises OSError.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    length = place(-(-size // BLOCK))
    for _ in range(2):
        try:
            fd = os.open(path, flags | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            os.unlink(path)
            continue
        try:
            status = os.fstat(fd)
            if not status.st_size and stat.S_ISREG(status.st_mode):
                os.pwrite(fd, _HEADER, 0)
                os.ftruncate(fd, length)
                return fd
            if status.st_size == length and os.pread(fd, len(_HEADER), 0) == _HEADER:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        os.unlink(path)
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), path)


@dataclass(frozen=True, slots=True)
class Digests:
    """What was recorded of one file, block by block from the ``first`` on; 0: nothing."""

    recorded: tuple[int, ...]
    first: int = 0

    @classmethod
    def read(cls, path: str, size: int, start: int = 0, stop: int | None = None) -> Digests | None:
        """Those of the blocks [start, stop) of a file of ``size`` bytes, which are all if nothing
        is said; None: there are none. Raises OSError.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(path, flags)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                return None
            raise
        try:
            status, count = os.fstat(fd), -(-size // BLOCK)
            if not stat.S_ISREG(status.st_mode) or not place(count) == status.st_size <= _MAX:
                return None
            if os.pread(fd, len(_HEADER), 0) != _HEADER:
                return None
            begin, end = place(start), place(count if stop is None else stop)
            raw = b""
            while piece := os.pread(fd, min(1 << 20, end - begin - len(raw)), begin + len(raw)):
                raw += piece
        finally:
            os.close(fd)
        if len(raw) != end - begin:
            return None
        return cls(struct.unpack(f"<{len(raw) // _WIDTH}Q", raw), start)

    def wrong(self, fd: int, start: int, stop: int, size: int, function: Digest) -> list[int]:
        """The blocks of [start, stop) whose bytes are not those that were written. OSError."""
        found = []
        for block in range(start, stop):
            if recorded := self.recorded[block - self.first]:
                length = min(BLOCK, size - block * BLOCK)
                data = os.pread(fd, length, block * BLOCK)
                if len(data) < length or function(data) != recorded:
                    found.append(block)
        return found
