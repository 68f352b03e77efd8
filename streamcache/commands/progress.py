"""A line that shows how far something is, on a terminal; elsewhere nothing but its end is told."""

from __future__ import annotations

import shutil
import sys
import time
from typing import IO, Final

from streamcache.commands import output

_EVERY: Final = 0.1  # s between two pictures
_LONGEST: Final = 40  # characters of the bar
_SHORTEST: Final = 10


class Progress:
    """``with Progress("warm") as line: line.show(...)``; the line is gone at the end."""

    def __init__(self, what: str, *, stream: IO[str] | None = None) -> None:
        self._what = what
        self._stream = stream or sys.stderr
        self._shown = output.is_terminal(self._stream)
        self._last = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown and self._last:
            self._write("\r\x1b[K")

    def show(
        self,
        done: float,
        whole: float,
        *,
        text: str = "",
        rate: float = 0.0,
        remaining: float | None = None,
    ) -> None:
        """Bytes (or anything) of how many, a text beside the bar, bytes/s, seconds left."""
        now = time.monotonic()
        if not self._shown or now - self._last < _EVERY:
            return
        self._last = now
        part = min(1.0, done / whole) if whole else 0.0
        words = [text] if text else []
        if rate:
            words.append(output.rate(rate))
        if remaining is not None:
            words.append(f"{output.duration(remaining)} left")
        beside = f"{100 * part:3.0f} %  " + "  ".join(words)
        columns = shutil.get_terminal_size().columns
        room = min(_LONGEST, columns - len(self._what) - len(beside) - 6)
        line = f"{self._what}  {bar(part, room) if room >= _SHORTEST else ''} {beside}"
        self._write(f"\r\x1b[K{line[: columns - 1]}")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def bar(part: float, width: int) -> str:
    """ "######----" """
    full = round(part * width)
    return "#" * full + "-" * (width - full)
