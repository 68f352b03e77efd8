"""The access log: Combined format and four fields of our own, one line per response.

    ADDRESS - USER [TIME] "REQUEST LINE" STATUS BODY-BYTES "REFERER" "USER-AGENT"
        CACHE SECONDS "RANGE" END

USER is who gave a right password, else "-". CACHE is hit, stale, collapsed, miss, bypass or "-"
(the cache was not asked); END is "done", or "cut" for a response that did not leave whole, with the
bytes that really left. Lines are held in the hub, with no lock, and handed on every ``LINES_HELD``
lines and at every tick, to a worker thread of the log's own that writes them: a slow disk must not
hold the hub.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
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

MOST_LOGGED: Final = 1024  # characters of a field; strangers choose what is in it

# Whatever could end a field or a line, or change the terminal that shows it.
_UNSAFE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")


class _Escapes(dict[int, str]):
    """What each character becomes; filled as they come."""

    def __missing__(self, code: int) -> str:
        text = chr(code)
        if _UNSAFE.match(text) is not None:
            byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # was no UTF-8 (PEP 383)
            text = f"\\x{byte:02x}" if byte < 256 else f"\\u{{{byte:x}}}"
        if len(self) < 4096:
            self[code] = text
        return text


_ESCAPES = _Escapes()


def escape(text: str) -> str:
    r"""``text`` for a quoted field: quotes, backslashes, controls and non-ASCII as ``\xHH``.

    What is longer than ``MOST_LOGGED`` ends with "...".
    """
    if len(text) <= MOST_LOGGED and _UNSAFE.search(text) is None:
        return text
    escaped = text[: MOST_LOGGED + 1].translate(_ESCAPES)
    return escaped if len(escaped) <= MOST_LOGGED else f"{escaped[:MOST_LOGGED]}..."


def log_line(
    client: str,
    stamp: str,
    request_line: str,
    status: int,
    body_bytes: int,
    referer: str,
    user_agent: str,
    cache: str,
    seconds: str,
    range_: str,
    end: str,
    user: str = "-",
) -> str:
    """One line, with its end; what clients wrote has been through ``escape``.

    ``request_line`` is "-" when it could not be read, ``body_bytes`` what the kernel took from us,
    ``seconds`` has three decimals.
    """
    return (
        f'{client} - {user} [{stamp}] "{request_line}" {status} {body_bytes} "{referer}"'
        f' "{user_agent}" {cache} {seconds} "{range_}" {end}\n'
    )


class AccessLog:
    """Where the lines go: "-" is stderr, "off" nowhere, else a file that is appended to.

    Opening it raises OSError; later errors, and a disk that does not keep up, never hurt a
    request: one warning, and lines are lost until writing works again.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._lines: list[str] = []
        self._lost = 0  # lines since the last flush
        self._given = 0  # bytes, to the worker
        self._taken = 0  # bytes, by it: only the worker counts these
        self._error: BaseException | None = None  # of the last write; set by the worker
        self._failing = False
        self._fd = -1
        if target not in ("-", "off"):
            self._fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._worker = WorkerPool("log", size=1)  # one: lines stay in order

    def __repr__(self) -> str:
        return f"<AccessLog {self._target} lines={len(self._lines)}>"

    @property
    def enabled(self) -> bool:
        """Whether anything is written at all."""
        return self._target != "off"

    def add(self, line: str) -> None:
        """Take one line, with its end."""
        if self.enabled:
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
            self._lost += len(lines)
            return
        data = "".join(lines).encode("ascii", "backslashreplace")
        try:
            self._worker.post(self._write, data)
        except SourceBusy:  # no thread can be had
            self._lost += len(lines)
        else:
            self._given += len(data)

    def reopen(self) -> None:
        """Write on to the file that has the name now. Does not switch."""
        self.flush()
        if self._fd >= 0:
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

    def _complain(self) -> None:
        error, lost = self._error, self._lost
        self._lost = 0
        if error is None and not lost:
            self._failing = False
        elif not self._failing:
            self._failing = True
            reason = error or f"the disk does not keep up, lines lost={lost}"
            log.warning("access log %s cannot be written: %s", self._target, reason)

    def _reopen(self) -> None:
        """Worker thread."""
        try:
            fd = os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self._error = error
            return
        old, self._fd = self._fd, fd
        os.close(old)

    def _write(self, lines: bytes) -> None:
        """Worker thread: write all of it."""
        try:
            self._do_write(lines)
        finally:
            self._taken += len(lines)

    def _do_write(self, lines: bytes) -> None:
        # The descriptor of stderr, not its Python object: that one may be patched, have a lock
        # or buffer. A file may have been closed meanwhile (a late line after close()).
        fd = self._fd
        if self._target == "-":
            fd = sys.__stderr__.fileno() if sys.__stderr__ is not None else -1
        try:
            if fd < 0:
                raise ValueError("it is closed")
            # Several processes may write there. A file is appended to as one piece, and a pipe
            # takes one only up to PIPE_BUF.
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            for piece in _pieces(lines, len(lines) if regular else select.PIPE_BUF):
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
        except (OSError, ValueError) as error:
            self._error = error
        else:
            self._error = None


def _pieces(lines: bytes, most: int) -> Iterator[bytes]:
    """Whole lines, together no longer than ``most`` bytes; a longer line alone."""
    start = 0
    while len(lines) - start > most:
        end = lines.rfind(b"\n", start, start + most) + 1 or lines.index(b"\n", start) + 1
        yield lines[start:end]
        start = end
    yield lines[start:]
