"""What a question says of files and numbers, read and checked: Refusal 400 when it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamcache.admin.answers import Json, Refusal
from streamcache.cache.selection import Selection

WAYS: Final = ("path", "prefix", "glob")

_MOST: Final = 2**63 - 1  # of a number in a body


def selection_in(body: Mapping[str, Json]) -> Selection:
    """The files that exactly one of path, prefix and glob means."""
    given = {way: text(body, way) for way in WAYS if way in body}
    if len(given) != 1:
        raise Refusal(400, "name the files with exactly one of path, prefix and glob")
    try:
        return Selection.of(**given)
    except ValueError as error:
        raise Refusal(400, str(error)) from None


def text(body: Mapping[str, Json], name: str) -> str:
    """A member that must be text."""
    return checked_text(body[name], name)


def checked_text(value: Json, name: str) -> str:
    """A value that must be text, such as a path on disk can be."""
    if not isinstance(value, str):
        raise Refusal(400, f"{name} must be text")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Refusal(400, f"{name} has half a character (a lone surrogate)") from None
    return value


def flag(body: Mapping[str, Json], name: str) -> bool:
    """A member that is true or false; false if it is not there."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise Refusal(400, f"{name} must be true or false")
    return value


def number(body: Mapping[str, Json], name: str, default: int) -> int:
    """A member that is a whole number, not below 0."""
    value = body.get(name, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows one kind of number
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise Refusal(400, f"{name} must be a whole number from 0 to {_MOST}")
    return value


def choice(given: str, name: str, allowed: tuple[str, ...]) -> str:
    """One of a few words."""
    if given not in allowed:
        raise Refusal(400, f"{name} must be one of {', '.join(allowed)}")
    return given
