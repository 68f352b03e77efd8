"""The files of partials under ``partial/``: begin, continue, drop, look through. Worker threads.

Whoever begins, renames or removes them holds the key's lock (``locks.KeyLocks``). Whether a partial
is in use is asked of the kernel: each session holds the first byte of its map (``partial.py``).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace

from streamcache.cache import digests, locks
from streamcache.cache.blockmap import BLOCK
from streamcache.cache.digests import Digest
from streamcache.cache.names import bytes_on_disk, is_name, remove_foreign
from streamcache.cache.partial import IN_USE, Partial, PartialHeader
from streamcache.cache.space import footprint
from streamcache.errors import CacheBusy

# Opening a folder, a link (which leads anywhere) or a FIFO: whatever that is, it is not ours.
_FOREIGN = (errno.EISDIR, errno.ELOOP, errno.ENXIO)
_MAX_HEADER = 1 << 16  # bytes: a path of 4096 bytes in JSON, and more
_MAX_MAP = 1 << 30  # bytes: a map of 64 TiB


class Leftover(enum.Enum):
    """What is there under the name of a partial that no session works on."""

    PARTIAL = enum.auto()  # it can be continued
    JOURNAL = enum.auto()  # a map without data: it was published, or nothing was begun
    UNSOUND = enum.auto()  # of no use


@dataclass(frozen=True, slots=True)
class Idle:
    """A partial that no session works on."""

    name: str
    kind: Leftover
    path: str  # at the source, "" if its map does not say
    on_disk: int  # bytes
    size: int = 0  # bytes of the whole file, of a PARTIAL
    present: int = 0  # of these, those in blocks that are there


class PartialFolder:
    """The ``partial/`` of one cache directory."""

    def __init__(self, root: str, boot: str, digest: Digest | None = None) -> None:
        """``digest``: of each block that is written; None: none is recorded."""
        self._root = os.path.join(root, "partial")
        self._boot = boot
        self._digest = digest

    def open(self, name: str, header: PartialHeader) -> tuple[Partial, bytes]:
        """Continue the partial of that name, or begin one; its map bytes, b"": it is new.

        What is there and is not this version's goes. Raises CacheBusy when another session works
        on that, OSError.
        """
        found = self._continue(name, header)
        if found is None:
            self._drop_sums(name)
            found = (self._begin(name, header), b"")
        if self._digest is not None:
            try:
                found[0].record(digests.open_for(self.sums(name), header.size), self._digest)
            except BaseException:
                found[0].close()
                raise
        return found

    def settle(self, name: str) -> int | None:
        """What is left of it: bytes on disk; 0: it is gone; None: others work on it.

        What cannot be continued is removed. Raises OSError.
        """
        return self._settle(name, (Leftover.PARTIAL,))

    def remove(self, name: str) -> int | None:
        """The same, and all is removed that nobody works on."""
        return self._settle(name, ())

    def look(self, name: str) -> Idle | None:
        """What is there under this name; None: nothing, or somebody works on it."""
        with self._owned(name) as (_, idle):
            return idle

    def path(self, name: str) -> str:
        """The path at the source, also of one that is worked on; "": its map does not say."""
        try:
            fd = os.open(self.map_path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return ""
        try:
            return PartialHeader.decode(os.pread(fd, _MAX_HEADER, 0))[0].path
        except (OSError, ValueError):
            return ""
        finally:
            os.close(fd)

    def room(self) -> list[tuple[str, int]]:
        """All partials and the bytes on disk that they take, or may take if they are in use.

        Also those that are of no use: they take room until a sweep removes them.
        """
        found = []
        for name in self.names():
            with self._owned(name) as (there, idle), contextlib.suppress(FileNotFoundError):
                if there and idle is None:
                    room = footprint(os.stat(self.data(name)).st_size)
                elif idle is None:  # data without a map
                    room = os.stat(self.data(name), follow_symlinks=False).st_blocks * 512
                else:
                    room = idle.on_disk
                if room:
                    found.append((name, room))
        return found

    def taken(self) -> int:
        """Bytes on disk of all that lies there, whoever works on it."""
        taken = 0
        with os.scandir(self._root) as files:
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    taken += file.stat(follow_symlinks=False).st_blocks * 512
        return taken

    def names(self) -> list[str]:
        """The names of all partials and journals; foreign files are removed."""
        names = set()
        for file in os.listdir(self._root):
            name, _, suffix = file.rpartition(".")
            if suffix in ("map", "data", "sums") and is_name(name):
                names.add(name)
            else:
                remove_foreign(os.path.join(self._root, file))
        return sorted(names)

    def data(self, name: str) -> str:
        """The path of its data file."""
        return os.path.join(self._root, name + ".data")

    def map_path(self, name: str) -> str:
        """The path of its map."""
        return os.path.join(self._root, name + ".map")

    def is_there(self, name: str) -> bool:
        """It has a map, whoever works on it."""
        return os.path.lexists(self.map_path(name))

    def sums(self, name: str) -> str:
        """The path of its digests."""
        return os.path.join(self._root, name + digests.SUFFIX)

    def is_another(self, name: str, inode: int) -> bool:
        """Whether the data file of that name is not the one of this ``inode``; 0: any is ours."""
        with contextlib.suppress(FileNotFoundError):
            return bool(inode) and os.stat(self.data(name), follow_symlinks=False).st_ino != inode
        return False

    def retire(self, name: str, trash: str) -> bool:
        """The data file becomes ``trash`` (a path) and the map goes, although it is worked on.

        Who does goes on with what it has open. Whether there was one. Raises OSError.
        """
        self.drop_map(name)
        self._drop_sums(name)
        try:
            os.rename(self.data(name), trash)
        except FileNotFoundError:
            return False
        return True

    def drop(self, name: str) -> None:
        """Remove its files, the map first: data without a map is nothing."""
        self.drop_map(name)
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # that is foreign
            os.unlink(self.data(name))
        self._drop_sums(name)

    def drop_map(self, name: str) -> None:
        """The catalog knows the object: its journal can go."""
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(self.map_path(name))

    # -- inside

    def _drop_sums(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(self.sums(name))

    def _settle(self, name: str, kept: tuple[Leftover, ...]) -> int | None:
        with self._owned(name) as (there, idle):
            if there and idle is None:
                return None
            if idle is not None and idle.kind in kept:
                return idle.on_disk
            self.drop(name)
            return 0

    def _continue(self, name: str, header: PartialHeader) -> tuple[Partial, bytes] | None:
        try:
            partial, raw = self._open_both(name)
        except (FileNotFoundError, ValueError):
            self.drop(name)
            return None
        except OSError as error:
            if error.errno not in _FOREIGN:
                raise
            self.drop(name)
            return None
        with contextlib.ExitStack() as stack:
            stack.callback(partial.close)
            found = self._read(raw, os.fstat(partial.read_fd))
            if found is not None and found[0] == header:
                if not partial.join():
                    raise CacheBusy(f"{name}: is being removed")
                stack.pop_all()
                return partial, found[1]
            if not partial.try_own():
                raise CacheBusy(f"{name}: another session copies what is not quite the same")
            self.drop(name)
            return None

    def _begin(self, name: str, header: PartialHeader) -> Partial:
        flags = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.ExitStack() as stack:
            write_fd = _opened(stack, self.data(name), os.O_WRONLY | flags)
            stack.callback(self.drop, name)  # half a partial would be in no account
            read_fd = _opened(stack, self.data(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            map_fd = _opened(stack, self.map_path(name), os.O_RDWR | flags)
            raw = replace(header, home=_home(os.fstat(write_fd))).encode()
            os.ftruncate(write_fd, header.size)
            os.pwrite(map_fd, raw, 0)
            os.ftruncate(map_fd, len(raw) + _block_count(header.size))
            partial = Partial(
                name, read_fd=read_fd, write_fd=write_fd, map_fd=map_fd, map_start=len(raw)
            )
            if not partial.join():
                raise CacheBusy(f"{name}: is being removed")
            stack.pop_all()
        return partial

    def _open_both(self, name: str) -> tuple[Partial, bytes]:
        """The files as they are, and the bytes of the map. ValueError: that is no map of ours."""
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.ExitStack() as stack:
            map_fd = _opened(stack, self.map_path(name), os.O_RDWR | flags)
            raw = _read_plain(map_fd)
            write_fd = _opened(stack, self.data(name), os.O_WRONLY | flags)
            read_fd = _opened(stack, self.data(name), os.O_RDONLY | flags)
            try:
                start = PartialHeader.decode(raw)[1]
            except ValueError:
                start = len(raw)  # it may be in use all the same
            stack.pop_all()
        partial = Partial(name, read_fd=read_fd, write_fd=write_fd, map_fd=map_fd, map_start=start)
        return partial, raw

    def _read(self, raw: bytes, data: os.stat_result) -> tuple[PartialHeader, bytes] | None:
        """Header and map bytes; None: unsound, of another boot, or of another data file."""
        try:
            header, start = PartialHeader.decode(raw)
        except ValueError:
            return None
        present, size = raw[start:], data.st_size
        sound = (
            header.boot == self._boot
            and header.home in ("", _home(data))
            and size == header.size
            and len(present) == _block_count(size)
            and not present.strip(b"\0\1")
        )
        return (header, present) if sound else None

    @contextlib.contextmanager
    def _owned(self, name: str) -> Iterator[tuple[bool, Idle | None]]:
        """Whether there is a map, and what is there; None: somebody works on it, or no map is."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.ExitStack() as stack:
            try:
                map_fd = _opened(stack, self.map_path(name), flags)
            except FileNotFoundError:
                yield False, None
                return
            except OSError as error:
                if error.errno not in _FOREIGN:
                    raise
                yield True, Idle(name, Leftover.UNSOUND, "", 0)
                return
            if not locks.try_lock(map_fd, IN_USE, 1):
                yield True, None
                return
            yield True, self._judge(name, map_fd)

    def _judge(self, name: str, map_fd: int) -> Idle:
        try:
            raw = _read_plain(map_fd)
            path = PartialHeader.decode(raw)[0].path
        except ValueError:
            raw, path = b"", ""
        try:
            data = os.stat(self.data(name), follow_symlinks=False)
        except FileNotFoundError:
            return Idle(name, Leftover.JOURNAL, path, 0)
        found = self._read(raw, data)
        on_disk = (data.st_blocks + os.fstat(map_fd).st_blocks) * 512
        on_disk += bytes_on_disk(self.sums(name))
        if found is None:
            return Idle(name, Leftover.UNSOUND, path, on_disk)
        size, present = data.st_size, found[1].count(1) * BLOCK
        if found[1].endswith(b"\1"):  # the last block ends with the file
            present -= len(found[1]) * BLOCK - size
        return Idle(name, Leftover.PARTIAL, path, on_disk, size, present)


def _opened(stack: contextlib.ExitStack, path: str, flags: int) -> int:
    fd = os.open(path, flags, 0o600)
    stack.callback(os.close, fd)
    return fd


def _read_plain(fd: int) -> bytes:
    """All bytes of a map. ValueError: whatever has its name is not one."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_MAP:
        raise ValueError("not a block map")
    raw = bytearray()
    while piece := os.pread(fd, 1 << 20, len(raw)):
        raw += piece
    return bytes(raw)


def _home(data: os.stat_result) -> str:
    return f"{data.st_dev}:{data.st_ino}"


def _block_count(size: int) -> int:
    return -(-size // BLOCK)
