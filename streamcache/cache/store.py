"""The layout on disk: whose the directory is, and its objects. Worker-thread functions.

objects/ab/<key>.<version>      complete and durable, never written again (I5)
partial/                        copies under way (``partials.py``)
trash/                          still read by somebody, unlinked when they are done
pins/                           paths that are not to be evicted (``pins.py``)
mounts                          where each source was mounted when it was last seen

Several processes may use one directory. Who reads an object holds a shared flock on it; who wants
to remove it asks for the exclusive one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from streamcache.cache import locks
from streamcache.cache.digests import SUFFIX, Digest
from streamcache.cache.names import blocks_of, is_name, remove_foreign
from streamcache.cache.ownership import make_ours
from streamcache.cache.partial import FORMAT, path_of
from streamcache.cache.partials import PartialFolder
from streamcache.cache.pins import PinFolder
from streamcache.errors import CacheBusy, CacheError
from streamcache.source.base import Version

_DIRECTORIES = ("objects", "partial", "trash", "pins")
_PROBE = "probe"
_PROBE_BYTES = 64 * 1024
# A byte of ``lock`` beyond those of the keys. Shared: uses the directory; exclusive: opens it.
_USE = 1 << 61
_ROUNDED = 2 * 10**9  # ns that a file system may be off with a file's time
_KEPT_TIMES = range(2**31 * 10**9)  # ns since the epoch: what every file system can keep
_OPEN_WAIT = 30.0  # s that another process may take to open the directory
_OPEN_POLL = 0.02  # s


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the disk shows it; ``path`` is told by ``all_objects``, where it is known."""

    name: str
    version: Version
    blocks: int  # bytes on disk
    stored: float  # s since the epoch: when it got its name
    path: str = ""  # at the source


class Fate(enum.Enum):
    """What became of an object that was to go."""

    GONE = enum.auto()  # also if it was gone before
    TRASHED = enum.auto()  # somebody reads it: it is in trash/
    LEFT = enum.auto()  # it is as it was


@dataclass(frozen=True, slots=True)
class Renewed:
    """What had to be made again in a cache directory."""

    lock: int  # the new file of locks, as all of it had been removed; -1: it is there
    objects_lost: bool  # their folder had been removed


