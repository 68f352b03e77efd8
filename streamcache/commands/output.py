"""What commands print: sizes and times for people, tables, colours where a terminal shows them."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from typing import IO, Any, Final

_UNSHOWN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")

BOLD, DIM, RED, YELLOW = "1", "2", "31", "33"


def is_terminal(stream: IO[Any]) -> bool:
    """Whether a person reads along."""
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False


def can_draw(stream: IO[Any]) -> bool:
    """Whether what is there can be written over: a terminal that is no dumb one."""
    return is_terminal(stream) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def has_colours(stream: IO[Any]) -> bool:
    """Whether to colour what goes there: a terminal that can, and nobody said no (no-color.org)."""
    return can_draw(stream) and not os.environ.get("NO_COLOR")


def coloured(text: str, *codes: str, stream: IO[Any] | None = None) -> str:
    """The text in these, on a terminal."""
    if not codes or not text or not has_colours(stream or sys.stdout):
        return text
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m"


def size(count: float) -> str:
    """ "1.23 GB": three digits, powers of 1000, as --cache-size has them."""
    value, unit = float(count), 0
    while abs(value) >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    if not unit:
        return f"{value:.0f} B"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {_UNITS[unit]}"


def rate(count: float) -> str:
    """Bytes a second."""
    return f"{size(count)}/s"


def duration(seconds: float) -> str:
    """ "4 s", "3 min 05 s", "2 h 10 min", "5 d 3 h"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(moment: float) -> str:
    """How long a time (s since the epoch) is past."""
    return f"{duration(time.time() - moment)} ago"


def count(number: int) -> str:
    """ "1,234"."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """ "1 file", "2 files"."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def share(part: float, whole: float) -> str:
    """ "12.3 %"."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def path(text: str) -> str:
    """A path from "a/b" or "/a/b", so that it can do nothing to the terminal that shows it."""
    if not text:
        return "(path not known)"
    return plain(text if text.startswith("/") else f"/{text}")


def plain(text: str) -> str:
    """What strangers named, so that it can do nothing to the terminal that shows it."""
    return _UNSHOWN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str], right: str = "") -> str:
    """Columns under a head; ``right``: a letter for each column, "r" stands on the right."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if right[at : at + 1] == "r" else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([coloured(line(head), BOLD), *map(line, rows)])


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values under each other."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        f"{coloured(name.ljust(width), DIM)}  {value}".rstrip() for name, value in rows
    )


def can_ask() -> bool:
    """Whether there is somebody who can answer a question."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def confirm(question: str) -> bool:
    """Ask on the terminal."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def tell(text: str) -> None:
    """A line beside the result: on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
