"""Basic authentication (RFC 7617) against an htpasswd file with bcrypt hashes.

Threads: a bcrypt hash takes 50 ms and more, so ``check`` is for a worker thread. It reads only what
never changes. ``known`` and ``remember`` are for the hub and take microseconds.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import importlib
import re
import secrets
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streamcache.errors import ConfigError
from streamcache.extras import installing

REMEMBERED: Final = 300.0  # s from its last use that a right password is good without a hash
REMEMBERED_WRONG: Final = 5.0  # s that a wrong one is wrong: players repeat what failed
MOST_REMEMBERED: Final = 1024  # verdicts of each kind
COSTS: Final = range(4, 17)  # log2 of the rounds; 16 takes seconds, 31 would take a day
MAX_USER: Final = 255  # bytes
MAX_PASSWORD: Final = 1024  # bytes
_BCRYPT_BYTES: Final = 72  # of a password: what bcrypt looks at; htpasswd cuts there as well

# 22 characters of salt, whose last one holds two bits only, and 31 of the digest.
_HASH: Final = re.compile(rb"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_CONTROLS: Final = re.compile(rb"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password as bytes, as the client sent them."""

    user: bytes
    password: bytes = field(repr=False)

    @classmethod
    def parse(cls, value: str) -> Credentials | None:
        """Read a value of Authorization; None when it is not of this scheme or malformed."""
        scheme, _, token = value.partition(" ")
        if scheme.lower() != "basic":
            return None
        token = token.strip(" ")
        try:
            raw = base64.b64decode(token.encode("ascii"), validate=True)
        except (ValueError, binascii.Error):
            return None
        user, colon, password = raw.partition(b":")
        # RFC 7617 2: no control characters. In a log or a C string they do harm.
        if not colon or _CONTROLS.search(raw):
            return None
        if not 0 < len(user) <= MAX_USER or len(password) > MAX_PASSWORD:
            return None
        return cls(user, password)


def read_htpasswd(text: bytes) -> Mapping[bytes, bytes]:
    """Users and hashes of an htpasswd file: lines of "USER:HASH"; "#" begins a comment.

    Only bcrypt (``htpasswd -B``): plain text, MD5, SHA-1 and crypt are guessed too quickly, and
    what is guarded slowly here must not lie beside. Raises ValueError that names the line and
    never shows what stands in it.
    """
    users: dict[bytes, bytes] = {}
    for number, line in enumerate(text.split(b"\n"), start=1):
        line = line.strip(b" \t\r")
        if not line or line.startswith(b"#"):
            continue
        user, colon, hashed = line.partition(b":")
        if not colon or not 0 < len(user) <= MAX_USER or _CONTROLS.search(user):
            raise ValueError(f"line {number}: not a user and a hash with a colon between them")
        match = _HASH.fullmatch(hashed)
        if match is None:
            raise ValueError(
                f"line {number}: not a bcrypt hash, and no other is taken (htpasswd -B -C 12)"
            )
        if int(match[1]) not in COSTS:
            raise ValueError(
                f"line {number}: cost {int(match[1])}; allowed: {COSTS[0]} to {COSTS[-1]}"
            )
        if user in users:
            raise ValueError(f"line {number}: a second line of that user")
        users[user] = hashed
    return users


class Passwords:
    """The users of one htpasswd file, and what was verified lately.

    To answer a request: ``known``; if that is None, ``check`` in a worker and then ``remember``.
    Another file, or the same one changed: make another one of these.
    """

    def __init__(self, users: Mapping[bytes, bytes]) -> None:
        """Raises ConfigError when the bcrypt library is not installed."""
        self._bcrypt = load_bcrypt()
        self._users = dict(users)
        # An unknown user costs as much time as most known ones, so that names cannot be guessed
        # by the clock. The hash is of nothing that has a known password.
        costs = Counter(hashed[4:6] for hashed in self._users.values())
        cost = costs.most_common(1)[0][0] if costs else b"12"
        self._nobody = b"$2b$" + cost + b"$" + b"." * 53
        # Verdicts are kept under a digest of the credentials, with a key that this process forgets.
        self._key = secrets.token_bytes(32)
        self._right = _Verdicts(REMEMBERED)
        self._wrong = _Verdicts(REMEMBERED_WRONG)

    def __repr__(self) -> str:
        return f"<Passwords users={len(self._users)}>"

    def known(self, credentials: Credentials, now: float) -> bool | None:
        """What a check gave not long ago; None: ``check`` them. ``now``: monotonic seconds."""
        digest = self._digest(credentials)
        if self._right.use(digest, now):
            return True
        return False if self._wrong.has(digest, now) else None

    def check(self, credentials: Credentials) -> bool:
        """Whether user and password fit. Worker thread: takes as long as the hash does."""
        hashed = self._users.get(credentials.user)
        fits = self._bcrypt.checkpw(credentials.password[:_BCRYPT_BYTES], hashed or self._nobody)
        return bool(fits) and hashed is not None

    def remember(self, credentials: Credentials, right: bool, now: float) -> None:
        """Keep what ``check`` gave for a short time; ``now``: monotonic seconds."""
        verdicts = self._right if right else self._wrong
        verdicts.add(self._digest(credentials), now)

    def _digest(self, credentials: Credentials) -> bytes:
        # A user has no colon, so the text has one reading.
        text = credentials.user + b":" + credentials.password
        return hmac.digest(self._key, text, "sha256")


class _Verdicts:
    """Digests with the time until which they count; the oldest give way.

    Right and wrong ones are apart, so that a crowd of wrong ones pushes out no right one.
    """

    __slots__ = ("_lasting", "_until")

    def __init__(self, lasting: float) -> None:
        self._lasting = lasting
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def has(self, digest: bytes, now: float) -> bool:
        """Whether it is there and counts still. A digest tells a guesser's clock nothing."""
        until = self._until.get(digest)
        return until is not None and now < until

    def use(self, digest: bytes, now: float) -> bool:
        """The same, and it counts longer: who is let in need not queue behind who is not."""
        if not self.has(digest, now):
            return False
        self.add(digest, now)
        return True

    def add(self, digest: bytes, now: float) -> None:
        """From ``now`` on."""
        self._until.pop(digest, None)
        self._until[digest] = now + self._lasting
        while len(self._until) > MOST_REMEMBERED:
            self._until.popitem(last=False)


def load_bcrypt() -> Any:
    """The bcrypt library. Raises ConfigError that names the extra when it is missing."""
    try:
        return importlib.import_module("bcrypt")
    except ImportError as error:
        raise ConfigError(
            "passwords need the bcrypt library, which is not installed; install it:"
            f" {installing('bcrypt')}"
        ) from error
