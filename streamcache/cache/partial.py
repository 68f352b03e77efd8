"""A copy that is not complete: a sparse data file and its block map, under ``partial/``.

The data file is opened twice, read-only and write-only: closing a descriptor that wrote would
change the modification time that is pinned to the source's, while readers keep theirs. The map is
written with ``pwrite`` after the data it speaks of (I6), never mapped into memory (SIGBUS).

Several processes may have one partial open. Locks on the bytes of the map tell them apart, one
description per session (``locks.py``): the first byte is held shared by every session, the second
by the one that publishes, and the byte of a block by who copies that block.

``write``, ``put``, ``mark``, ``sync``, ``seal``, ``poison`` and ``close`` run in worker threads;
the locks and the map's bytes, which are in the page cache, are for the hub.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field

from streamcache.cache import locks
from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.digests import Digest, digests_of, place
from streamcache.cache.names import decoded, encoded
from streamcache.errors import CacheError
from streamcache.source.base import SourceFile

FORMAT = 1
PATH_ATTRIBUTE = "user.streamcache.path"  # of an object: its path at the source
_MAGIC = b"streamcache map\n"
_ALIGN = 4096
IN_USE = 0  # the byte of the map that every session holds shared
_PUBLISHING = 1  # the byte that the one who publishes holds


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
    # The data file's own device and inode: of a copy of both files, made while bytes arrived, the
    # map may be newer than the data. Not the source's, and known only once there is a file.
    home: str = field(default="", compare=False)

    @classmethod
    def of(cls, file: SourceFile, path: str, source: str, boot: str) -> PartialHeader:
        """Of a copy of this open file, begun in the boot of that id."""
        now = file.fingerprint
        return cls(
            boot=boot,
            source=source,
            path=path,
            version=file.version.id,
            size=file.version.size,
            mtime_ns=file.version.mtime_ns,
            ctime_ns=now.ctime_ns,
            inode=now.inode,
        )

    @property
    def is_sound(self) -> bool:
        """Whether each field is of its type: a file may say anything."""
        texts = (self.boot, self.source, self.path, self.version, self.home)
        numbers = (self.size, self.mtime_ns, self.ctime_ns, self.inode, self.format)
        return all(type(text) is str for text in texts) and all(
            type(number) is int for number in numbers
        )

    def encode(self) -> bytes:
        """Magic, length, JSON, padded to whole pages."""
        fields = asdict(self)
        if not self.home:
            del fields["home"]  # as up to 0.2.0
        text = json.dumps(fields).encode("ascii")
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
            if not isinstance(fields, dict):
                raise ValueError("no header")
            header = cls(**fields)
            if not header.is_sound or header.encode() != raw[:length]:
                raise ValueError("not a header of this format")
        except TypeError as error:
            raise ValueError(str(error)) from error
        except RecursionError as error:  # lists in lists; encode() sees them later than loads()
            raise ValueError("no header") from error
        return header, length


def path_of(file: str) -> str:
    """The path at the source that ``Partial.seal`` left with an object; "": none is there."""
    try:
        return decoded(os.getxattr(file, PATH_ATTRIBUTE, follow_symlinks=False))
    except OSError:
        return ""


class Partial:
    """The open files of one copy."""

    __slots__ = (
        "_digest",
        "_map_fd",
        "_map_start",
        "_sums_fd",
        "_write_fd",
        "name",
        "read_fd",
    )

    def __init__(
        self, name: str, *, read_fd: int, write_fd: int, map_fd: int, map_start: int
    ) -> None:
        self.name = name
        self.read_fd = read_fd
        self._write_fd = write_fd
        self._map_fd = map_fd
        self._map_start = map_start
        self._sums_fd = -1
        self._digest: Digest | None = None

    def record(self, sums_fd: int, digest: Digest) -> None:
        """From now on the digests of what is written go into that file, which is owned."""
        self._sums_fd, self._digest = sums_fd, digest

    def write(self, extent: Extent, data: memoryview) -> None:
        """Data first, then the map bytes that say so. Raises as ``put``."""
        offset = extent.start * BLOCK
        self.put(offset, data)
        self.mark(offset, len(data))

    def put(self, offset: int, data: memoryview) -> None:
        """The data of whole blocks from ``offset`` on, of which the map says nothing yet.

        Raises OSError, and CacheError if somebody has cut the file: written to behind that, it
        would have its size again, and zeros where present blocks were. Then nothing is promised.
        """
        if os.fstat(self._write_fd).st_size < offset + len(data):
            raise CacheError("the partial was cut by somebody else")
        _pwrite_all(self._write_fd, data, offset)
        if self._digest is not None:
            sums = digests_of(data, self._digest)
            _pwrite_all(self._sums_fd, memoryview(sums), place(offset // BLOCK))

    def mark(self, offset: int, length: int) -> None:
        """These bytes are written: the map says so from now on. Raises OSError."""
        extent = Extent.of(offset, length)
        _pwrite_all(self._map_fd, memoryview(b"\1" * len(extent)), self._map_start + extent.start)

    def sync(self) -> None:
        """Make durable what was written so far, also while more is. Raises OSError; not retried."""
        try:
            os.fdatasync(self._write_fd)
        except OSError:
            # The kernel tells of it once: who opens the file from now on would hear nothing.
            self.poison()
            raise

    def seal(self, mtime_ns: int, path: str = "") -> None:
        """Pin the modification time and make the data durable. Raises OSError; not retried.

        A failed fsync may have thrown the data away (Rebello et al., ATC'20). The path goes with
        it, for a catalog that is rebuilt, where the file system keeps such attributes.
        """
        if path:
            with contextlib.suppress(OSError):
                os.setxattr(self._write_fd, PATH_ATTRIBUTE, encoded(path))
        try:
            os.utime(self._write_fd, ns=(mtime_ns, mtime_ns))
            os.fsync(self._write_fd)
        except OSError:
            with contextlib.suppress(OSError):
                self.poison()  # here, as who asked may be gone by now
            raise

    def poison(self) -> None:
        """Nobody may publish what is here, or continue it: the disk may have lost some of it."""
        os.pwrite(self._map_fd, b"\0", 0)

    @property
    def is_poisoned(self) -> bool:
        """See ``poison``."""
        return os.pread(self._map_fd, 1, 0) != _MAGIC[:1]

    def join(self) -> bool:
        """Hold it as one of the sessions that use it; False: somebody is removing it."""
        return locks.try_lock(self._map_fd, IN_USE, 1, shared=True)

    def try_own(self) -> bool:
        """Hold it as the only one; False: other sessions use it."""
        return locks.try_lock(self._map_fd, IN_USE, 1)

    def try_publish(self) -> bool:
        """Whether it is we who publish it; until ``leave_to_others`` or its end."""
        return locks.try_lock(self._map_fd, _PUBLISHING, 1)

    def leave_to_others(self) -> None:
        """Another session may publish it."""
        if self._map_fd >= 0:
            locks.unlock(self._map_fd, _PUBLISHING, 1)

    def claim(self, extent: Extent) -> bool:
        """These blocks are ours to copy; False: some are another session's."""
        return locks.try_lock(self._map_fd, self._map_start + extent.start, len(extent))

    def give_back(self, extent: Extent) -> None:
        """They are not ours any more."""
        locks.unlock(self._map_fd, self._map_start + extent.start, len(extent))

    def claimed_elsewhere(self, extent: Extent) -> Extent | None:
        """Blocks of this extent that another session has, the part of one claim."""
        held = locks.foreign(self._map_fd, self._map_start + extent.start, len(extent))
        if held is None:
            return None
        start = max(extent.start, held.start - self._map_start)
        return Extent(start, min(extent.stop, held.stop - self._map_start))

    def present(self, start: int, stop: int) -> bytes:
        """What the map says of blocks [start, stop): one byte each, 1 = present."""
        return os.pread(self._map_fd, stop - start, self._map_start + start)

    @property
    def inode(self) -> int:
        """Of the data file: whether a name is still its name."""
        return os.fstat(self._write_fd).st_ino

    def close(self) -> None:
        """Close all descriptors but those that were given away. Idempotent."""
        fds = (self.read_fd, self._write_fd, self._map_fd, self._sums_fd)
        self.read_fd = self._write_fd = self._map_fd = self._sums_fd = -1
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
