"""What a connection begins with: a PROXY header, a TLS handshake, silence.

Hub; nothing here switches. It is over, and let go of, when the first byte of a request has come:
whoever has asked once may be idle in peace, but strangers who never do are counted in the log.
"""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING, Final

from streamcache.access.proxyprotocol import ProxyError, read_proxy_header
from streamcache.server.transport import RECEIVE, Transport

if TYPE_CHECKING:
    from streamcache.server.connection import Connection
    from streamcache.server.service import Service

log = logging.getLogger(__name__)

NO_PROXY_HEADER: Final = "closed without a PROXY header"
NO_HANDSHAKE: Final = "closed without a TLS handshake"
NO_REQUEST: Final = "closed, as it asked for nothing"


class Due(enum.Enum):
    """What has to come next, in this order."""

    PROXY = enum.auto()  # a PROXY header, if the proxies in front send one
    HANDSHAKE = enum.auto()  # of TLS, if that is spoken here; or the rest of it
    REQUEST = enum.auto()


_EXPIRED: Final = {
    Due.PROXY: (NO_PROXY_HEADER, logging.WARNING),
    Due.HANDSHAKE: (NO_HANDSHAKE, logging.WARNING),
    Due.REQUEST: (NO_REQUEST, logging.INFO),  # browsers open connections that they never use
}


class Opening:
    """Of one connection, which hands on what it receives until its first request."""

    __slots__ = ("_preface", "_service", "due")

    def __init__(self, service: Service) -> None:
        self._service = service
        self._preface = b""  # of a PROXY header that is not whole yet
        self.due = Due.REQUEST

    def __repr__(self) -> str:
        return f"<Opening due={self.due.name}>"

    @property
    def hurries(self) -> bool:
        """Whether what is due has the time of a head, and not that of an idle connection."""
        return self.due is not Due.REQUEST

    def begin(self, connection: Connection) -> None:
        """Its socket has been accepted."""
        admission = self._service.admission
        if admission is not None and admission.proxy_protocol:
            self.due = Due.PROXY
        else:
            self._encrypt(connection, b"")

    def take(self, received: bytes, connection: Connection) -> bytes:
        """What of these bytes is a request's; b"": that is yet to come, or will not come.

        It may close the connection, or have it refused. OSError of the transport.
        """
        if self.due is not Due.PROXY:
            return received
        behind = self._unwrap(self._preface + received, connection)
        if behind is None:
            return b""
        transport = self._encrypt(connection, behind)
        if transport is None:
            return behind
        found = transport.recv(RECEIVE)
        if found == b"":
            connection.close()
        return found or b""

    def advances(self, transport: Transport) -> bool:
        """Bytes came that are no request's; whether something else is due by now."""
        if self.due is Due.HANDSHAKE and transport.established:
            self.due = Due.REQUEST
            return True
        return False

    def expired(self, name: str) -> None:
        """What was due has not come in time: say so."""
        what, level = _EXPIRED[self.due]
        self._service.notices.add(what, name, level=level)

    def broken(self, name: str, error: OSError) -> None:
        """The client has reset the connection, or speaks no TLS: say so, if that is strange."""
        if self.due is Due.HANDSHAKE:
            why = error.strerror or str(error)
            self._service.notices.add(NO_HANDSHAKE, name, why.lower())

    def _unwrap(self, received: bytes, connection: Connection) -> bytes | None:
        """What follows the PROXY header; None: it is not whole yet, or the connection ends."""
        admission = self._service.admission
        assert admission is not None
        try:
            header = read_proxy_header(received)
        except ProxyError as error:
            log.debug("connection ends client=%s error=%s", connection.name, error)
            self._service.notices.add(NO_PROXY_HEADER, connection.name)
            connection.close()
            return None
        if header is None:
            self._preface = received
            return None
        name = admission.origin(connection.name, header)
        if name is None:
            connection.close()
            return None
        connection.introduce(name)
        return received[header.size :] if self._service.introduced(connection) else None

    def _encrypt(self, connection: Connection, received: bytes) -> Transport | None:
        """Begin TLS, if that is configured, with what came behind a PROXY header."""
        self.due = Due.REQUEST
        if self._service.encrypt is None:
            return None
        self.due = Due.HANDSHAKE
        return connection.encrypt(received)
