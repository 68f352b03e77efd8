"""The HTTP server over a cache: start, drain, stop.

``start`` and ``stop`` run in any greenlet of the hub's thread; everything else in the hub or in
the greenlets of its connections. No signal handlers, no logging set-up: those are the daemon's.
"""

from __future__ import annotations

import _socket
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Final, Self

import gevent
from gevent import get_hub
from gevent.event import Event
from gevent.socket import socket as GeventSocket

from streamcache.access.authorize import Access, AccessRules, Authorize
from streamcache.cache.workers import WorkerPool
from streamcache.config import Config, change
from streamcache.errors import ConfigError
from streamcache.http.request import Limits
from streamcache.server.acceptor import ACCEPTS_PER_TURN, Acceptor, connection_limit
from streamcache.server.accessfiles import read_access
from streamcache.server.accesslog import AccessLog, open_file
from streamcache.server.address import Address, SocketFile
from streamcache.server.addresses import AddressRow, AddressTable
from streamcache.server.admission import Admission
from streamcache.server.backend import Backend
from streamcache.server.clock import Clock
from streamcache.server.fastpath import FastPath
from streamcache.server.handler import Handler
from streamcache.server.notices import Notices
from streamcache.server.pages import PageCache
from streamcache.server.roster import Roster
from streamcache.server.sendturns import SendTurns
from streamcache.server.service import Service
from streamcache.server.tags import Tags
from streamcache.server.ticker import Seconds, Ticker

if TYPE_CHECKING:
    from streamcache.server.certificate import Certificate

log = logging.getLogger(__name__)

LAST_CALL: Final = 1.0  # s that a request may be on its way when draining begins
CUT_WAIT: Final = 5.0  # s that cut responses get to give back what they hold


