"""A mounted tree as a source. Every method runs in a worker thread (I1)."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from streamcache.config.source import Identity
from streamcache.errors import AccessDenied, NotFound, SourceChanged, SourceUnavailable
from streamcache.source.base import (
    AHEAD_BYTES,
    Ahead,
    Change,
    Fingerprint,
    SourceFile,
    Version,
)
from streamcache.source.beneath import open_beneath
from streamcache.source.mounts import Mount, covering, mounts
from streamcache.source.statx import ask_server, cached_fingerprint
from streamcache.source.walk import Walked, walk

# What says that the name does not lead to a file, whatever the state of the source.
_GONE = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.EINVAL,
    errno.ENXIO,  # a socket
    errno.ESPIPE,  # a FIFO
}
# ELOOP and EXDEV: a symbolic link that leads out of the root, or in circles.
_LINK = {errno.ELOOP, errno.EXDEV}
_DENIED = {errno.EACCES, errno.EPERM}


class FileSystemSource:
    """The tree below ``root``, which lies on a mounted file system."""

    def __init__(self, root: str, *, id: str = "", identity: Identity = "mtime") -> None:
        """``root`` must be a directory now; the mount it lies on is remembered (I15)."""
        self.root = os.path.realpath(root)
        self.id = id or self.root
        self.identity = identity
        self._mounts = mounts()
        self._expected = self.mount_point
        self._identity, self._vacant = _identity(self.root), _is_vacant(self.root)

    def __repr__(self) -> str:
        return f"<FileSystemSource {self.root!r}>"

    @property
    def mount_point(self) -> str:
        """Where the file system of the root was mounted at the start; "" where /proc is silent."""
        mount = covering(self._mounts, self.root)
        return "" if mount is None else mount.point

    def expect_mount(self, point: str) -> None:
        """It was mounted at ``point`` in an earlier life: without that it is not there (I15)."""
        self._expected = point

    def open(self, path: str, ahead: int | None = None) -> SourceFile:
        """Open and fstat. A missing file is proven twice before it is called missing (I15)."""
        try:
            file = self._open(path, ahead)
        except NotFound:
            self._prove_mounted(path)
        else:
            if self._vacant:
                self._adopt(mounts())
                self._vacant = False
            return file
        try:
            return self._open(path, ahead)
        except NotFound:
            self._prove_mounted(path)
            raise

    def stat(self, path: str) -> Fingerprint:
        """What the file at ``path`` is now, by name."""
        fd = self._descriptor(path, os.O_PATH)
        try:
            return Fingerprint.of(os.fstat(fd))
        except OSError as error:
            raise _translated(error, path) from error
        finally:
            os.close(fd)

    def read_into(self, file: SourceFile, buffer: memoryview, offset: int) -> int:
        """preadv until the buffer is full or the file ends; fewer bytes only at the end."""
        done = 0
        try:
            while done < len(buffer):
                count = os.preadv(file.fd, [buffer[done:]], offset + done)
                if not count:
                    break
                done += count
        except OSError as error:
            raise _failed(error, file) from error
        return done

    def drop_cached(self, file: SourceFile) -> None:
        """Its pages go from the kernel's cache."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def fingerprint(self, file: SourceFile) -> Fingerprint:
        """fstat of the open file."""
        try:
            return Fingerprint.of(os.fstat(file.fd))
        except OSError as error:
            raise _failed(error, file) from error

    def reopen(self, file: SourceFile, seen: Fingerprint) -> Fingerprint:
        """Under the same descriptor number: who reads from it meanwhile reads the old one (I4)."""
        try:
            new = self.open(file.path)
        except (NotFound, AccessDenied) as error:
            raise SourceChanged(f"/{file.path}: stale, and no longer there") from error
        try:
            if seen.compare(new.fingerprint) is Change.REWRITTEN:
                raise SourceChanged(f"/{file.path}: stale, and replaced at the source")
            os.dup2(new.fd, file.fd, inheritable=False)
            return new.fingerprint
        except OSError as error:
            raise _translated(error, file.path) from error
        finally:
            new.close()

    def walk(
        self, folder: str, *, is_meant: Callable[[str], bool], may_hold: Callable[[str], bool]
    ) -> Iterator[list[Walked]]:
        """Of a source that is not mounted nothing is said (I15)."""
        self._prove_mounted(folder)
        try:
            yield from walk(self._descriptor, folder, is_meant=is_meant, may_hold=may_hold)
        except OSError as error:
            raise _translated(error, folder) from error

    def probe(self, known: str | None) -> None:
        """Ask for the root's attributes, past the kernel's cache.

        The root alone says little when it is not the file system of the start: an empty mount
        point answers too. Then a file that was there must be there.
        """
        fd = self._root()
        try:
            ask_server(fd)
        except OSError as error:
            raise _translated(error, self.root) from error
        finally:
            os.close(fd)
        try:
            self._prove_mounted("")
        except SourceUnavailable:
            if known is None:
                raise
            self.open(known).close()

    def _open(self, path: str, ahead: int | None) -> SourceFile:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        fd = self._descriptor(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            # Read-ahead is ours, not the kernel's: see docs/architecture.md, "Reading a slow file".
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            # Known without a question, just now from the look-up: with the fstat that follows
            # the read it proves the bytes of one version, and saves one round trip before them.
            before = None if ahead is None else cached_fingerprint(fd)
            data = b"" if before is None else _read_ahead(fd, ahead or 0)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotFound(errno.ENOENT, "not a regular file", f"/{path}")
        except OSError as error:
            os.close(fd)
            raise _translated(error, path) from error
        now = Fingerprint.of(status)
        # Whole blocks only: fewer bytes are the file's end, or are left to a proper step.
        whole = data and len(data) == min(AHEAD_BYTES, now.size - (ahead or 0))
        first = Ahead(ahead or 0, memoryview(data)) if whole and before == now else None
        return SourceFile(fd, Version.of(status, self.identity), now, first, path)

    def _root(self) -> int:
        try:
            # By name each time: a descriptor of the root would keep a dead mount alive.
            return os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceUnavailable(error.errno, "the source's root is gone", self.root) from error

    def _descriptor(self, path: str, flags: int) -> int:
        root = self._root()
        try:
            return open_beneath(root, path, flags)
        except OSError as error:
            raise _translated(error, path) from error
        finally:
            os.close(root)

    def _prove_mounted(self, path: str) -> None:
        """What the path lay on at the start is still mounted, also within the source."""
        now, named = mounts(), f"/{path}"
        if self._expected != self.mount_point:
            mount = covering(now, self.root)
            if mount is None or mount.point != self._expected:
                raise SourceUnavailable(errno.ENOTCONN, f"{self._expected!r} is not mounted", named)
            self._mounts = now  # mounted after we started
        self._adopt(now)
        whole = covering(self._mounts, self.root)
        inner = covering(self._mounts, os.path.join(self.root, path))
        # Also not hidden: another mount over the source, or over this part of it, counts.
        if covering(now, self.root) == whole and (
            inner is None or covering(now, inner.point) == inner
        ):
            return
        raise SourceUnavailable(errno.ENOTCONN, "not the file system of the start", named)

    def _adopt(self, now: list[Mount]) -> None:
        """Take another mount over the root for the source, where that is certainly right.

        That is: there was nothing before (an empty directory that waits for its file system), or
        it is the same directory of the same file system (a bind mount).
        """
        old, new = covering(self._mounts, self.root), covering(now, self.root)
        if old is None or new is None or old == new or old not in now:
            return
        if self._expected != old.point:
            return
        within = self.root.rstrip("/") + "/"
        if any(mount.point.startswith(within) and mount not in now for mount in self._mounts):
            return  # part of the source was unmounted
        identity = _identity(self.root)
        if not (self._vacant and old.point != self.root):
            same = (old.type, old.device) == (new.type, new.device)  # numbers are used again
            if not same or identity is None or identity != self._identity:
                return
        self._mounts, self._expected = now, new.point
        self._identity, self._vacant = identity, False


def _identity(root: str) -> tuple[int, int] | None:
    """Device and inode; None: they cannot be told."""
    try:
        status = os.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_vacant(root: str) -> bool:
    """Nothing is there: perhaps it waits for a file system."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _read_ahead(fd: int, offset: int) -> bytes:
    """What can be read there; an error is left to those who must report it."""
    try:
        return os.pread(fd, AHEAD_BYTES, offset)
    except OSError:
        return b""


def _failed(error: OSError, file: SourceFile) -> SourceUnavailable:
    """An open file that cannot be read says nothing about whether there is one (I15)."""
    return SourceUnavailable(error.errno, error.strerror or str(error), f"/{file.path}")


def _translated(error: OSError, path: str) -> OSError:
    """Our error for an errno; EMFILE, ENOMEM, EIO, ESTALE ... are never "gone" (I15)."""
    if isinstance(error, (NotFound, AccessDenied, SourceUnavailable)):
        return error
    text, path = error.strerror or str(error), f"/{path}"
    if error.errno in _GONE or error.errno in _LINK:
        return NotFound(error.errno, text, path)
    if error.errno in _DENIED:
        return AccessDenied(error.errno, text, path)
    return SourceUnavailable(error.errno, text, path)
