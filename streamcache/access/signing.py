"""Signed URLs that expire: a grant for one file, or for a folder and all below it.

A grant is one token of five fields, which stands in a URL as a parameter or as the first segment
of the path. The latter is for HLS and DASH: the names in a playlist are relative to its URL, so
what a player makes of them carries the grant on, as no parameter would.

    /films/a.mp4?grant=f.1767225600.k1.6Zqo...        a file
    /grant=2.1767225600.k1.Wc0d.../films/x/a.m3u8     all below /films/x/ (its first 2 segments)

    grant     = scope "." expires "." key-id "." signature
    scope     = "f" | the number of leading segments of the path that name the folder (0: all)
    expires   = seconds since the epoch, decimal; from that second on it is no longer good
    key-id    = 1*32 (letter | digit | "_" | "-")
    signature = base64url without "=" of
                HMAC-SHA256(key, "streamcache grant 1" LF scope LF expires LF key-id LF path)
    path      = what the request names, as bytes of UTF-8: with escapes decoded once, without
                empty and dot segments; for a folder its first segments, with "/" at both ends

The decoded path is signed, so all spellings of one name (``%41`` and ``A``) have one signature. It
comes last, after fields that have no line end in them, so no two grants have one text. Not signed,
as the answer does not depend on them: host, scheme, other parameters; GET and HEAD are one.
"""

from __future__ import annotations

import base64
import enum
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

PARAMETER: Final = "grant"
SHORTEST_KEY: Final = 32  # bytes
_LONGEST_KEY: Final = 1024

_CONTEXT: Final = "streamcache grant 1"
_MARK: Final = f"/{PARAMETER}="  # how a path with a grant begins
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
# One spelling for each number: neither leading zeros nor a sign.
_GRANT: Final = re.compile(
    r"(f|0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,11})\.([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]{43})",
    re.ASCII,
)
# A signature in a target, also where a client has escaped what needs no escape.
_SIGNATURE: Final = re.compile(
    r"(\.|%2[Ee])(?:[A-Za-z0-9_-]|%(?!2[Ee])[0-9A-Fa-f]{2}){43,}", re.ASCII
)
MAX_EXPIRES: Final = 10**12 - 1


class Outcome(enum.Enum):
    """What the grant of a request comes to."""

    OK = enum.auto()
    EXPIRED = enum.auto()  # it was good: told only to who had a right signature
    BAD = enum.auto()  # malformed, forged, for another path, of a key that is gone
    MISSING = enum.auto()


@dataclass(frozen=True, slots=True)
class Verified:
    """``path`` is what the request names, without a grant in it."""

    outcome: Outcome
    path: str


@dataclass(frozen=True, slots=True)
class Keys:
    """Secrets by id. All of them verify; the first one signs."""

    secrets: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.secrets:
            raise ValueError("no key")
        for name, secret in self.secrets.items():
            if not _KEY_ID.fullmatch(name):
                raise ValueError(f"{name[:40]!r} is no key id")
            if len(secret) < SHORTEST_KEY:
                raise ValueError(f"key {name}: at least {SHORTEST_KEY} bytes are needed")

    @property
    def signing(self) -> str:
        """The id of the key that signs."""
        return next(iter(self.secrets))

    @classmethod
    def parse(cls, text: bytes) -> Keys:
        """Read a key file: lines of "ID HEX", the signing key first; "#" begins a comment.

        Raises ValueError that names the line and never shows what stands in it.
        """
        secrets: dict[str, bytes] = {}
        for number, line in enumerate(text.split(b"\n"), start=1):
            words = line.split()
            if not words or words[0].startswith(b"#"):
                continue
            try:
                name, digits = (word.decode("ascii") for word in words)
                secret = bytes.fromhex(digits)
            except ValueError:
                raise ValueError(f"line {number}: not a key id and hexadecimal digits") from None
            if not _KEY_ID.fullmatch(name):
                raise ValueError(
                    f"line {number}: a key id has letters, digits, _ and -, 32 at most"
                )
            if not SHORTEST_KEY <= len(secret) <= _LONGEST_KEY:
                raise ValueError(
                    f"line {number}: {len(secret)} bytes; allowed: {SHORTEST_KEY} to"
                    f" {_LONGEST_KEY} (openssl rand -hex {SHORTEST_KEY})"
                )
            if name in secrets:
                raise ValueError(f"line {number}: a second key of that id")
            secrets[name] = secret
        if not secrets:
            raise ValueError("no key in it; a line is an id and hexadecimal digits")
        return cls(secrets)


