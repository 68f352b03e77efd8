"""The connections of a server: who comes in, who is refused, and who has left.

Called by the acceptor and by connections, in the hub or in any greenlet of its thread; nothing here
switches.
"""

from __future__ import annotations

import _socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from gevent.event import Event

from streamcache.server.address import peer_name
from streamcache.server.addresses import AddressRow, Place, shown
from streamcache.server.connection import Connection
from streamcache.server.handler import Response
from streamcache.server.transport import SocketTransport

if TYPE_CHECKING:
    from streamcache.server.acceptor import Acceptor
    from streamcache.server.service import Service

REFUSED_AT_ONCE: Final = 32  # refused connections that may linger; more are closed without a word
# Lines of the access log about refusals in a second. Such a line costs its client not one byte, so
# a single one could have 11,000 a second; ``notices`` counts all.
REFUSED_LINES: Final = 10


class Roster:
    """Those that are open, idle and refused ones too."""

    def __init__(self, addresses: AddressRow) -> None:
        """``addresses``: where connections are counted by client."""
        self._addresses = addresses
        self._open: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._service: Service | None = None
        self._second = 0  # of the last line about a refusal
        self._lines = 0  # that were wanted in that second
        self.limit = 0  # connections that are served at once
        self.acceptor: Acceptor | None = None  # it may wait for a descriptor that one lets go of
        self.empty = Event()  # for who waits until all have left
        self.empty.set()

    def __repr__(self) -> str:
        return f"<Roster open={len(self._open)} refused={len(self._refused)} limit={self.limit}>"

    def __iter__(self) -> Iterator[Connection]:
        """As they are now: any of them may leave meanwhile."""
        return iter(tuple(self._open))

    def __len__(self) -> int:
        return len(self._open)

    def serve(self, service: Service | None) -> None:
        """What those who come from now on share; None: nobody comes."""
        self._service = service

    def accepted(self, sock: _socket.socket, peer: Any) -> None:
        """Somebody has connected."""
        service = self._service
        assert service is not None
        counters = service.counters
        try:
            if sock.family != _socket.AF_UNIX:
                sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()  # reset while it waited to be accepted
            return
        name = peer_name(peer)
        if service.admission is not None and not service.admission.admits(name):
            counters.connections_refused += 1
            service.notices.add("closed, as no proxy of ours", name)
            sock.close()
            return
        place = self._place(service, name)
        refusal = self._refusal(service, name, place)
        if refusal is not None and len(self._refused) >= REFUSED_AT_ONCE:
            counters.connections_refused += 1
            sock.close()
            return
        connection = Connection(service, SocketTransport(sock, service.hub, service.turns), name)
        self._open.add(connection)
        self.empty.clear()
        if refusal is not None:
            self._refuse(service, connection, refusal)
            return
        counters.connections_accepted += 1
        self._count(connection, place)
        connection.open()

    def introduced(self, connection: Connection) -> bool:
        """A proxy has said whose connection this is; whether it may stay."""
        service = self._service
        assert service is not None
        place = self._place(service, connection.name)
        refusal = self._refusal(service, connection.name, place, counted=True)
        if refusal is not None:
            self._refuse(service, connection, refusal)
            return False
        self._count(connection, place)
        return True

    def closed(self, connection: Connection) -> None:
        """It has left."""
        self._open.discard(connection)
        self._refused.discard(connection)
        if connection.place is not None:
            self._addresses.leave(connection.place)
        if not self._open:
            self.empty.set()
        if self.acceptor is not None:
            self.acceptor.resume()

    def _place(self, service: Service, name: str) -> Place | None:
        """Where the connections of this client are counted; None: they are not."""
        if not service.limits.per_address:
            return None
        if service.admission is not None and service.admission.is_proxy(name):
            return None
        return self._addresses.place(name)

    def _refusal(
        self, service: Service, name: str, place: Place | None, *, counted: bool = False
    ) -> Response | None:
        """What a new connection is refused with; ``counted``: it is one of ours already."""
        if not counted and len(self._open) - len(self._refused) >= self.limit:
            service.notices.add("refused, as limits.connections are open", name)
            return service.handler.overloaded()
        if place is not None and self._addresses.count(place) >= service.limits.per_address:
            service.notices.add("refused, as limits.per_address are open", shown(name))
            return service.handler.crowded()
        return None

    def _count(self, connection: Connection, place: Place | None) -> None:
        if place is not None:
            self._addresses.enter(place)
            connection.place = place

    def _refuse(self, service: Service, connection: Connection, response: Response) -> None:
        service.counters.connections_refused += 1
        if len(self._refused) >= REFUSED_AT_ONCE:
            connection.close()
            return
        self._refused.add(connection)
        if service.clock.second != self._second:
            self._second, self._lines = service.clock.second, 0
        self._lines += 1
        connection.refuse(response, logged=self._lines <= REFUSED_LINES)
