"""Takes connections from the listener: gevent's StreamServer, with our own accept.

Runs in the hub. gevent's would wrap each socket in a Python object with two watchers, run a
greenlet for it, and print a traceback when the process is out of descriptors.
"""

from __future__ import annotations

import _socket
import errno
import logging
import resource
from collections.abc import Callable
from typing import Any, Final

from gevent.server import StreamServer
from gevent.socket import socket as GeventSocket

log = logging.getLogger(__name__)

# Out of descriptors or memory: says nothing about the client that waits, so it waits on.
EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
ACCEPTS_PER_TURN: Final = 16  # connections taken before running ones are looked at again

RESERVED_DESCRIPTORS: Final = 128  # for pools, catalog, logs, listener, refused connections
PER_CONNECTION: Final = 2  # descriptors: its socket, and the file it reads from
FEWEST_CONNECTIONS: Final = 8


def connection_limit(configured: int) -> int:
    """How many connections are served at once: ``configured``, or what the descriptors allow.

    (soft RLIMIT_NOFILE - 128) / 2: a response has a socket and a file open.
    """
    if configured > 0:
        return configured
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 20
    return max(FEWEST_CONNECTIONS, (soft - RESERVED_DESCRIPTORS) // PER_CONNECTION)


class Acceptor(StreamServer):
    """Calls ``accepted(socket, peer)`` in the hub with raw non-blocking sockets."""

    def __init__(
        self,
        listener: GeventSocket,
        accepted: Callable[[_socket.socket, Any], None],
        *,
        max_accept: int = ACCEPTS_PER_TURN,
    ) -> None:
        super().__init__(listener, self._unused)
        self.max_accept = max_accept
        self._accepted = accepted
        self.paused = False
        self._exhausted = False  # said already; for as long as pauses follow each other

    def resume(self) -> None:
        """Accept again if it is paused: a descriptor may be free now."""
        if self.paused:
            self.paused = False
            self.start_accepting()

    def tick(self) -> None:
        """Called now and then: descriptors are not freed by connections only."""
        if self.paused:
            self.resume()
        elif self._exhausted:
            self._exhausted = False
            log.info("accepting goes on")

    def do_read(self) -> Any:
        """Take one connection; None when there is none, or no descriptor for it."""
        listener: Any = self.socket
        try:
            fd, peer = listener._accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in self.fatal_errors:
                raise
            if error.errno in EXHAUSTED:
                self._pause(error)
            return None  # else that client has gone again (accept(2): treat as EAGAIN)
        sock = _socket.socket(listener.family, listener.type, listener.proto, fileno=fd)
        sock.setblocking(False)
        return sock, peer

    def do_handle(self, *args: Any) -> None:
        """Hand one connection on, in the hub."""
        self._accepted(*args)

    def _pause(self, error: OSError) -> None:
        self.paused = True
        self.stop_accepting()
        if not self._exhausted:
            self._exhausted = True
            log.warning("accepting pauses error=%s", error.strerror)

    def _unused(self, sock: Any, peer: Any) -> None:
        """Stand in for the handler that BaseServer asks for; ``do_handle`` runs instead."""