def sign(keys: Keys, path: str, expires: int, *, folder: bool = False) -> str:
    """A grant for a path as ``Request.path`` has it, good until the second ``expires``.

    ``folder``: for all below the folder ``path``. Raises ValueError for a path that no request
    has, or a time that no grant has.
    """
    if not path.startswith("/") or any(part in (".", "..") for part in path.split("/")):
        raise ValueError(f"{path!r} is no path from the root, without . and ..")
    if "//" in path or "\0" in path:
        raise ValueError(f"{path!r} has an empty segment or a NUL")
    if not 0 <= expires <= MAX_EXPIRES:
        raise ValueError(f"{expires} is no time in seconds since the epoch")
    scope = "f"
    if folder:
        path = path if path.endswith("/") else path + "/"
        scope = str(path.count("/") - 1)
    elif path.endswith("/"):
        raise ValueError(f"{path!r} names a folder, not a file")
    name = keys.signing
    grant = f"{scope}.{expires}.{name}.{_signature(keys.secrets[name], scope, expires, name, path)}"
    if not _GRANT.fullmatch(grant):
        raise ValueError(f"{path!r} has too many segments")
    return grant


def verify(keys: Keys, path: str, target: str, now: float) -> Verified:
    """Look for a grant in a request and at it; ``now`` in seconds since the epoch.

    ``path`` and ``target`` as in ``Request``. More than one grant is BAD.
    """
    grants = parameters(target)
    if path.startswith(_MARK):
        first, slash, rest = path[len(_MARK) :].partition("/")
        grants.append(first)
        path = slash + rest or "/"
    if not grants:
        return Verified(Outcome.MISSING, path)
    if len(grants) > 1:
        return Verified(Outcome.BAD, path)
    return Verified(_judge(keys, grants[0], path, now), path)


def parameters(target: str) -> list[str]:
    """The grants among the parameters of a request target; they are not percent-decoded."""
    if PARAMETER not in target:
        return []
    _, _, query = target.partition("?")
    name = f"{PARAMETER}="
    return [pair.removeprefix(name) for pair in query.split("&") if pair.startswith(name)]


def in_path(grant: str, path: str) -> str:
    """The path, or percent-encoded path, with a grant as its first segment."""
    return _MARK + grant + path


def redacted(target: str) -> str:
    """A target or Referer for the log, signatures taken out, so that no log lets anybody in."""
    return _SIGNATURE.sub(r"\1-", target)


def _judge(keys: Keys, grant: str, path: str, now: float) -> Outcome:
    match = _GRANT.fullmatch(grant)
    if match is None:
        return Outcome.BAD
    scope, expires, name, signature = match.groups()
    secret = keys.secrets.get(name)
    signed = path if scope == "f" else _folder(path, int(scope))
    if secret is None or signed is None:
        return Outcome.BAD
    if not hmac.compare_digest(_signature(secret, scope, int(expires), name, signed), signature):
        return Outcome.BAD
    return Outcome.OK if now < int(expires) else Outcome.EXPIRED


def _folder(path: str, depth: int) -> str | None:
    """The first ``depth`` segments of a path, None when it is not below such a folder."""
    segments = path.split("/", depth + 1)
    return "/".join(segments[:-1]) + "/" if len(segments) == depth + 2 else None


def _signature(secret: bytes, scope: str, expires: int, name: str, path: str) -> str:
    text = f"{_CONTEXT}\n{scope}\n{expires}\n{name}\n{path}"
    digest = hmac.digest(secret, text.encode("utf-8", "surrogateescape"), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
