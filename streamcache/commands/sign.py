"""``streamcache sign``: a signed URL that expires. Nothing is asked of a server for it."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
import urllib.parse
from dataclasses import dataclass
from typing import Final

from streamcache.access.signing import MAX_EXPIRES, PARAMETER, Keys, in_path, sign
from streamcache.commands.command import OK, Command
from streamcache.errors import ConfigError
from streamcache.http.syntax import BadRequest
from streamcache.http.target import resolve
from streamcache.units import parse_duration

_MOST_KEYS: Final = 1 << 20  # bytes of a key file
_SAFE: Final = "/-._~!$&'()*+,;=:@"  # what a path has unescaped, beside letters and digits
_URL: Final = re.compile(r"https?://", re.IGNORECASE)

_ABOUT: Final = """\
Print a URL that is good until it expires, for a server whose access.keys is the same key file.

TARGET is a URL of that server, or a path below the served directory, which is not percent-encoded
and begins with "/". With --prefix the grant is for its folder and all below it, and stands in the
path, so that the names in a playlist (HLS, DASH) carry it on."""

_MORE: Final = """\
A key file is made with:   echo "k1 $(openssl rand -hex 32)" > keys; chmod 600 keys
The server reads it with:  access.keys = "keys" in its configuration, and then lets nobody in
                           without a signed URL (or a password, with access.htpasswd).

One file, for two hours:
    streamcache sign http://films.example/a/b.mp4 --key-file keys --expires 2h
A playlist and the segments beside it, for an evening:
    streamcache sign http://films.example/x/main.m3u8 --key-file keys --expires 6h --prefix

DURATION is seconds, or a number with a unit: 30m, 2h, 7d. The clocks of this machine and the server
must agree. A URL that is out cannot be called back before it expires, but by taking its key out
of the file and starting the server again. Exit codes: 0 printed, 2 an argument or the key file is
wrong."""


@dataclass(frozen=True, slots=True)
class SignArguments:
    """What the command line said."""

    target: str
    key_file: str
    expires: str
    prefix: bool = False


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments; their names are those of ``SignArguments``."""
    parser.add_argument(
        "target", metavar="TARGET", help="a URL, or a path below the served directory"
    )
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        required=True,
        help="lines of a key id and hexadecimal digits; the first one signs",
    )
    parser.add_argument(
        "--expires",
        metavar="DURATION",
        required=True,
        help="how long the URL is good, such as 2h or 7d",
    )
    parser.add_argument(
        "--prefix",
        action="store_true",
        help="for the whole folder: that of the file, or TARGET if it ends in /",
    )
    parser.add_argument("--json", action="store_true", help='{"url": ..., "expires": ...}')


def run(arguments: argparse.Namespace) -> int:
    """Print the signed URL or path. ConfigError for an argument or file that must be changed."""
    wanted = SignArguments(
        arguments.target, arguments.key_file, arguments.expires, prefix=arguments.prefix
    )
    now = time.time()
    url = signed(wanted, now)
    if arguments.json:
        url = json.dumps({"url": url, "expires": _expires(arguments.expires, now)})
    sys.stdout.write(url + "\n")
    return OK


def signed(arguments: SignArguments, now: float) -> str:
    """The signed URL or path; ``now`` in seconds since the epoch. ConfigError."""
    keys = _read_keys(arguments.key_file)
    expires = _expires(arguments.expires, now)
    base, encoded, query = _split(arguments.target)
    try:
        path = resolve("GET", encoded)
    except BadRequest as error:
        raise ConfigError(f"{arguments.target!r} names no file: {error.reason}") from None
    if path.startswith(in_path("", "")):
        raise ConfigError(f"{arguments.target!r} is signed already")
    if path.endswith("/") and not arguments.prefix:
        raise ConfigError(
            f"{arguments.target!r} names a folder, not a file; with --prefix it and all below it"
            " are signed"
        )
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


def _expires(text: str, now: float) -> int:
    """When it is over, in seconds since the epoch. ConfigError."""
    try:
        expires = int(now + parse_duration(text))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--expires: {error}") from None
    if not now < expires <= MAX_EXPIRES:
        raise ConfigError(f"--expires: {text!r} is not allowed; allowed: 1s and more")
    return expires


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


COMMAND: Final = Command("sign", "print a signed URL that expires", _ABOUT, _MORE, add, run)
