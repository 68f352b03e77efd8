"""The access log: Combined format and four fields of our own, one line per response.

    ADDRESS - - [TIME] "REQUEST LINE" STATUS BODY-BYTES "REFERER" "USER-AGENT"
        CACHE SECONDS "RANGE" END

CACHE is hit, stale, collapsed, miss, bypass or "-" (the cache was not asked); END is "done", or
"cut" for a response that did not leave whole, with the bytes that really left. Lines are held and
written by the hub's thread, with no lock: every ``LINES_HELD`` lines and at every tick.
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
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

LINES_HELD: Final = 256  # then they are written in one call: a flush per second costs a late p99

# Whatever could end a field or a line, or change the terminal that shows it.
_UNSAFE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")


def escape(text: str) -> str:
    r"""``text`` for a quoted field: quotes, backslashes, controls and non-ASCII as ``\xHH``."""
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8 (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{{{code:x}}}"


@dataclass(frozen=True, slots=True)
class Record:
    """What is logged of one response."""

    client: str
    request_line: str  # as received; "-" when it could not be read
    status: int
    body_bytes: int  # that the kernel took from us
    referer: str
    user_agent: str
    cache: str
    seconds: float
    range: str
    whole: bool

    def line(self, stamp: str) -> str:
        """The log line, with its end."""
        return (
            f'{self.client} - - [{stamp}] "{escape(self.request_line)}" {self.status}'
            f' {self.body_bytes} "{escape(self.referer)}" "{escape(self.user_agent)}"'
            f' {self.cache} {self.seconds:.3f} "{escape(self.range)}"'
            f" {'done' if self.whole else 'cut'}\n"
        )


class AccessLog:
    """Where the lines go: "-" is stderr, "off" nowhere, else a file that is appended to.

    Opening it raises OSError; later errors never hurt a request: one warning, and lines are lost
    until writing works again.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._lines: list[str] = []
        self._failing = False
        self._fd = -1
        if target not in ("-", "off"):
            self._fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

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
        """Write what is held."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        try:
            self._write("".join(lines).encode("ascii", "backslashreplace"))
            self._failing = False
        except (OSError, ValueError) as error:
            if not self._failing:
                self._failing = True
                log.warning("access log %s cannot be written: %s", self._target, error)

    def close(self) -> None:
        """Write what is held and close the file; idempotent."""
        self.flush()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _write(self, data: bytes) -> None:
        # The descriptor of stderr, not its Python object: that one may be patched, have a lock
        # or buffer. A file may have been closed meanwhile (a late line after close()).
        fd = self._fd
        if self._target == "-":
            fd = sys.__stderr__.fileno() if sys.__stderr__ is not None else -1
        if fd < 0:
            raise ValueError("it is closed")
        # Several processes may write there. A file is appended to as one piece, and a pipe takes
        # one only up to PIPE_BUF.
        most = len(data) if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
        for piece in _pieces(data, most):
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]


def _pieces(lines: bytes, most: int) -> Iterator[bytes]:
    """Whole lines, together no longer than ``most`` bytes; a longer line alone."""
    start = 0
    while len(lines) - start > most:
        end = lines.rfind(b"\n", start, start + most) + 1 or lines.index(b"\n", start) + 1
        yield lines[start:end]
        start = end
    yield lines[start:]
