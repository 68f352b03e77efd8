"""A line of the access log: what a response was, as the Combined format or as a JSON object. Hub.

    ADDRESS - USER [TIME] "REQUEST LINE" STATUS BODY-BYTES "REFERER" "USER-AGENT" FIELD ...

The fields behind Combined's own are those of ``log.fields`` that it does not have, by default
CACHE SECONDS "RANGE" OUTCOME BYTES-CACHE BYTES-SOURCE TTFB. Whatever clients wrote is escaped:
nobody can end a field or a line, or change the terminal that shows it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from streamcache.config.log import LogConfig
from streamcache.http.syntax import is_token
from streamcache.server.clock import Clock

MOST_LOGGED: Final = 1024  # characters of a field; strangers choose what is in it
NOTHING: Final = "-"  # stands for what there was not

# Whatever could end a field or a line, or change the terminal that shows it.
_UNSAFE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
# For bytes.translate: what is safe stays what it is.
_PLAIN = bytes(ord("?") if _UNSAFE.match(chr(code)) else code for code in range(256))


@dataclass(slots=True)
class Served:
    """One response. Texts are as the client wrote them, "-" what there was not."""

    client: str  # behind trusted proxies
    method: str  # this and the next two may be what ``words_of`` makes of a refused line
    target: str
    protocol: str
    path: str  # that the target stands for
    status: int
    bytes: int  # of the body, that the kernel took from us
    cache: str  # hit, stale, collapsed, miss, bypass; "-": the cache was not asked
    whole: bool  # all of it has left
    referer: str = NOTHING
    user_agent: str = NOTHING
    host: str = NOTHING
    range: str = NOTHING
    user: str = NOTHING  # who gave a right password
    seconds: float = 0.0  # from the whole head until this line
    ttfb: float | None = 0.0  # s from the whole head until the answer's first byte; None: none left
    bytes_cache: int = 0  # of the file, that were in the cache when they were due
    bytes_source: int = 0  # of the file, that had to come from the source first
    request_id: str = NOTHING

    @property
    def request_line(self) -> str:
        """What Combined shows of the request."""
        if self.protocol == NOTHING:  # it was refused, or none came
            words = [word for word in (self.method, self.target) if word != NOTHING]
            return " ".join(words) or NOTHING
        return f"{self.method} {self.target} {self.protocol}"

    @property
    def outcome(self) -> str:
        """ "done", or "cut" for an answer that did not leave whole."""
        return "done" if self.whole else "cut"


def words_of(line: str) -> tuple[str, str, str]:
    """Method, target and protocol of a request line that was refused, as far as it has them.

    What begins with no method is all target, so that nothing of it is lost.
    """
    method, _, rest = line.partition(" ")
    if not rest or not is_token(method):
        return NOTHING, line or NOTHING, NOTHING
    target, _, protocol = rest.rpartition(" ")
    if target and protocol.startswith("HTTP/"):
        return method, target, protocol
    return method, rest, NOTHING


class Combined:
    """The Combined format, with fields behind it."""

    usual = False  # the fields that ``usual_line`` writes

    def __init__(self, config: LogConfig, worker: str) -> None:
        names = tuple(name for name in config.field_names if name not in _OF_COMBINED)
        self.usual = names == _USUAL
        self._columns = [(_BEHIND[name], _column(name, worker)) for name in names]

    def line(self, served: Served, clock: Clock) -> str:
        """The line, with its end."""
        behind = "".join([write(value(served, clock)) for write, value in self._columns])
        return (
            f"{served.client} - {served.user} [{clock.stamp}]"
            f' "{escape(served.request_line)}" {served.status} {served.bytes}'
            f' "{escape(served.referer)}" "{escape(served.user_agent)}"{behind}\n'
        )


class Json:
    """One JSON object a line (RFC 8259), all of it ASCII."""

    usual = False

    def __init__(self, config: LogConfig, worker: str) -> None:
        names = config.field_names
        self._columns = [(f'"{name}":', _column(name, worker)) for name in names]

    def line(self, served: Served, clock: Clock) -> str:
        """The line, with its end."""
        members = [name + _json(value(served, clock)) for name, value in self._columns]
        return f"{{{','.join(members)}}}\n"


Form = Combined | Json


def form_of(config: LogConfig, worker: str) -> Form:
    """How lines are written; ``worker`` is the name of this process, or ""."""
    return Combined(config, worker) if config.format == "combined" else Json(config, worker)


# -- the usual line of a hit, in pieces that are good for many: the fast path's


def usual_before(stamp: str, request_line: str, status: int) -> str:
    """What each line of this second about this request says between client and bytes."""
    return f' - - [{stamp}] "{escape(request_line)}" {status} '


def usual_behind(cache: str, referer: bytes | None, user_agent: bytes | None) -> str:
    """What it says between the bytes and the range, of values as they came."""
    return f' "{_escaped(referer)}" "{_escaped(user_agent)}" {cache} 0.000 "'  # nothing waited


def usual_line(client: str, before: str, count: int, behind: str, range_: str) -> str:
    """What ``Combined`` writes of a whole answer of cached bytes, by default."""
    digits = str(count)
    return f'{client}{before}{digits}{behind}{range_}" done {digits} 0 0.000\n'


def _escaped(value: bytes | None) -> str:
    """``escape`` of a field's value; quicker, as these are made for each head that is new."""
    if value is None:
        return NOTHING
    value = value.strip(b" \t")
    if value.translate(_PLAIN) == value and len(value) <= MOST_LOGGED:
        return value.decode("ascii") or NOTHING
    return escape(value.decode("latin-1"))


