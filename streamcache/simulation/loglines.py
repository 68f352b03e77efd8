"""A line of an access log: who asked for what, when, and which bytes of it were sent. PURE.

Ours as Combined or JSON, and those of nginx and Apache in the Common or Combined format, whatever
stands behind it.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from calendar import timegm
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_LINE: Final = re.compile(
    r'(?P<client>\S+) \S+ .*?\[(?P<time>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)"'
    r" (?P<status>\d{3}) (?P<bytes>\d+|-)(?P<rest>.*)"
)
_RANGE: Final = re.compile(r'"bytes=(\d+)-(\d*)"')
_ONE_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")
_TIME: Final = re.compile(r"(\d+)/(\w{3})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}
_ESCAPED: Final = re.compile(r"\\x([0-9a-fA-F]{2})|\\(.)")


@dataclass(frozen=True, slots=True)
class Use:
    """One answer that had bytes of a file."""

    time: int  # s since the epoch
    client: str
    path: str  # "/a/b.mp4", decoded, without a query
    stop: int  # the file has at least so many bytes
    whole: bool  # and it is known to end there


def read_line(line: str) -> Use | None:
    """None: no answer with bytes of a file, or not a line that we know. ValueError: the latter."""
    if line.startswith("{"):
        return _read_json(line)
    found = _LINE.match(line)
    if found is None:
        raise ValueError("not a line of an access log")
    words = _unescaped(found["request"]).split(" ")
    status, sent = int(found["status"]), found["bytes"]
    if len(words) < 2 or words[0] != "GET" or status not in (200, 206) or sent == "-":
        return None
    ranged = _RANGE.search(found["rest"])
    span = (int(ranged[1]), ranged[2]) if ranged is not None else None
    done = '" cut' not in found["rest"]  # behind the range, in our lines
    return _use(_seconds(found["time"]), found["client"], words[1], status, int(sent), span, done)


def _read_json(line: str) -> Use | None:
    try:
        fields = json.loads(line)
        status, sent, target = fields["status"], fields["bytes"], fields["target"]
        moment, client = fields["time"], fields["client"]
        if fields.get("method") != "GET" or status not in (200, 206) or target is None:
            return None
        ranged = _ONE_RANGE.fullmatch(fields.get("range") or "")
        span = (int(ranged[1]), ranged[2]) if ranged is not None else None
        done = fields.get("outcome") != "cut"
        return _use(_iso_seconds(moment), str(client), str(target), status, int(sent), span, done)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError("not a line of an access log") from None


def _use(
    time: int,
    client: str,
    target: str,
    status: int,
    sent: int,
    span: tuple[int, str] | None,
    done: bool,
) -> Use | None:
    raw = target.partition("?")[0]
    if raw.startswith(("http://", "https://")):
        raw = "/" + raw.partition("//")[2].partition("/")[2]
    path = urllib.parse.unquote(raw, errors="surrogateescape")
    if status == 200:
        return Use(time, client, path, sent, whole=done)
    if span is None:  # nginx does not say which part it was
        return Use(time, client, path, sent, whole=False)
    start, last = span
    # An answer that is shorter than what was asked for ends with the file.
    ends = done and (not last or start + sent < int(last) + 1)
    return Use(time, client, path, start + sent, whole=ends)


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)


@lru_cache(maxsize=1024)
def _seconds(text: str) -> int:
    """ "28/Nov/2026:08:52:10 +0000". ValueError."""
    found = _TIME.fullmatch(text)
    if found is None or found[2] not in _MONTHS:
        raise ValueError("not a line of an access log")
    day, _, year, hour, minute, second, sign, hours, minutes = found.groups()
    moment = (int(year), _MONTHS[found[2]], int(day), int(hour), int(minute), int(second))
    offset = (int(hours) * 60 + int(minutes)) * 60
    return timegm(moment) - (offset if sign == "+" else -offset)


@lru_cache(maxsize=1024)
def _iso_seconds(text: str) -> int:
    """ "2026-11-28T08:52:10Z". ValueError."""
    found = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?Z", text)
    if found is None:
        raise ValueError("not a line of an access log")
    return timegm(tuple(map(int, found.groups())))
