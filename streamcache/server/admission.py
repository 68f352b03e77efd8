"""Who is let in: asked about each request before the cache is.

Runs in the connection's greenlet. Networks, grants and known passwords are decided at once. A
password that is not known yet is hashed in a worker thread, which takes 50 ms and more, and an
embedding program's own function may wait for whatever it asks. So both have a deadline here.

Requests with equal credentials share one hash, which has a greenlet of its own: players open six
connections, and whoever began the hash may leave.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Final

import gevent
from gevent import Greenlet

from streamcache.access.authorize import (
    Access,
    Authorize,
    Decision,
    Fields,
    Verdict,
    access_request,
    ask,
    host_text,
)
from streamcache.access.networks import UNKNOWN, Host, read_host
from streamcache.access.passwords import Credentials
from streamcache.access.proxyprotocol import ProxyHeader
from streamcache.access.signing import redacted
from streamcache.cache.workers import WorkerPool
from streamcache.errors import Closed, SourceBusy
from streamcache.http.request import Request

log = logging.getLogger(__name__)

HASHES: Final = 2  # at once: the rest of the cores is for those who are in
HASHES_WAITING: Final = 64
ASK_WAIT: Final = 10.0  # s that a hash, or the embedder's function, may take
CLOSE_WAIT: Final = 2.0  # s that running hashes get
_RETRY: Final = (("Retry-After", "1"),)


@dataclass(frozen=True, slots=True)
class Admitted:
    """What becomes of a request. ``status`` 0: it is let in."""

    client: str  # the address behind trusted proxies, "unix" or "unknown"
    path: str  # what it names, a grant taken out
    user: str = "-"
    status: int = 0  # of the refusal
    fields: Fields = ()  # of the refusal


class Admission:
    """Asks what is configured, and the embedding program's function, if there is one."""

    def __init__(self, access: Access, authorize: Authorize | None, realm: str) -> None:
        self._access = access
        self._authorize = authorize
        self._realm = realm
        self._pool = WorkerPool("passwords", size=HASHES, max_queue=HASHES_WAITING)
        self._hashes: dict[Credentials, Greenlet[..., bool | None]] = {}

    def reconfigure(self, access: Access, realm: str) -> None:
        """Other rules; what was found out by the old ones says nothing. Does not switch."""
        self._access = access
        self._realm = realm
        self._hashes = {}

    def __repr__(self) -> str:
        return f"<Admission {self._access!r} hashes={len(self._hashes)}>"

    def close(self) -> None:
        """Let the worker threads end. Switches, for ``CLOSE_WAIT`` s at most."""
        self._pool.close()
        self._pool.join(CLOSE_WAIT)

    # -- about a connection; never switches

    @property
    def proxy_protocol(self) -> bool:
        """Whether connections begin with a PROXY header."""
        return self._access.proxy_protocol

    def settled_by_peer(self, name: str) -> bool:
        """Whether all requests of this peer are let in, so that they need not be asked about."""
        return self._authorize is None and self._access.settled_by_peer(_host(name))

    def named(self, name: str) -> str:
        """A peer's name as the rules see it: an IPv4 address is one, also on [::]."""
        return host_text(_host(name))

    def admits(self, name: str) -> bool:
        """Whether a connection of this peer may begin; all may who would be told 403."""
        return not self.proxy_protocol or self._access.admits(_host(name))

    def is_proxy(self, name: str) -> bool:
        """Whether this peer is a trusted proxy: its connections are those of many clients."""
        return self._access.trusts(_host(name))

    def origin(self, name: str, header: ProxyHeader) -> str | None:
        """Who is on a connection with this PROXY header; None: its peer is not trusted."""
        origin = self._access.origin(_host(name), header)
        return None if origin is None else host_text(origin)

    # -- about a request

    def ask(self, request: Request, peer: str, request_id: str) -> Admitted:
        """SWITCHES for a password that is not known yet, and if the embedder's function does.

        ``peer``: the name of the connection; ``request_id`` is for the log. Never raises an
        ``Exception``.
        """
        client = self._access.client(_host(peer), request.headers)
        access = self._access  # one for all of this, whatever is reloaded meanwhile
        decision = access.decide(request, client, now=time.monotonic(), wall=time.time())
        if decision.verdict is Verdict.CHECK:
            right = self._check(decision.credentials)
            if right is None:
                return Admitted(host_text(client), decision.path, status=503, fields=_RETRY)
            decision = access.settle(decision, right=right)
        if decision.verdict is Verdict.ALLOW and self._authorize is not None:
            try:
                with gevent.Timeout(ASK_WAIT, TimeoutError(f"no answer in {ASK_WAIT} s")):
                    decision = ask(
                        self._authorize,
                        access_request(request, decision, client),
                        realm=self._realm,
                    )
            except (Exception, gevent.Timeout):  # theirs may be one that is no Exception
                form = "authorize() failed path=%r request_id=%s"
                log.exception(form, decision.path, request_id)
                return Admitted(host_text(client), decision.path, decision.user, status=500)
        return self._admitted(decision, client, request_id)

    def redacted(self, text: str) -> str:
        """A target or Referer for the log, without signatures."""
        return redacted(text) if self._access.signs else text

    def _admitted(self, decision: Decision, client: Host, request_id: str) -> Admitted:
        name = host_text(client)
        if decision.verdict is Verdict.ALLOW:
            return Admitted(name, decision.path, decision.user)
        form = "refused client=%s status=%d request_id=%s reason=%s"
        log.debug(form, name, decision.status, request_id, decision.reason)
        return Admitted(name, decision.path, decision.user, decision.status, decision.headers)

    def _check(self, credentials: Credentials | None) -> bool | None:
        """Whether user and password fit; None: that could not be found out in time."""
        assert credentials is not None
        hash_ = self._hashes.get(credentials)
        if hash_ is None:
            hash_ = gevent.spawn(self._hash, credentials, self._access, self._hashes)
            self._hashes[credentials] = hash_
        hash_.join(ASK_WAIT)
        return hash_.value if hash_.ready() else None

    def _hash(
        self,
        credentials: Credentials,
        access: Access,
        hashes: dict[Credentials, Greenlet[..., bool | None]],
    ) -> bool | None:
        """Greenlet: one hash for all who wait for it, and for who asks again after that."""
        try:
            right = self._pool.call(access.check, credentials)
            access.remember(credentials, right, now=time.monotonic())
            return right
        except (SourceBusy, Closed) as error:
            log.warning("password not looked at error=%s", error)
            return None
        except Exception:
            log.exception("password not looked at")
            return None
        finally:
            del hashes[credentials]


def _host(name: str) -> Host:
    """The client that a connection's name stands for; one that says nothing is UNKNOWN."""
    try:
        return read_host(name)
    except ValueError:
        return UNKNOWN
