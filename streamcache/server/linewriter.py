"""A log file that never holds the hub: lines are held, and written by a worker thread of its own.

``add``, ``flush``, ``reopen`` and ``close`` are the hub's, without a lock; the thread makes every
system call on the file but the first open. Lines are handed to it every ``LINES_HELD`` lines and
at every ``flush``.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import stat
import sys
from collections.abc import Iterator
from typing import Final

from streamcache.cache.workers import WorkerPool
from streamcache.errors import SourceBusy

log = logging.getLogger(__name__)

LINES_HELD: Final = 256  # then they are written in one call: a flush per second costs a late p99
BYTES_HELD: Final = 16 * 1024 * 1024  # that wait for the disk; then lines are lost
CLOSE_WAIT: Final = 2.0  # s that the last lines get

STDERR: Final = "-"
_END: Final = ord("\n")


class LineWriter:
    """Where lines go: "-" is stderr, else a file that is appended to, or a FIFO.

    Opening it raises OSError and never waits; later errors, and a disk that does not keep up,
    hurt nobody: one warning, lines are lost, and how many is said when writing works again.
    """

    def __init__(self, target: str, fd: int = -1) -> None:
        """``fd``: the file, if ``open_log`` has opened it already; owned from now on."""
        self._target = target
        self._lines: list[str] = []
        self._given = 0  # bytes, to the worker
        self._dropped = 0  # lines that were not given to it
        self._said = 0  # lines lost that were spoken of
        self._failing = False
        # Written by the worker, read by the hub.
        self._taken = 0  # bytes
        self._failed = 0  # lines that could not be written
        self._error: Exception | None = None  # of the last write
        self._refused: Exception | None = None  # of opening it again
        # The worker's own.
        self._torn = False  # the last thing that was written has no end
        self._to_stderr = target == STDERR
        self._fd = fd if fd >= 0 or self._to_stderr else open_log(target)
        self._worker = WorkerPool("log", size=1)  # one: lines stay in order

    def __repr__(self) -> str:
        return f"<LineWriter {self._target} lines={len(self._lines)} lost={self.lost}>"

    @property
    def lost(self) -> int:
        """Lines that will never be written."""
        return self._dropped + self._failed

    def add(self, line: str) -> None:
        """Take one line, with its end."""
        self._lines.append(line)
        if len(self._lines) >= LINES_HELD:
            self.flush()

    def flush(self) -> None:
        """Have written what is held. Does not switch."""
        self._complain()
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        if self._given - self._taken > BYTES_HELD:
            self._dropped += len(lines)
            return
        data = "".join(lines).encode("ascii", "backslashreplace")
        try:
            self._worker.post(self._write, data)
        except SourceBusy:  # no thread can be had
            self._dropped += len(lines)
        else:
            self._given += len(data)

    def reopen(self) -> None:
        """Go on in the file that has the name now. Does not switch.

        What was held goes to the file before. One that cannot be opened is a warning, and the
        file before is written on.
        """
        self.flush()
        with contextlib.suppress(SourceBusy):
            self._worker.post(self._reopen)

    def close(self) -> None:
        """Write what is held and close the file; idempotent. Switches, for ``CLOSE_WAIT`` s."""
        self.flush()
        self._worker.close()
        if self._worker.join(CLOSE_WAIT):
            fd, self._fd = self._fd, -1
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._complain()
        if self.lost > self._said:
            log.warning("access log lost lines=%d file=%r", self.lost, self._target)
            self._said = self.lost

    def _complain(self) -> None:
        """Say that lines are being lost, once, and how many, when that is over."""
        error, lost = self._error, self.lost
        refused, self._refused = self._refused, None
        if refused is not None:
            form = "access log not opened, the one before is written on file=%r error=%s"
            log.warning(form, self._target, refused)
        # Behind until half of it is written: else a disk that is a little slow is a line a second.
        most = BYTES_HELD // 2 if self._failing else BYTES_HELD
        if error is not None or self._given - self._taken > most:
            if not self._failing:
                self._failing = True
                reason = error or "the disk does not keep up"
                form = "access log cannot be written, lines are lost file=%r reason=%s"
                log.warning(form, self._target, reason)
        elif self._failing:
            self._failing = False
            form = "access log is written again file=%r lost=%d"
            log.warning(form, self._target, lost - self._said)
            self._said = lost

    # -- the worker thread's side

    def _reopen(self) -> None:
        if self._to_stderr:
            return
        try:
            fd = open_log(self._target)
        except OSError as error:
            self._refused = error
            return
        before, self._fd, self._torn = self._fd, fd, False
        with contextlib.suppress(OSError):
            os.close(before)

    def _write(self, lines: bytes) -> None:
        """Write all of it, or count what is lost."""
        written = 0  # bytes of it; a disk that is full takes a part of a line, and the rest never
        try:
            fd = self._descriptor()
            # Several processes may write there. A file is appended to as one piece, and a pipe
            # takes one only up to PIPE_BUF.
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            for piece in _pieces(lines, len(lines) if regular else select.PIPE_BUF):
                begun = written
                mend = b"\n" if self._torn else b""
                view = memoryview(mend + piece)
                while view:
                    view = view[os.write(fd, view) :]
                    written = begun + len(piece) - min(len(view), len(piece))
                    self._torn = written > 0 and lines[written - 1] != _END
        except (OSError, ValueError) as error:
            self._failed += lines.count(b"\n", written)
            self._error = error
        else:
            self._error = None
        finally:
            self._taken += len(lines)

    def _descriptor(self) -> int:
        """Where to write. ValueError: nowhere."""
        # The descriptor of stderr, not its Python object: that one may be patched, have a lock
        # or buffer. A file may have been closed meanwhile (a late line after close()).
        if self._to_stderr and sys.__stderr__ is not None:
            return sys.__stderr__.fileno()
        if self._fd < 0:
            raise ValueError("it is closed")
        return self._fd


def open_log(path: str) -> int:
    """A descriptor that appends to this file, made if need be. Raises OSError; never waits."""
    flags = os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | flags, 0o644)
    except OSError as error:
        if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):
            raise
        # A FIFO that nobody reads yet. Its own reader it has from now on: one that comes finds
        # what the kernel held for it, and one that goes is no error.
        fd = os.open(path, os.O_RDWR | flags)
    os.set_blocking(fd, True)
    return fd


def _pieces(lines: bytes, most: int) -> Iterator[bytes]:
    """Whole lines, together no longer than ``most`` bytes; a longer line alone."""
    start = 0
    while len(lines) - start > most:
        end = lines.rfind(b"\n", start, start + most) + 1 or lines.index(b"\n", start) + 1
        yield lines[start:end]
        start = end
    yield lines[start:]
