"""The decision about one request, from its head and the client's address.

    networks                     denied: 403, whatever else the request has
    a grant, when keys are set   right: in; forged or expired: 403
    a password, when users are   right: in; none or a wrong one: 401
    the embedder's own           what it says; only asked about who came that far

With keys and users both set, either one is enough: a request with a grant and a right password is
let in even when the grant is not, and without a grant the password is asked for. A decision never
switches and does no I/O; a password that is not known yet is CHECK, for a worker.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from streamcache.access import signing
from streamcache.access.networks import Host, Rules, Special, TrustedProxies
from streamcache.access.passwords import Credentials, Passwords, read_htpasswd
from streamcache.access.proxyprotocol import Origin, ProxyHeader
from streamcache.access.signing import Keys, Outcome
from streamcache.errors import ConfigError
from streamcache.http.headers import Headers
from streamcache.http.request import Request

Fields = tuple[tuple[str, str], ...]
_REALM_CHARACTERS: Final = frozenset(map(chr, range(0x20, 0x7F))) - {'"', "\\"}


class Verdict(enum.Enum):
    """What becomes of a request."""

    ALLOW = enum.auto()
    DENY = enum.auto()  # 403
    EXPIRED = enum.auto()  # 403, of a grant that was right once
    CHALLENGE = enum.auto()  # 401: credentials are missing or wrong
    CHECK = enum.auto()  # not decided: ``check`` in a worker, ``remember``, then ``settle``


STATUSES: Final = {Verdict.DENY: 403, Verdict.EXPIRED: 403, Verdict.CHALLENGE: 401}


@dataclass(frozen=True, slots=True)
class Decision:
    """``path`` is what the request names, a grant taken out; ``user`` is for the log.

    ``reason`` is a fixed phrase for the log, never sent. ``headers`` are those of the refusal.
    """

    verdict: Verdict
    path: str = ""
    user: str = "-"
    reason: str = ""
    headers: Fields = ()
    credentials: Credentials | None = field(default=None, repr=False)  # of CHECK

    @property
    def status(self) -> int:
        """Of the answer to a request that is refused."""
        return STATUSES[self.verdict]


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """What an embedder's function is asked about.

    ``path`` is decoded and without a grant, ``query`` is as received, without "?". ``client`` is
    the address behind trusted proxies, "unix" or "unknown". ``user``: who gave a right password.
    """

    method: str
    path: str
    query: str
    headers: Headers
    client: str
    user: str = "-"


class Answer(enum.Enum):
    """What an embedder's function says."""

    ALLOW = "allow"
    DENY = "deny"
    CHALLENGE = "challenge"


# Runs in the request's greenlet and may SWITCH (ask a database), within the deadline that the
# server gives it. What it raises, or an answer that is none, is a refusal: 500, and logged.
Authorize = Callable[[AccessRequest], Answer | str]


@dataclass(frozen=True, slots=True)
class AccessRules:
    """What was configured; files as the bytes that were read from them. Checked by ``Access``."""

    networks: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False  # connections begin with a PROXY header
    keys: bytes | None = field(default=None, repr=False)  # a key file; None: no signed URLs
    htpasswd: bytes | None = field(default=None, repr=False)  # None: no passwords
    realm: str = "streamcache"