# -- values and how they are written

_Value = str | int | float | None
_Read = Callable[[Served, Clock], _Value]

_READ: Final[dict[str, _Read]] = {
    "time": lambda _, clock: clock.instant,
    "client": lambda served, _: served.client,
    "user": lambda served, _: served.user,
    "method": lambda served, _: served.method,
    "target": lambda served, _: served.target,
    "protocol": lambda served, _: served.protocol,
    "status": lambda served, _: served.status,
    "bytes": lambda served, _: served.bytes,
    "referer": lambda served, _: served.referer,
    "user_agent": lambda served, _: served.user_agent,
    "cache": lambda served, _: served.cache,
    "seconds": lambda served, _: served.seconds,
    "range": lambda served, _: served.range,
    "outcome": lambda served, _: served.outcome,
    "bytes_cache": lambda served, _: served.bytes_cache,
    "bytes_source": lambda served, _: served.bytes_source,
    "ttfb": lambda served, _: served.ttfb,
    "host": lambda served, _: served.host,
    "request_id": lambda served, _: served.request_id,
}


def _column(name: str, worker: str) -> _Read:
    """Where the value of a field comes from."""
    if name == "pid":
        pid = os.getpid()
        return lambda *_: pid
    if name == "worker":
        return lambda *_: worker or NOTHING
    return _READ[name]


def _bare(value: Any) -> str:
    if isinstance(value, float):
        return f" {value:.3f}"
    return f" {NOTHING if value is None else value}"


def _quoted(value: Any) -> str:
    return f' "{escape(value)}"'


_OF_COMBINED: Final = frozenset(
    (
        *("time", "client", "user", "method", "target", "protocol", "status", "bytes"),
        *("referer", "user_agent"),
    )
)
_BEHIND: Final[dict[str, Callable[[Any], str]]] = {
    **dict.fromkeys(("cache", "seconds", "outcome", "bytes_cache", "bytes_source"), _bare),
    **dict.fromkeys(("ttfb", "request_id", "pid", "worker"), _bare),
    **dict.fromkeys(("range", "host"), _quoted),
}
_USUAL: Final = ("cache", "seconds", "range", "outcome", "bytes_cache", "bytes_source", "ttfb")


def _json(value: _Value) -> str:
    """As JSON has it: milliseconds are enough, and what there was not is null."""
    if isinstance(value, str):
        return "null" if value == NOTHING else _json_text(value)
    if isinstance(value, float):
        return f"{value:.3f}"
    return "null" if value is None else str(value)


@lru_cache(512)  # most texts come again
def _json_text(text: str) -> str:
    if len(text) > MOST_LOGGED:
        text = f"{text[:MOST_LOGGED]}..."
    if not text.isascii():
        try:
            octets = text.encode("latin-1")  # as fields of a request are read (RFC 9110 5.5)
        except UnicodeEncodeError:
            octets = text.encode("utf-8", "surrogateescape")
        text = octets.decode("utf-8", "backslashreplace")
    # JSON lets DEL pass, a terminal may not.
    return json.dumps(text).replace("\x7f", "\\u007f")


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
    # Most texts are safe, and this finds it out in half the time of the expression.
    plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
    if plain and len(text) <= MOST_LOGGED:
        return text
    escaped = text[: MOST_LOGGED + 1].translate(_ESCAPES)
    return escaped if len(escaped) <= MOST_LOGGED else f"{escaped[:MOST_LOGGED]}..."
