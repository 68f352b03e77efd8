"""The layout on disk, and whose the directory is. Worker-thread functions.

objects/ab/<key>.<version>      complete and durable, never written again (``stored.py``)
partial/                        copies under way (``partials.py``)
trash/                          still read by somebody, unlinked when they are done
pins/                           paths that are not to be evicted (``pins.py``)
mounts                          where each source was mounted when it was last seen

Several processes may use one directory; bytes of ``lock`` tell who does.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import time
from dataclasses import dataclass

from streamcache.cache import locks
from streamcache.cache.digests import Digest
from streamcache.cache.marker import MARK, read_mark, write_mark
from streamcache.cache.names import FOLDERS
from streamcache.cache.ownership import ALLOWED, expect_cache, make_ours
from streamcache.cache.partials import PartialFolder
from streamcache.cache.pins import PinFolder
from streamcache.cache.stored import ObjectFolder
from streamcache.errors import CacheBusy, CacheError, CacheForeign

_PROBE = "probe"
_PROBE_BYTES = 64 * 1024
# A byte of ``lock`` beyond those of the keys. Shared: uses the directory; exclusive: opens it.
_USE = 1 << 61
_OPEN_WAIT = 30.0  # s that another process may take to open the directory
_OPEN_POLL = 0.02  # s


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
        self._home = -1  # that of the directory: as long as it is open no other is the same file
        self.partials = PartialFolder(self.root, self.boot, digest)
        self.objects = ObjectFolder(self.root, self.partials)
        self.pins = PinFolder(self.root)

    def prepare(self) -> bool:
        """Make the directories; whether no other process uses them. Then nobody else comes in
        before ``share``. Raises CacheForeign, and has changed nothing; CacheError, CacheBusy,
        OSError.
        """
        expect_cache(self.root)
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"cache directory {self.root!r} cannot be made: {error.strerror}"
            ) from error
        make_ours(self.root)
        self._home = self._open_home()
        self.lock = self._open_lock()
        alone = self._enter(self.lock)
        if alone:
            self._mark()
        self._make_folders()
        return alone

    def join(self) -> None:
        """Use a directory that is there, as one of those who share it; nothing is made.

        Raises CacheError, CacheBusy, OSError.
        """
        foreign = CacheError(f"{self.root!r} is no cache directory of streamcache")
        if read_mark(self.root) != MARK:
            raise foreign
        try:
            self.lock = os.open(self._path("lock"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise foreign from None
        deadline = time.monotonic() + _OPEN_WAIT
        while not locks.try_lock(self.lock, _USE, 1, shared=True):
            if time.monotonic() > deadline:
                raise CacheBusy(f"cache directory {self.root!r} is being opened by another process")
            time.sleep(_OPEN_POLL)

    def look(self) -> None:
        """Whether the directory is what it was when it was prepared. Raises CacheError, OSError."""
        if not self._has_lock():
            raise CacheError(f"cache directory {self.root!r} was removed")
        for name in FOLDERS:
            if not stat.S_ISDIR(os.lstat(self._path(name)).st_mode):
                raise CacheError(f"{self._path(name)!r} is no directory any more")

    def probe(self) -> Renewed:
        """Write, sync and remove a file, after folders that are missing were made again.

        Raises CacheForeign for what is in the directory's place and no cache, and has changed
        nothing; CacheError, OSError.
        """
        if not self._is_home():
            expect_cache(self.root)
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        if os.stat(self.root).st_dev != os.fstat(self._home).st_dev:
            raise CacheError(f"cache directory {self.root!r} is on another file system now")
        make_ours(self.root)  # it may be another one, or somebody else's by now
        with contextlib.ExitStack() as stack:
            lock = -1
            if not self._has_lock():
                lock = self._open_lock()
                stack.callback(os.close, lock)
                if self._enter(lock):
                    self._mark()
            lost = not os.path.lexists(self._path("objects"))
            self._make_folders()
            self._write_and_sync(self._path(_PROBE))
            if lock >= 0:
                locks.try_lock(lock, _USE, 1, shared=True)
            if not self._is_home():
                self._change_home()
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
        fds = (self.lock, self._home)
        self.lock = self._home = -1
        for fd in fds:
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

    def has_other_sources(self, source: str) -> bool:
        """Whether servers of another source have used this directory."""
        return any(known != source for known in self._seen_mounts())

    def _seen_mounts(self) -> dict[str, object]:
        try:
            with open(self._path("mounts"), encoding="utf-8", errors="surrogateescape") as file:
                known = json.load(file)
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    # -- inside

    def _path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def _open_lock(self) -> int:
        return os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _open_home(self) -> int:
        return os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _is_home(self) -> bool:
        """Whether the directory that we have is the one that others will find."""
        try:
            return os.path.samestat(os.stat(self.root), os.fstat(self._home))
        except FileNotFoundError:
            return False

    def _change_home(self) -> None:
        """One call, as a probe that was given up may come to this beside another one."""
        new = self._open_home()
        try:
            os.dup2(new, self._home, inheritable=False)
        finally:
            os.close(new)

    def _has_lock(self) -> bool:
        """Whether the file of locks that we have is the one that others will find."""
        try:
            return os.path.samestat(os.stat(self._path("lock")), os.fstat(self.lock))
        except FileNotFoundError:
            return False

    def _make_folders(self) -> None:
        for name in FOLDERS:
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

    def _mark(self) -> None:
        mark = read_mark(self.root)
        if not mark:  # new, or a crash came between making and writing it
            write_mark(self.root)
        elif mark != MARK:
            raise CacheForeign(f"cache directory {self.root!r} is somebody else's now; {ALLOWED}")


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return secrets.token_hex(16)  # unlike any other: partials do not outlive the process