class StreamCacheServer:
    """Serves a cache over HTTP/1.1.

    ``listener``: ("host", port), "host:port", "unix:PATH", or a socket that listens. ``config``
    defaults to that of the cache, which stays open when the server stops. ``max_accept``: most
    connections that are taken at once; 1 where several processes share the listener, else the
    first to wake takes them all. ``authorize``: asked about each request that ``[access]`` lets in,
    in its greenlet (``AccessRequest`` to ``Answer``); what it raises is 500. ``addresses``: where
    connections are counted by client, if other processes count theirs there too. ``worker``: what
    this process is called in the access log.
    """

    _fast_path = True  # off in tests that hold both paths to the same table

    def __init__(
        self,
        listener: tuple[str, int] | str | _socket.socket | GeventSocket,
        cache: Backend,
        *,
        config: Config | None = None,
        max_accept: int = ACCEPTS_PER_TURN,
        authorize: Authorize | None = None,
        addresses: AddressRow | None = None,
        worker: str = "",
    ) -> None:
        self._wanted: Address | None = None
        self._listener: Any = None
        self._socket_file: SocketFile | None = None
        if isinstance(listener, (tuple, str)):
            self._wanted = Address.parse(listener)
        else:
            self._listener = listener
        self._cache = cache
        self._config = config or cache.config
        self._max_accept = max_accept
        self._authorize = authorize
        self._worker = worker
        self._address: Address | None = None
        self._acceptor: Acceptor | None = None
        self._service: Service | None = None
        self._admission: Admission | None = None  # kept while nothing restricts: its threads
        self._ticker: Ticker | None = None
        self._seconds: Seconds | None = None
        self._connections = Roster(addresses or AddressTable(1).row(0))
        self._stopped = Event()

    def __repr__(self) -> str:
        where = self._address.url if self._address else "not started"
        return f"<StreamCacheServer {where} connections={len(self._connections)}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def started(self) -> bool:
        """Whether it accepts connections."""
        return self._acceptor is not None

    @property
    def connections(self) -> int:
        """Connections that are open, idle and refused ones too."""
        return len(self._connections)

    @property
    def address(self) -> tuple[str, int] | str:
        """The real (host, port), or the path of a Unix socket; RuntimeError before start."""
        where = self._bound()
        return where.path or (where.host, where.port)

    @property
    def url(self) -> str:
        """The base URL with the real port, or "unix:PATH". RuntimeError before start."""
        return self._bound().url

    def start(self) -> None:
        """Bind and accept; OSError for an address or an access log that cannot be had.

        ConfigError for a file of ``[access]`` or a certificate that cannot be used.
        """
        if self.started:
            raise RuntimeError("the server is started already")
        hub, config = get_hub(), self._config
        access = read_access(config.access)
        certificate = _certificate(config)
        clock = Clock()
        access_log = AccessLog(config.log, clock, self._worker)
        try:
            listener = self._listen()
        except BaseException:
            access_log.close()
            raise
        self._service = Service(
            hub=hub,
            turns=SendTurns(hub),
            handler=Handler(self._cache, clock, config.limits.ranges),
            limits=config.limits,
            head_limits=_head_limits(config),
            clock=clock,
            access_log=access_log,
            counters=self._cache.counters,
            tags=Tags(config.log),
            pages=PageCache(),
            prefetch=self._cache.prefetch,
            fast=None,
            closed=self._connections.closed,
            introduced=self._connections.introduced,
            notices=Notices(),
            encrypt=None,
            admission=None,
        )
        self._show(certificate)
        self._apply(config, access)
        self._seconds = Seconds(hub, clock.update)
        self._seconds.start()
        self._stopped.clear()
        connections = self._connections
        connections.serve(self._service)
        self._acceptor = Acceptor(listener, connections.accepted, max_accept=self._max_accept)
        connections.acceptor = self._acceptor
        self._acceptor.start()
        log.info("listening url=%s connections=%d", self.url, connections.limit)

    def stop(self, timeout: float | None = None) -> None:
        """SWITCHES; drain: accept no more, close idle connections, then cut what still runs.

        Idle ones stay for ``LAST_CALL`` s: clients may be sending a request just then, and would
        get a reset for it. Every answer is the last one, and says so. ``timeout`` in seconds, by
        default ``server.drain_timeout``. Idempotent; a second call with a shorter time-out
        shortens the first.
        """
        if self._service is None:
            return
        if timeout is None:
            timeout = self._config.server.drain_timeout
        self._stop_accepting()
        self._service.draining = True
        self._service.fast = None
        for connection in self._connections:
            connection.drain()
        moment = min(timeout, LAST_CALL)
        if not self._connections.empty.wait(moment):
            for connection in self._connections:
                connection.leave()
        if not self._connections.empty.wait(timeout - moment):
            log.info("drain time is over, cutting connections=%d", len(self._connections))
            for connection in self._connections:
                connection.cut()
            self._connections.empty.wait(CUT_WAIT)
        self._finish()

    def serve_forever(self) -> None:
        """SWITCHES; start if need be, and return when another greenlet has stopped the server."""
        if not self.started:
            self.start()
        try:
            self._stopped.wait()
        finally:
            if not self._stopped.is_set():
                self.stop(timeout=0)

    def reconfigure(self, config: Config) -> tuple[str, ...]:
        """SWITCHES to read certificate and files of [access], then takes what can change at once.

        They are read again also when ``config`` is what it was. The names of options that differ
        and need a restart; those of [source], [cache] and [copy] are not looked at. Raises
        ConfigError, and changes nothing, for a file that cannot be used. Running responses go on.
        """
        new = change(self._config, config, ("server", "access", "limits", "log"))
        service = self._service
        if service is None:
            self._config = new.config
            return new.restart
        other_log = new.config.log != self._config.log
        reader = WorkerPool("option files", size=1)
        try:
            access = reader.call(read_access, new.config.access)
            certificate = reader.call(_certificate, new.config)
            log_file = reader.call(_log_file, new.config) if other_log else -1
        finally:
            reader.close()
        if self._service is not service:
            if log_file >= 0:
                os.close(log_file)
            return new.restart  # it was stopped meanwhile
        if other_log:
            access_log = AccessLog(new.config.log, service.clock, self._worker, log_file)
            gevent.spawn(service.access_log.close)  # once its last lines are written
            service.access_log = access_log
            service.tags = Tags(new.config.log)
        self._config = new.config
        if certificate is not None:
            log.info("certificate read again path=%r", new.config.server.tls_certificate)
        self._show(certificate)
        self._apply(new.config, access)
        for connection in self._connections:
            connection.introduce(connection.name)
        return new.restart

    def reopen_logs(self) -> None:
        """Go on in a new access log, as the old one was renamed. Does not switch or raise.

        What was logged before goes to the old file; every line goes to one of the two, whole.
        """
        if self._service is not None:
            self._service.access_log.reopen()

    # -- the hub's side

    def _tick(self) -> None:
        assert self._service is not None
        self._service.access_log.flush()
        self._service.notices.tick(time.monotonic())
        if self._acceptor is not None:
            self._acceptor.tick()

    # -- parts

    def _show(self, certificate: Certificate | None) -> None:
        """Have new connections begin with TLS, if there is a certificate."""
        assert self._service is not None
        self._service.encrypt = None if certificate is None else certificate.wrap

    def _apply(self, config: Config, access: Access | None) -> None:
        """Give the parts their options, for the first time or others. Does not switch."""
        service, limits, realm = self._service, config.limits, config.access.realm
        assert service is not None
        self._connections.limit = connection_limit(limits.connections)
        service.limits = limits
        service.head_limits = _head_limits(config)
        service.handler = Handler(self._cache, service.clock, limits.ranges)
        if access is None and self._authorize is not None:
            access = Access(AccessRules())
        if access is None:
            service.admission = None
        elif self._admission is None:
            service.admission = self._admission = Admission(access, self._authorize, realm)
        else:
            service.admission = self._admission
            self._admission.reconfigure(access, realm)
        if self._fast_path and not service.draining:
            service.fast = FastPath(
                *(self._cache, service.clock, service.access_log, service.pages),
                *(service.head_limits, service.tags),
            )
        shortest = min(
            limits.head_timeout, limits.keepalive_timeout, limits.send_timeout, limits.body_timeout
        )
        if self._ticker is not None:
            self._ticker.stop()
        self._ticker = Ticker(service.hub, lambda: self._connections, self._tick, shortest)
        self._ticker.start()

    def _bound(self) -> Address:
        if self._address is None:
            raise RuntimeError("the server has not been started")
        return self._address

    def _listen(self) -> Any:
        if self._wanted is not None:
            self._listener = self._wanted.bind(self._config.server.backlog)
            if self._wanted.path:
                self._socket_file = SocketFile(self._wanted.path)
        self._listener.setblocking(False)
        self._address = Address.of(self._listener, self._config.server.scheme)
        return self._listener

    def _stop_accepting(self) -> None:
        acceptor, self._acceptor = self._acceptor, None
        self._connections.acceptor = None
        if acceptor is None:
            return
        if self._socket_file is not None:
            self._socket_file.remove()
        acceptor.close()
        self._listener.close()

    def _finish(self) -> None:
        if self._ticker is None or self._seconds is None or self._service is None:
            return
        self._ticker.stop()
        self._seconds.stop()
        self._ticker = self._seconds = None
        self._service.access_log.close()
        self._service.notices.close()
        if self._admission is not None:
            self._admission.close()
        self._service.turns.close()
        self._admission = self._service = None
        self._connections.serve(None)
        self._stopped.set()
        log.info("stopped")


def _certificate(config: Config) -> Certificate | None:
    """What the listener shows, if it speaks TLS; ConfigError."""
    if not config.server.tls_certificate:
        return None
    from streamcache.server.certificate import Certificate  # who does without needs no OpenSSL

    return Certificate(config.server)


def _log_file(config: Config) -> int:
    """The access log, opened: its disk may hang; ConfigError."""
    try:
        return open_file(config.log)
    except OSError as error:
        raise ConfigError(f"log.access: {error}") from error


def _head_limits(config: Config) -> Limits:
    limits = config.limits
    return Limits(limits.head_size, limits.target_size, limits.fields, config.server.scheme)
