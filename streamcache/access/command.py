"""``streamcache sign``: what it takes and what it does, without the reading of a command line.

Main thread of a program of its own; nothing runs beside it.
"""

from __future__ import annotations

import os
import re
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TextIO

from streamcache.access.signing import MAX_EXPIRES, PARAMETER, Keys, in_path, sign
from streamcache.errors import ConfigError
from streamcache.http.syntax import BadRequest
from streamcache.http.target import resolve
from streamcache.units import parse_duration

OK: Final = 0
_MOST_KEYS: Final = 1 << 20  # bytes of a key file
_SAFE: Final = "/-._~!$&'()*+,;=:@"  # what a path has unescaped, beside letters and digits
_URL: Final = re.compile(r"https?://", re.IGNORECASE)

ABOUT: Final = """\
Print a URL that is good until it expires, for a server whose access.keys is the same key file.

TARGET is a URL of that server, or a path below the served directory, which is not percent-encoded
and begins with "/". With --prefix the grant is for its folder and all below it, and stands in the
path, so that the names in a playlist (HLS, DASH) carry it on."""

# What the command line takes: a flag or a name, its metavar ("" for a switch), and its help.
FLAGS: Final = (
    ("target", "TARGET", "a URL, or a path below the served directory"),
    ("--key-file", "FILE", "lines of a key id and hexadecimal digits; the first one signs"),
    ("--expires", "DURATION", "how long the URL is good, such as 2h or 7d"),
    ("--prefix", "", "for the whole folder: that of the file, or TARGET if it ends in /"),
)


@dataclass(frozen=True, slots=True)
class SignArguments:
    """What the command line said."""

    target: str
    key_file: str
    expires: str
    prefix: bool = False


def run(arguments: SignArguments, *, out: TextIO, clock: Callable[[], float] = time.time) -> int:
    """Write the signed URL, or path, and a line end to ``out``; the exit code.

    Raises ConfigError for an argument or file that must be changed.
    """
    out.write(signed(arguments, clock()) + "\n")
    return OK


def signed(arguments: SignArguments, now: float) -> str:
    """The signed URL or path; ``now`` in seconds since the epoch. ConfigError."""
    keys = _read_keys(arguments.key_file)
    try:
        expires = int(now + parse_duration(arguments.expires))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--expires: {error}") from None
    if not now < expires <= MAX_EXPIRES:
        raise ConfigError(f"--expires: {arguments.expires!r} is not allowed; allowed: 1s and more")
    base, encoded, query = _split(arguments.target)
    try:
        path = resolve("GET", encoded)
    except BadRequest as error:
        raise ConfigError(f"{arguments.target!r} names no file: {error.reason}") from None
    if path.startswith(in_path("", "")):
        raise ConfigError(f"{arguments.target!r} is signed already")
    # The URL of what is signed, in the one spelling that has no dot or empty segments.
    encoded = urllib.parse.quote(path, safe=_SAFE, errors="surrogateescape")
    try:
        if arguments.prefix:
            folder = path[: path.rindex("/") + 1]
            return base + in_path(sign(keys, folder, expires, folder=True), encoded) + query
        grant = sign(keys, path, expires)
    except ValueError as error:
        raise ConfigError(f"{arguments.target!r}: {error}") from None
    joint = "&" if query else "?"
    return f"{base}{encoded}{query}{joint}{PARAMETER}={grant}"


def _split(target: str) -> tuple[str, str, str]:
    """Scheme and authority, percent-encoded path, query with its "?". ConfigError."""
    if target.startswith("/"):
        return "", urllib.parse.quote(target, safe="/", errors="surrogateescape"), ""
    if not _URL.match(target):
        raise ConfigError(f"{target!r} is neither a URL (http://...) nor a path that begins with /")
    rest, _, _ = target.partition("#")
    rest, mark, query = rest.partition("?")
    start = rest.find("/", rest.index("//") + 2)
    if start < 0:
        start = len(rest)
    if any(pair.partition("=")[0] == PARAMETER for pair in query.split("&")):
        raise ConfigError(f"{target!r} is signed already")
    return rest[:start], rest[start:] or "/", mark + query


def _read_keys(path: str) -> Keys:
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_KEYS)
    except OSError as error:
        raise ConfigError(f"--key-file: {os.fspath(path)!r}: {error.strerror}") from None
    try:
        return Keys.parse(text)
    except ValueError as error:
        raise ConfigError(f"--key-file: {os.fspath(path)!r}: {error}") from None