class Store:
    """One cache directory."""

    def __init__(self, root: str, digest: Digest | None = None) -> None:
        """``digest``: of the blocks of what is copied; None: none is recorded."""
        self.root = os.path.realpath(root)
        self.boot = _boot_id()
        self.lock = -1  # descriptor of the file of locks
        self._device = 0  # where it lies
        self.partials = PartialFolder(self.root, self.boot, digest)
        self.pins = PinFolder(self.root)

    def prepare(self) -> bool:
        """Make the directories; whether no other process uses them. Then nobody else comes in
        before ``share``. Raises CacheError, CacheBusy, OSError.
        """
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        self._device = make_ours(self.root).st_dev
        marker = os.path.join(self.root, "format")
        present = [name for name in _DIRECTORIES if os.path.lexists(self._path(name))]
        if present and not os.path.exists(marker):
            raise CacheError(
                f"cache directory {self.root!r} has a {present[0]!r} that streamcache did not make;"
                " name an empty directory"
            )
        self.lock = self._open_lock()
        alone = self._enter(self.lock)
        if alone:
            self._mark(marker)
        self._make_folders()
        return alone

    def join(self) -> None:
        """Use a directory that is there, as one of those who share it; nothing is made.

        Raises CacheError, CacheBusy, OSError.
        """
        marker, text = self._path("format"), f"streamcache {FORMAT}\n"
        try:
            with open(marker, encoding="ascii", errors="replace") as file:
                found = file.read(200)
            self.lock = os.open(self._path("lock"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CacheError(f"{self.root!r} is no cache directory of streamcache") from None
        if found != text:
            raise CacheError(f"cache directory {self.root!r} is of another format")
        self._device = os.stat(self.root).st_dev
        deadline = time.monotonic() + _OPEN_WAIT
        while not locks.try_lock(self.lock, _USE, 1, shared=True):
            if time.monotonic() > deadline:
                raise CacheBusy(f"cache directory {self.root!r} is being opened by another process")
            time.sleep(_OPEN_POLL)

    def look(self) -> None:
        """Whether the directory is what it was when it was prepared. Raises CacheError, OSError."""
        if not self._has_lock():
            raise CacheError(f"cache directory {self.root!r} was removed")
        for name in _DIRECTORIES:
            if not stat.S_ISDIR(os.lstat(self._path(name)).st_mode):
                raise CacheError(f"{self._path(name)!r} is no directory any more")

    def probe(self) -> Renewed:
        """Write, sync and remove a file, after folders that are missing were made again.

        Raises CacheError, OSError.
        """
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        if os.stat(self.root).st_dev != self._device:
            raise CacheError(f"cache directory {self.root!r} is on another file system now")
        make_ours(self.root)  # it may be another one, or somebody else's by now
        with contextlib.ExitStack() as stack:
            lock = -1
            if not self._has_lock():
                lock = self._open_lock()
                stack.callback(os.close, lock)
                if self._enter(lock):
                    self._mark(self._path("format"))
            lost = not os.path.lexists(self._path("objects"))
            self._make_folders()
            self._write_and_sync(self._path(_PROBE))
            if lock >= 0:
                locks.try_lock(lock, _USE, 1, shared=True)
            stack.pop_all()
        return Renewed(lock, lost)

    def take_lock(self, lock: int) -> None:
        """What ``probe`` returned is the file of locks from now on."""
        old, self.lock = self.lock, lock
        os.close(old)

    def share(self) -> None:
        """Other processes may use the directory too, from now on."""
        locks.try_lock(self.lock, _USE, 1, shared=True)

    def close(self) -> None:
        """Use it no longer."""
        fd, self.lock = self.lock, -1
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
        path, known = self._path("mounts"), self._seen_mounts()
        before = known.get(source, "")
        if isinstance(before, str) and len(before) > len(now):
            return before
        if before != now:
            known = {**known, source: now}
            with open(path + ".new", "w", encoding="utf-8", errors="surrogateescape") as file:
                json.dump(known, file)
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the name and no content
            os.rename(path + ".new", path)
        return now

    def seen_mount(self, source: str, now: str) -> str:
        """The same, and nothing is remembered."""
        before = self._seen_mounts().get(source, "")
        return before if isinstance(before, str) and len(before) > len(now) else now

    def _seen_mounts(self) -> dict[str, object]:
        try:
            with open(self._path("mounts"), encoding="utf-8", errors="surrogateescape") as file:
                known = json.load(file)
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    # -- objects

    def publish(self, name: str, inode: int) -> int:
        """Rename the sealed data file to its place under objects/, durably; its disk bytes.

        Raises CacheBusy when the file of that name is not that ``inode`` any more, OSError.
        """
        data, target = self.partials.data(name), self.object_path(name)
        sums = self.partials.sums(name)
        if self.published(name, inode) is not False:
            raise CacheBusy(f"{name}: its partial has lost its name")
        folder = os.path.dirname(target)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        else:
            _sync_directory(self._path("objects"))
        recorded = _sync_file(sums)
        os.rename(data, target)
        try:
            if recorded:
                os.rename(sums, target + SUFFIX)
            else:
                remove_foreign(target + SUFFIX)
            _sync_directory(folder)
            return blocks_of(target) + blocks_of(target + SUFFIX)
        except OSError:
            os.unlink(target)  # in no account: nobody would ever evict it
            raise

    def published(self, name: str, inode: int) -> bool | None:
        """Whether this file is the object of that name; None: it has lost its own name."""
        # In the direction of the rename: it may happen between the two looks.
        for path, answer in ((self.partials.data(name), False), (self.object_path(name), True)):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path, follow_symlinks=False).st_ino == inode:
                    return answer
        return None

    def open_object(self, name: str, version: Version) -> int:
        """A read-only descriptor with a lease; -1: there is none, or it is going.

        What somebody else has written to is removed: its size or its pinned time is another.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # no wait for a FIFO
        try:
            fd = os.open(self.object_path(name), flags)
        except FileNotFoundError:
            return -1
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, fd)
            if not is_untouched(os.fstat(fd), version):
                remove_foreign(self.object_path(name))
            elif lease(fd) and os.fstat(fd).st_nlink:
                stack.pop_all()
                return fd
        return -1

    def object_path(self, name: str) -> str:
        """Where it is, if it is."""
        return self._path("objects", name[:2], name)

    def find_object(self, name: str) -> StoredObject | None:
        """What the disk says of this object."""
        try:
            status = os.lstat(self.object_path(name))
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        version = Version(name.partition(".")[2], status.st_size, status.st_mtime_ns)
        blocks = status.st_blocks * 512 + blocks_of(self.object_path(name) + SUFFIX)
        return StoredObject(name, version, blocks, status.st_ctime)

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
                remove_foreign(path)
                continue
            files = os.listdir(path)
            for file in files:
                if file.endswith(SUFFIX) and self.find_object(file.removesuffix(SUFFIX)):
                    continue  # its digests
                if not (is_name(file) and file.startswith(folder)):
                    remove_foreign(self._path("objects", folder, file))
                elif (stored := self.find_object(file)) is not None:
                    where = path_of(self.object_path(file))
                    batch.append(dataclasses.replace(stored, path=where))
            yield batch

    def lost_objects(self, names: list[str]) -> list[str]:
        """Those of them that are not there."""
        return [name for name in names if self.find_object(name) is None]

    def remove_objects(self, names: list[str]) -> list[str]:
        """Unlink those that nobody reads; returns what is gone, also when it was gone before."""
        gone = []
        for name in names:
            with contextlib.suppress(OSError):
                if self.remove_object(name)[0] is Fate.GONE:
                    gone.append(name)
        return gone

    def remove_object(self, name: str, trash: str = "") -> tuple[Fate, int]:
        """Unlink it, or rename it to ``trash`` in trash/ when it is read; and its bytes there."""
        fate, blocks = self._take_away(name, trash)
        if fate is not Fate.LEFT:
            remove_foreign(self.object_path(name) + SUFFIX)
        return fate, blocks

    def _take_away(self, name: str, trash: str) -> tuple[Fate, int]:
        path = self.object_path(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return Fate.GONE, 0
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR):
                raise
            remove_foreign(path)  # not ours, whatever it is
            return Fate.GONE, 0
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                remove_foreign(path)
                return Fate.GONE, 0
            if _is_free(fd):
                with contextlib.suppress(FileNotFoundError):
                    if os.lstat(path).st_ino == status.st_ino:  # else it is a new one
                        os.unlink(path)
                return Fate.GONE, 0
            if not trash:
                return Fate.LEFT, 0
            try:
                os.rename(path, self._path("trash", trash))
            except FileNotFoundError:
                return Fate.GONE, 0
            return Fate.TRASHED, status.st_blocks * 512
        finally:
            os.close(fd)

    def is_at_its_name(self, name: str, inode: int) -> bool:
        """Whether the object of that name is the file of this inode."""
        try:
            return os.lstat(self.object_path(name)).st_ino == inode
        except FileNotFoundError:
            return False

    # -- trash

    def retire_partial(self, name: str, trash: str) -> bool:
        """See ``PartialFolder.retire``; ``trash`` is its name in trash/."""
        return self.partials.retire(name, self._path("trash", trash))

    def trash(self) -> list[tuple[str, int]]:
        """What is in trash/: names and bytes on disk; what is no file is removed."""
        found = []
        for file in os.listdir(self._path("trash")):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(self._path("trash", file))
                if stat.S_ISREG(status.st_mode):
                    found.append((file, status.st_blocks * 512))
                else:
                    remove_foreign(self._path("trash", file))
        return found

    def is_read(self, file: str) -> bool:
        """Whether somebody reads this file of trash/."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self._path("trash", file), flags)
        except OSError:  # gone, or not ours
            return False
        try:
            return not _is_free(fd)
        finally:
            os.close(fd)

    def empty_trash(self, files: list[str]) -> list[str]:
        """Unlink those that nobody reads any more; returns what is gone."""
        gone = []
        for file in files:
            path = self._path("trash", file)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                gone.append(file)
                continue
            except OSError:  # not ours
                remove_foreign(path)
                continue
            try:
                if _is_free(fd):
                    remove_foreign(path)
                    gone.append(file)
            finally:
                os.close(fd)
        return gone

    # -- inside

    def _path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def _open_lock(self) -> int:
        return os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _has_lock(self) -> bool:
        """Whether the file of locks that we have is the one that others will find."""
        try:
            return os.path.samestat(os.stat(self._path("lock")), os.fstat(self.lock))
        except FileNotFoundError:
            return False

    def _make_folders(self) -> None:
        for name in _DIRECTORIES:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._path(name), 0o700)
            if os.path.islink(self._path(name)):
                raise CacheError(f"{self._path(name)!r} is a symbolic link; a directory is needed")
            make_ours(self._path(name))

    @staticmethod
    def _write_and_sync(path: str) -> None:
        """Of several processes each does it; whoever comes second finds nothing to remove."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.pwrite(fd, bytes(_PROBE_BYTES), 0) < _PROBE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _enter(self, lock: int) -> bool:
        """Use the directory; whether as the only one. Waits while another process opens it."""
        deadline = time.monotonic() + _OPEN_WAIT
        while True:
            if locks.try_lock(lock, _USE, 1):
                return True
            if locks.try_lock(lock, _USE, 1, shared=True):
                return False
            if time.monotonic() > deadline:
                raise CacheBusy(f"cache directory {self.root!r} is being opened by another process")
            time.sleep(_OPEN_POLL)

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


def is_untouched(status: os.stat_result, version: Version) -> bool:
    """Whether the file has the size and the modification time that the copy was given.

    Not to the nanosecond: some file systems keep 2 s. A file is older than that when it is copied
    (``source.settle``), so whoever writes to it later moves its time by more.
    """
    moved = abs(status.st_mtime_ns - version.mtime_ns) > _ROUNDED
    return status.st_size == version.size and not (moved and version.mtime_ns in _KEPT_TIMES)


def lease(fd: int) -> bool:
    """Hold the object as a reader, so that no process removes it; False: it is going.

    For the description of ``fd``, however often it is called. Does not block.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def release(fd: int) -> None:
    """The opposite of ``lease``."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def _is_free(fd: int) -> bool:
    """Nobody reads it, and until ``fd`` is closed nobody begins to."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_file(path: str) -> bool:
    """Whether it is there: then it is durable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


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
