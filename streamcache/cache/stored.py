"""Objects as files: what lies under ``objects/`` and ``trash/``. Worker-thread functions.

An object is complete and durable before it gets its name, and never written again (I5). Who reads
one holds a shared flock on it, in whichever process; who wants to remove it asks for the exclusive
one, and what is read goes to ``trash/``, until its readers are done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from streamcache.cache.digests import SUFFIX
from streamcache.cache.names import (
    bytes_on_disk,
    is_name,
    remove_foreign,
    sync_directory,
    version_of,
)
from streamcache.cache.partial import path_of
from streamcache.cache.partials import PartialFolder
from streamcache.errors import CacheBusy
from streamcache.source.base import Version

_ROUNDED = 2 * 10**9  # ns that a file system may be off with a file's time
_KEPT_TIMES = range(2**31 * 10**9)  # ns since the epoch: what every file system can keep


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the disk shows it; ``path`` is told by ``all``, where it is known."""

    name: str
    version: Version
    on_disk: int  # bytes
    stored: float  # s since the epoch: when it got its name
    path: str = ""  # at the source


class Fate(enum.Enum):
    """What became of an object that was to go."""

    GONE = enum.auto()  # also if it was gone before
    TRASHED = enum.auto()  # somebody reads it: it is in trash/
    LEFT = enum.auto()  # it is as it was


class ObjectFolder:
    """The ``objects/`` and ``trash/`` of one cache directory."""

    def __init__(self, root: str, partials: PartialFolder) -> None:
        self._root = root
        self._partials = partials

    def publish(self, name: str, inode: int) -> int:
        """Rename the sealed data file to its place under objects/, durably; its disk bytes.

        Raises CacheBusy when the file of that name is not that ``inode`` any more, OSError.
        """
        data, target = self._partials.data(name), self.path(name)
        sums = self._partials.sums(name)
        if self.published(name, inode) is not False:
            raise CacheBusy(f"{name}: its partial has lost its name")
        folder = os.path.dirname(target)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        else:
            sync_directory(self._path("objects"))
        recorded = _sync_file(sums)
        os.rename(data, target)
        try:
            if recorded:
                os.rename(sums, target + SUFFIX)
            else:
                remove_foreign(target + SUFFIX)
            sync_directory(folder)
            return bytes_on_disk(target) + bytes_on_disk(target + SUFFIX)
        except OSError:
            os.unlink(target)  # in no account: nobody would ever evict it
            raise

    def published(self, name: str, inode: int) -> bool | None:
        """Whether this file is the object of that name; None: it has lost its own name."""
        # In the direction of the rename: it may happen between the two looks.
        for path, answer in ((self._partials.data(name), False), (self.path(name), True)):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path, follow_symlinks=False).st_ino == inode:
                    return answer
        return None

    def open(self, name: str, version: Version) -> int:
        """A read-only descriptor with a lease; -1: there is none, or it is going.

        What somebody else has written to is removed: its size or its pinned time is another.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # no wait for a FIFO
        try:
            fd = os.open(self.path(name), flags)
        except FileNotFoundError:
            return -1
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, fd)
            if not is_untouched(os.fstat(fd), version):
                remove_foreign(self.path(name))
            elif lease(fd) and os.fstat(fd).st_nlink:
                stack.pop_all()
                return fd
        return -1

    def path(self, name: str) -> str:
        """Where it is, if it is."""
        return self._path("objects", name[:2], name)

    def find(self, name: str) -> StoredObject | None:
        """What the disk says of this object."""
        try:
            status = os.lstat(self.path(name))
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        version = Version(version_of(name), status.st_size, status.st_mtime_ns)
        on_disk = status.st_blocks * 512 + bytes_on_disk(self.path(name) + SUFFIX)
        return StoredObject(name, version, on_disk, status.st_ctime)

    def versions(self, key: str) -> list[StoredObject]:
        """All objects of a key, the newest last."""
        try:
            files = os.listdir(self._path("objects", key[:2]))
        except FileNotFoundError:
            return []
        names = [file for file in files if file.startswith(key + ".") and is_name(file)]
        found = [stored for name in names if (stored := self.find(name)) is not None]
        return sorted(found, key=lambda stored: stored.stored)

    def is_empty(self) -> bool:
        """No folder of objects is there."""
        return not os.listdir(self._path("objects"))

    def all(self) -> Iterator[list[StoredObject]]:
        """Every object, one folder at a time; foreign files are removed on the way."""
        for folder in sorted(os.listdir(self._path("objects"))):
            batch = []
            path = self._path("objects", folder)
            if os.path.islink(path) or not os.path.isdir(path):  # a link may lead anywhere
                remove_foreign(path)
                continue
            files = os.listdir(path)
            for file in files:
                if file.endswith(SUFFIX) and self.find(file.removesuffix(SUFFIX)):
                    continue  # its digests
                if not (is_name(file) and file.startswith(folder)):
                    remove_foreign(self._path("objects", folder, file))
                elif (stored := self.find(file)) is not None:
                    where = path_of(self.path(file))
                    batch.append(dataclasses.replace(stored, path=where))
            yield batch

    def lost(self, names: list[str]) -> list[str]:
        """Those of them that are not there."""
        return [name for name in names if self.find(name) is None]

    def remove_unread(self, names: list[str]) -> list[str]:
        """Unlink those that nobody reads; returns what is gone, also when it was gone before."""
        gone = []
        for name in names:
            with contextlib.suppress(OSError):
                if self.remove(name)[0] is Fate.GONE:
                    gone.append(name)
        return gone

    def remove(self, name: str, trash: str = "") -> tuple[Fate, int]:
        """Unlink it, or rename it to ``trash`` in trash/ when it is read; and its bytes there."""
        fate, on_disk = self._take_away(name, trash)
        if fate is not Fate.LEFT:
            remove_foreign(self.path(name) + SUFFIX)
        return fate, on_disk

    def _take_away(self, name: str, trash: str) -> tuple[Fate, int]:
        path = self.path(name)
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
            return os.lstat(self.path(name)).st_ino == inode
        except FileNotFoundError:
            return False

    # -- trash

    def retire_partial(self, name: str, trash: str) -> bool:
        """See ``PartialFolder.retire``; ``trash`` is its name in trash/."""
        return self._partials.retire(name, self._path("trash", trash))

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
        return os.path.join(self._root, *parts)


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
