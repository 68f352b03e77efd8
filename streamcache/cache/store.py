"""The layout on disk: create, continue, publish and remove. Worker-thread functions.

objects/ab/<key>.<version>      complete and durable, never written again (I5)
partial/<key>.<version>.data    sparse; with .map it is a copy under way
trash/                          still read by somebody, unlinked when they are done
mounts                          where each source was mounted when it was last seen
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace

from streamcache.cache.blockmap import BLOCK
from streamcache.cache.partial import FORMAT, Partial, PartialHeader
from streamcache.errors import CacheError, CacheInUse
from streamcache.source.base import Version

_HEX = frozenset("0123456789abcdef")
_MAX_MAP = 1 << 30  # bytes: a map of 64 TiB
_DIRECTORIES = ("objects", "partial", "trash")


def is_name(text: str) -> bool:
    """Whether this is "<key>.<version>", 32 hexadecimal digits each."""
    key, dot, version = text.partition(".")
    return bool(dot) and all(len(part) == 32 and _HEX.issuperset(part) for part in (key, version))


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the disk shows it."""

    name: str
    version: Version
    blocks: int  # bytes on disk
    stored: float  # s since the epoch: when it got its name
    path: str = ""  # at the source, where that is still known


@dataclass(frozen=True, slots=True)
class StoredPartial:
    """A partial that can be continued."""

    name: str
    header: PartialHeader
    blocks: int  # bytes on disk
    used: float  # s since the epoch


