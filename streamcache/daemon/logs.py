"""Logging of the daemon: one event a line, to stderr; and what its processes are called.

Processes of one daemon share the descriptor of stderr. A line is one ``write``, so lines of two
are not mixed.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

from streamcache.config.log import LogConfig
from streamcache.daemon.stderr import Stderr

log = logging.getLogger(__name__)

_DATE: Final = "%Y-%m-%d %H:%M:%S"
_PR_SET_NAME: Final = 15  # prctl(2)

_role = ""
_form = "text"
_stderr = Stderr()

# What could end a line, or change the terminal that shows it.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# A conversion of a message's format, and the name in front of it: "copied path=%r bytes=%d".
_CONVERSION = re.compile(r"(?:\b([a-z_]+)=)?%(?:(%)|[-#0 +]*[0-9]*(?:\.[0-9]+)?([a-z]))")


def configure(config: LogConfig, role: str = "") -> None:
    """Send what is serious enough to stderr. For daemons, not for libraries.

    ``role`` ("w1") stands in each line, to tell processes apart.
    """
    global _role
    _role = role
    _stderr.open()
    logging.getLogger().handlers[:] = [_Handler()]
    reconfigure(config)
    # A stderr that went away must not add a traceback per line, nor stop the serving.
    logging.raiseExceptions = False


def reconfigure(config: LogConfig) -> None:
    """Another level or form, after ``configure``."""
    global _form
    _form = config.errors
    logging.getLogger().setLevel(config.level.upper())
    _set_formatter()


def retire() -> None:
    """Another daemon has taken over: from now on the lines of the two are told apart."""
    global _role
    _role = f"old-{_role}" if _role else "old"
    _set_formatter()


def _set_formatter() -> None:
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines(_role) if _form == "json" else TextLines(_role))


@contextmanager
def as_words() -> Iterator[None]:
    """For a command: warnings go to stderr, in the form of its errors."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Words())
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def role() -> str:
    """What this process is called in the logs; "" for the only one."""
    return _role


def uncaught(
    context: object,
    kind: type[BaseException],
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """In place of ``Hub.print_exception``, which writes many lines, and waits for who reads them.

    ``context``: the greenlet or callback that ended with it.
    """
    log.error("failed in=%r", context, exc_info=(kind, error or Exception(), trace))


def name_process(name: str) -> None:
    """What ``ps -e`` and ``top`` show instead of "python"; the kernel keeps 15 bytes."""
    # Not through /proc/self/comm: that is root's in a process that has become another user.
    ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode("ascii")), 0, 0, 0)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
        else:
            _stderr.write(f"{line}\n")


class _Words(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"streamcache: {record.levelname.lower()}: {record.getMessage()}"


class TextLines(logging.Formatter):
    r"""``TIME LEVEL ROLE LOGGER MESSAGE``; a traceback is in the same line, its ends as ``\n``."""

    def __init__(self, role: str) -> None:
        before = f"{role} " if role else ""
        super().__init__(
            f"%(asctime)s.%(msecs)03d %(levelname)-7s {before}%(name)s %(message)s", _DATE
        )

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        text = super().format(record)
        return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class JsonLines(logging.Formatter):
    """One JSON object a line, all of it ASCII.

    Beside what every line has: ``event``, the fixed words of the message, and the values that it
    names, with numbers as numbers.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        message = record.getMessage()
        event, values = _named(record)
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{now}.{int(record.created % 1 * 1000):03d}Z",
            "level": record.levelname.lower(),
            "process": self._role or None,
            "logger": record.name,
            "event": event or message,
            "message": message,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        line |= {name: value for name, value in values.items() if name not in line}
        plain = {name: _plain(value) for name, value in line.items()}
        # JSON lets DEL pass, a terminal may not.
        return json.dumps(plain, separators=(",", ":")).replace("\x7f", "\\u007f")


def _named(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """The words of a message before its first value, and the values that have a name there."""
    if not isinstance(record.msg, str) or not isinstance(record.args, tuple):
        return "", {}
    found = [each for each in _CONVERSION.finditer(record.msg) if each[3]]
    event = record.msg[: found[0].start()] if found else record.msg
    values = {
        name: value
        for name, value in zip((each[1] for each in found), record.args, strict=False)
        if name
    }
    return event.rstrip(" :("), values


def _plain(value: object) -> str | int | float | None:
    if value is None or value == "-":
        return None
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()