class Access:
    """Decides; one for a configuration, replaced as a whole when that changes."""

    def __init__(self, rules: AccessRules) -> None:
        """Raises ConfigError that names the option and what is wrong with it."""
        with _naming("access.networks"):
            self._networks = Rules.parse(rules.networks)
        with _naming("access.trusted_proxies"):
            self._proxies = TrustedProxies.parse(rules.trusted_proxies)
        if rules.proxy_protocol and not rules.trusted_proxies:
            raise ConfigError(
                "access.proxy_protocol: nobody could connect; name who may send the PROXY header"
                " in access.trusted_proxies"
            )
        self.proxy_protocol = rules.proxy_protocol
        with _naming("access.keys"):
            self._keys = None if rules.keys is None else Keys.parse(rules.keys)
        with _naming("access.htpasswd"):
            users = None if rules.htpasswd is None else read_htpasswd(rules.htpasswd)
            self._passwords = None if users is None else Passwords(users)
        with _naming("access.realm"):
            self._challenge = challenge(rules.realm)

    def __repr__(self) -> str:
        return f"<Access keys={self._keys is not None} passwords={self._passwords!r}>"

    @property
    def signs(self) -> bool:
        """Whether URLs may have a grant, which no log may have."""
        return self._keys is not None

    def settled_by_peer(self, peer: Host) -> bool:
        """Whether every request of this peer is let in, whatever it says."""
        return (
            self._keys is None
            and self._passwords is None
            and not self._proxies.trusts(peer)
            and self._networks.allow(peer)
        )

    def trusts(self, peer: Host) -> bool:
        """Whether this is a trusted proxy."""
        return self._proxies.trusts(peer)

    def admits(self, peer: Host) -> bool:
        """Whether a connection of this peer can come to anything; asked before its first byte."""
        if self._proxies.trusts(peer):
            return True
        return not self.proxy_protocol and self._networks.allow(peer)

    def origin(self, peer: Host, header: ProxyHeader) -> Host | None:
        """Who is on a connection that began with a PROXY header; None: close it, peer not trusted.

        What follows takes this for the peer: X-Forwarded-For counts if that is a trusted proxy.
        """
        if not self._proxies.trusts(peer):
            return None
        return peer if header.origin is Origin.LOCAL else header.source

    def client(self, peer: Host, headers: Headers) -> Host:
        """The client's address behind trusted proxies."""
        return self._proxies.client(peer, headers.all("x-forwarded-for"))

    def decide(self, request: Request, client: Host, *, now: float, wall: float) -> Decision:
        """``now`` in monotonic seconds, ``wall`` in seconds since the epoch. Never switches."""
        if not self._networks.allow(client):
            return Decision(Verdict.DENY, request.path, reason="network")
        path, outcome = request.path, Outcome.MISSING
        if self._keys is not None:
            verified = signing.verify(self._keys, request.path, request.target, wall)
            path, outcome = verified.path, verified.outcome
        if outcome is Outcome.OK or (self._keys is None and self._passwords is None):
            return Decision(Verdict.ALLOW, path)
        by_password = self._by_password(request.headers, path, now)
        if by_password is not None:
            return by_password
        if outcome is Outcome.EXPIRED:
            return Decision(Verdict.EXPIRED, path, reason="grant expired")
        if outcome is Outcome.BAD or self._passwords is None:
            return Decision(Verdict.DENY, path, reason=f"grant {outcome.name.lower()}")
        return Decision(Verdict.CHALLENGE, path, reason="no password", headers=self._challenge)

    def check(self, credentials: Credentials) -> bool:
        """Worker thread: whether user and password fit."""
        assert self._passwords is not None
        return self._passwords.check(credentials)

    def remember(self, credentials: Credentials, right: bool, *, now: float) -> None:
        """What ``check`` said; also if nobody waits for it any more."""
        assert self._passwords is not None
        self._passwords.remember(credentials, right, now)

    def settle(self, decision: Decision, *, right: bool) -> Decision:
        """The decision after CHECK."""
        assert decision.credentials is not None
        return self._of_password(decision.credentials, right, decision.path)

    def _by_password(self, headers: Headers, path: str, now: float) -> Decision | None:
        """The decision about the password of a request; None: it has none."""
        if self._passwords is None or "authorization" not in headers:
            return None
        values = headers.all("authorization")
        credentials = Credentials.parse(values[0]) if len(values) == 1 else None
        if credentials is None:
            return None
        right = self._passwords.known(credentials, now)
        if right is None:
            return Decision(Verdict.CHECK, path, credentials=credentials)
        return self._of_password(credentials, right, path)

    def _of_password(self, credentials: Credentials, right: bool, path: str) -> Decision:
        if right:
            return Decision(Verdict.ALLOW, path, user=log_name(credentials.user))
        return Decision(Verdict.CHALLENGE, path, reason="wrong password", headers=self._challenge)


def access_request(request: Request, decision: Decision, client: Host) -> AccessRequest:
    """What an embedder's function is asked about a request that was allowed so far."""
    return AccessRequest(
        method=request.method,
        path=decision.path,
        query=request.target.partition("?")[2],
        headers=request.headers,
        client=host_text(client),
        user=decision.user,
    )


def ask(authorize: Authorize, request: AccessRequest, *, realm: str = "streamcache") -> Decision:
    """SWITCHES if ``authorize`` does. Raises what it raises, and TypeError for another answer."""
    said = authorize(request)
    try:
        answer = Answer(said)
    except ValueError:
        raise TypeError(f"authorize() said {said!r}; allowed: allow, deny, challenge") from None
    if answer is Answer.ALLOW:
        return Decision(Verdict.ALLOW, request.path, request.user)
    if answer is Answer.DENY:
        return Decision(Verdict.DENY, request.path, request.user, reason="embedder")
    return Decision(Verdict.CHALLENGE, request.path, request.user, "embedder", challenge(realm))


def challenge(realm: str) -> Fields:
    """The field of a 401 (RFC 7617 2, 2.1). Raises ValueError for a realm that no field has."""
    if not realm or not _REALM_CHARACTERS.issuperset(realm):
        raise ValueError(f'{realm!r} is no realm; allowed: printable ASCII but for " and \\')
    return (("WWW-Authenticate", f'Basic realm="{realm}", charset="UTF-8"'),)


def host_text(host: Host) -> str:
    """A client as logs and embedders see it."""
    return host.value if isinstance(host, Special) else str(host)


def log_name(user: bytes) -> str:
    """A user's name as one word of a log, whatever bytes it has."""
    text = user.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() and c not in ' "\\' else f"\\u{ord(c):04x}" for c in text)


@contextlib.contextmanager
def _naming(option: str) -> Iterator[None]:
    """Makes what is wrong a ConfigError that begins with the option's name."""
    try:
        yield
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{option}: {error}") from None