class Store:
    """One cache directory."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self.boot = _boot_id()
        self._lock = -1

    def prepare(self) -> None:
        """Make the directories and take the lock. Raises CacheError, CacheInUse, OSError."""
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        status = os.stat(self.root)
        if status.st_uid != os.geteuid() and os.geteuid() != 0:
            raise CacheError(f"cache directory {self.root!r} belongs to another user")
        marker = os.path.join(self.root, "format")
        present = [name for name in _DIRECTORIES if os.path.lexists(self._path(name))]
        if present and not os.path.exists(marker):
            raise CacheError(
                f"cache directory {self.root!r} has a {present[0]!r} that streamcache did not make;"
                " name an empty directory"
            )
        self._lock = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise CacheInUse(
                f"cache directory {self.root!r} is in use by another process"
            ) from None
        self._mark(marker)
        for name in _DIRECTORIES:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._path(name), 0o700)
            if os.path.islink(self._path(name)):
                raise CacheError(f"{self._path(name)!r} is a symbolic link; a directory is needed")
        self._empty_trash()

    def close(self) -> None:
        """Give up the lock."""
        fd, self._lock = self._lock, -1
        if fd >= 0:
            os.close(fd)

    def free_bytes(self) -> int:
        """Bytes that this user may still write on the cache's file system."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def mount_point(self, source: str, now: str) -> str:
        """Where this source was mounted when it was last seen, if that is deeper than ``now``.

        A source that is not mounted looks like an empty directory, and its files like files that
        are gone. What was seen deepest is remembered in ``mounts``.
        """
        path = self._path("mounts")
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                known = json.load(file)
        except (OSError, ValueError):
            known = {}
        before = known.get(source, "") if isinstance(known, dict) else ""
        if isinstance(before, str) and len(before) > len(now):
            return before
        if before != now:
            known = {**(known if isinstance(known, dict) else {}), source: now}
            with open(path + ".new", "w", encoding="utf-8", errors="surrogateescape") as file:
                json.dump(known, file)
            os.rename(path + ".new", path)
        return now

    # -- partials

    def create_partial(self, name: str, header: PartialHeader) -> Partial:
        """A new, empty partial; whatever had its name goes. Raises OSError."""
        self.drop_partial(name)
        raw = header.encode()
        return self._open_partial(name, header, raw, len(raw), os.O_CREAT | os.O_EXCL)

    def continue_partial(self, name: str, header: PartialHeader) -> tuple[Partial, bytes] | None:
        """The partial of that name and its map bytes, if it is this version's and sound.

        None: there is none (what there was is gone now).
        """
        try:
            found = self._read_map(name)
            if found is None or found[0] != header:
                self.drop_partial(name)
                return None
            _, start, present = found
            return self._open_partial(name, header, None, start, 0), present
        except OSError:
            self.drop_partial(name)
            return None

    def partial_blocks(self, name: str) -> int:
        """Bytes that it takes on disk."""
        files = (self._partial(name) + suffix for suffix in (".data", ".map"))
        return sum(os.stat(file).st_blocks * 512 for file in files)

    def drop_partial(self, name: str) -> None:
        """Remove its files, the map first: data without a map is nothing."""
        for suffix in (".map", ".data"):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # that is foreign
                os.unlink(self._partial(name) + suffix)

    def scan_partials(self, source_id: str) -> tuple[list[StoredPartial], list[StoredObject]]:
        """What was left of copies when the last process ended; the unsound and foreign goes.

        Also objects that were published and perhaps not entered in the catalog: their map goes
        when they are (``drop_partial``).
        """
        partials: list[StoredPartial] = []
        published: list[StoredObject] = []
        names = set()
        for file in os.listdir(self._path("partial")):
            name, _, suffix = file.rpartition(".")
            if suffix in ("map", "data") and is_name(name):
                names.add(name)
            else:
                _remove(self._path("partial", file))
        for name in sorted(names):
            found = self.find_object(name) if self._has_map(name) else None
            if found is not None:
                published.append(replace(found, path=self._path_in_map(name)))
                continue
            kept = self._sound(name, source_id)
            if kept is None:
                self.drop_partial(name)
            else:
                partials.append(kept)
        return partials, published

    # -- objects

    def publish(self, name: str) -> int:
        """Rename the sealed data file to its place under objects/, durably; its disk bytes."""
        target = self._object(name)
        folder = os.path.dirname(target)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        else:
            _sync_directory(self._path("objects"))
        os.rename(self._partial(name) + ".data", target)
        try:
            _sync_directory(folder)
            return os.stat(target).st_blocks * 512
        except OSError:
            os.unlink(target)  # in no account: nobody would ever evict it
            raise

    def drop_map(self, name: str) -> None:
        """The catalog knows the object: its journal can go."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._partial(name) + ".map")

    def open_object(self, name: str, size: int) -> int:
        """A read-only descriptor; -1: there is none. What has another size is removed."""
        try:
            fd = os.open(self._object(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return -1
        try:
            if os.fstat(fd).st_size == size:
                return fd
        except OSError:
            os.close(fd)
            raise
        os.close(fd)
        _remove(self._object(name))
        return -1

    def find_object(self, name: str) -> StoredObject | None:
        """What the disk says of this object."""
        try:
            status = os.lstat(self._object(name))
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        version = Version(name.partition(".")[2], status.st_size, status.st_mtime_ns)
        return StoredObject(name, version, status.st_blocks * 512, status.st_ctime)

    def versions(self, key: str) -> list[StoredObject]:
        """All objects of a key, the newest last."""
        try:
            files = os.listdir(self._path("objects", key[:2]))
        except FileNotFoundError:
            return []
        names = [file for file in files if file.startswith(key + ".") and is_name(file)]
        found = [stored for name in names if (stored := self.find_object(name)) is not None]
        return sorted(found, key=lambda stored: stored.stored)

    def is_empty(self) -> bool:
        """No folder of objects is there."""
        return not os.listdir(self._path("objects"))

    def all_objects(self) -> Iterator[list[StoredObject]]:
        """Every object, one folder at a time; foreign files are removed on the way."""
        for folder in sorted(os.listdir(self._path("objects"))):
            batch = []
            path = self._path("objects", folder)
            if os.path.islink(path) or not os.path.isdir(path):  # a link may lead anywhere
                _remove(path)
                continue
            files = os.listdir(path)
            for file in files:
                if not (is_name(file) and file.startswith(folder)):
                    _remove(self._path("objects", folder, file))
                elif (stored := self.find_object(file)) is not None:
                    batch.append(stored)
            yield batch

    def remove_objects(self, names: list[str]) -> list[str]:
        """Unlink; returns those that are gone, also when they were gone before."""
        gone = []
        for name in names:
            try:
                os.unlink(self._object(name))
            except FileNotFoundError:
                pass
            except OSError:
                continue
            gone.append(name)
        return gone

    def trash_object(self, name: str, serial: int) -> str | None:
        """Rename an object that is being read into trash/; its path there, None: it is gone."""
        target = self._path("trash", f"{name}.{serial}")
        try:
            os.rename(self._object(name), target)
        except FileNotFoundError:
            return None
        return target

    def empty(self, trashed: str, fd: int) -> None:
        """Unlink something in trash/ and close its last descriptor, which frees its blocks."""
        _remove(trashed)
        os.close(fd)

    # -- inside

    def _path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def _partial(self, name: str) -> str:
        return self._path("partial", name)

    def _object(self, name: str) -> str:
        return self._path("objects", name[:2], name)

    def _has_map(self, name: str) -> bool:
        return os.path.exists(self._partial(name) + ".map")

    def _mark(self, marker: str) -> None:
        text = f"streamcache {FORMAT}\n"
        try:
            with open(marker, encoding="ascii", errors="replace") as file:
                found = file.read(200)
        except FileNotFoundError:
            found = ""
        if not found:  # new, or a crash came between making and writing it
            with open(marker, "w", encoding="ascii") as file:
                file.write(text)
            return
        if found != text:
            raise CacheError(
                f"cache directory {self.root!r} is of another format ({found.strip()!r}, not"
                f" {text.strip()!r}); name another directory or empty it"
            )

    def _open_partial(
        self, name: str, header: PartialHeader, raw: bytes | None, start: int, flags: int
    ) -> Partial:
        data, map_path = self._partial(name) + ".data", self._partial(name) + ".map"
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.ExitStack() as stack:
            write_fd = os.open(data, os.O_WRONLY | flags, 0o600)
            stack.callback(os.close, write_fd)
            read_fd = os.open(data, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            stack.callback(os.close, read_fd)
            map_fd = os.open(map_path, os.O_RDWR | flags, 0o600)
            stack.callback(os.close, map_fd)
            if raw is not None:
                os.ftruncate(write_fd, header.size)
                os.pwrite(map_fd, raw, 0)
                os.ftruncate(map_fd, len(raw) + _block_count(header.size))
            stack.pop_all()
        return Partial(name, read_fd=read_fd, write_fd=write_fd, map_fd=map_fd, map_start=start)

    def _path_in_map(self, name: str) -> str:
        try:
            return PartialHeader.decode(_read_plain(self._partial(name) + ".map"))[0].path
        except (OSError, ValueError):
            return ""

    def _read_map(self, name: str) -> tuple[PartialHeader, int, bytes] | None:
        """Header, its length, and the map bytes; None: unsound, or of another boot."""
        try:
            raw = _read_plain(self._partial(name) + ".map")
            size = os.stat(self._partial(name) + ".data").st_size
            header, start = PartialHeader.decode(raw)
        except (OSError, ValueError):
            return None
        present = raw[start:]
        sound = (
            header.boot == self.boot
            and size == header.size
            and len(present) == _block_count(size)
            and not present.strip(b"\0\1")
        )
        return (header, start, present) if sound else None

    def _sound(self, name: str, source_id: str) -> StoredPartial | None:
        found = self._read_map(name)
        if found is None or found[0].source != source_id:
            return None
        used = os.stat(self._partial(name) + ".data").st_mtime
        return StoredPartial(name, found[0], self.partial_blocks(name), used)

    def _empty_trash(self) -> None:
        for file in os.listdir(self._path("trash")):
            _remove(self._path("trash", file))


def _read_plain(path: str) -> bytes:
    """A small file of ours; whatever else may have its name is not opened, or is an OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_MAP:
            raise OSError(errno.EINVAL, "not a block map", path)
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)  # open() leaves it open when it fails, as for a folder


def _block_count(size: int) -> int:
    return -(-size // BLOCK)


def _remove(path: str) -> None:
    """Unlink a file that is not ours; a foreign folder is left alone."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        os.unlink(path)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(fd)


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return secrets.token_hex(16)  # unlike any other: partials do not outlive the process
