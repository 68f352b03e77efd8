"""The file that says which process the daemon is.

Locked as long as that one lives, so it cannot be mistaken for the number of some other process
that came later: the kernel frees the lock of who dies. A process that takes over gets the
descriptor, and with it the lock; it may have no right any more to make such a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import Final, Self

_MOST: Final = 32  # bytes of a file that is one


class PidFileError(Exception):
    """It cannot be had; the message says why, and what is allowed."""


class PidFile:
    """One that is ours."""

    def __init__(self, path: str, fd: int) -> None:
        """Taken over from another process, with its lock; ``take`` makes a new one."""
        self.path = path
        self._fd = fd

    def __repr__(self) -> str:
        return f"<PidFile {self.path!r}>"

    @classmethod
    def take(cls, path: str) -> Self:
        """Make it, or take one that a dead process left, and write our id. PidFileError."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise PidFileError(
                f"{path} cannot be written ({(error.strerror or str(error)).lower()});"
                " allowed: a file in a directory that is there"
            ) from None
        try:
            _claim(path, fd)
            file = cls(path, fd)
            file.write()
        except BaseException:
            os.close(fd)
            raise
        return file

    def fileno(self) -> int:
        """The descriptor, for a process that takes over."""
        return self._fd

    def write(self) -> None:
        """Say that it is this process. OSError."""
        text = f"{os.getpid()}\n".encode()
        if os.pread(self._fd, _MOST, 0) != text:  # else a reader might see it empty for nothing
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text, 0)

    def remove(self) -> None:
        """The daemon ends. Where the file cannot be removed, it is left empty. Idempotent."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self.path), os.fstat(self._fd)):
                os.ftruncate(self._fd, 0)
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Leave it to those who have it too."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _claim(path: str, fd: int) -> None:
    """Lock it, if it is nobody's and looks like one. PidFileError."""
    status = os.fstat(fd)
    text = os.pread(fd, _MOST + 1, 0).strip() if stat.S_ISREG(status.st_mode) else b"no"
    if text and not (text.isdigit() and len(text) <= _MOST):
        raise PidFileError(f"{path} is no pid file; allowed: a new file, or one of ours")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise PidFileError(
            f"{path} belongs to a server that runs, process {text.decode() or 'unknown'};"
            " allowed: the file of none"
        ) from None
