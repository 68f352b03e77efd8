"""Preconditions (RFC 9110 13) against the current version of a file."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

from streamcache.http.dates import MIN_DATE, parse_date
from streamcache.http.entity import Entity
from streamcache.http.headers import Headers

# One member of a list of entity tags, with the commas and blanks before it. A tag may hold commas
# and backslashes (RFC 9110 8.8.3: no quoting inside), so the list cannot be split at commas.
_MEMBER = re.compile(r'[ \t,]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,|\Z)')


_CONDITIONS = frozenset(
    ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range")
)


class Verdict(enum.Enum):
    """What the preconditions of a GET or HEAD come to."""

    PROCEED = enum.auto()  # answer as if there were none; Range counts
    IGNORE_RANGE = enum.auto()  # If-Range is false: the whole file
    NOT_MODIFIED = enum.auto()  # 304
    FAILED = enum.auto()  # 412


def evaluate(headers: Headers, entity: Entity, now: int) -> Verdict:
    """Evaluate a GET's or HEAD's preconditions in the order of RFC 9110 13.2.2.

    ``now`` in seconds. Invalid dates are ignored; a malformed list of tags matches nothing.
    If-Range is looked at whether or not there is a Range: without one it changes nothing.
    """
    if _CONDITIONS.isdisjoint(headers):  # nearly always
        return Verdict.PROCEED
    match = headers.get("if-match")
    if match is not None:
        if not _lists(match, entity.etag, _strong):
            return Verdict.FAILED
    else:
        since = _date(headers, "if-unmodified-since", entity, now)
        if since is not None and entity.mtime > since:
            return Verdict.FAILED
    none_match = headers.get("if-none-match")
    if none_match is not None:
        if _lists(none_match, entity.etag, _weak):
            return Verdict.NOT_MODIFIED
    else:
        since = _date(headers, "if-modified-since", entity, now)
        if since is not None and entity.mtime <= since:
            return Verdict.NOT_MODIFIED
    condition = headers.get("if-range")
    if condition is None or _same(condition, entity, now):
        return Verdict.PROCEED
    return Verdict.IGNORE_RANGE


def _lists(value: str, etag: str, equal: Callable[[str, str], bool]) -> bool:
    """Whether the value is "*" or a list of entity tags with one that equals ours."""
    if value == "*":
        return True
    found = False
    position = 0
    while match := _MEMBER.match(value, position):
        found = found or equal(match[1], etag)
        position = match.end()
    return found and not value[position:].strip(" \t,")


def _strong(one: str, other: str) -> bool:
    """The strong comparison of RFC 9110 8.8.3.2."""
    return one == other and not one.startswith("W/")


def _weak(one: str, other: str) -> bool:
    """The weak comparison of RFC 9110 8.8.3.2."""
    return one.removeprefix("W/") == other.removeprefix("W/")


def _date(headers: Headers, name: str, entity: Entity, now: int) -> int | None:
    """A date to compare the file's with; None when either has none (RFC 9110 13.1.3, 13.1.4)."""
    value = headers.get(name)
    return None if value is None or entity.mtime < MIN_DATE else parse_date(value, now)


def _same(condition: str, entity: Entity, now: int) -> bool:
    """Whether the client's validator is surely this version's (RFC 9110 13.1.5)."""
    if condition.startswith(('"', "W/")):
        return _strong(condition, entity.etag)
    # RFC 9110 8.8.2.2: a date is a strong validator only when the file cannot have changed twice
    # within its second. While that second lasts it still can; a client that got an older version
    # in it saw Last-Modified equal Date, and must not use such a date here.
    return entity.mtime < now and parse_date(condition, now) == entity.mtime
