"""Serves an application on the sockets of the admin listener, in one worker.

Greenlets: those of ``gevent.pywsgi``, one that accepts on each socket and one for each connection,
all in the hub's thread. pywsgi and not the server next door: nothing here is hot, and that one is
about files.
"""

from __future__ import annotations

import logging
import socket
from typing import Any, Final

from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from streamcache.admin.routes import Routes

log = logging.getLogger(__name__)

CONNECTIONS: Final = 64  # at once, on each socket; the others wait
IDLE: Final = 60.0  # s that a connection may stand still
STOP_WAIT: Final = 1.0  # s that running answers get at the end


class _Handler(WSGIHandler):
    """Ends connections that stand still."""

    def handle(self) -> None:
        self.socket.settimeout(IDLE)
        super().handle()

    def read_request(self, raw_requestline: str) -> Any:
        try:
            return super().read_request(raw_requestline)
        except OSError:  # went away, or stood still, in its head: pywsgi prints a traceback
            return False

    def log_error(self, msg: str, *args: Any) -> None:
        log.debug(msg, *args)  # about what strangers send


class Listener:
    """Accepts on a socket that listens, until ``stop``."""

    def __init__(self, sock: socket.socket, application: Routes) -> None:
        self._server = WSGIServer(
            sock,
            application,
            spawn=Pool(CONNECTIONS),
            log=None,
            error_log=log,
            handler_class=_Handler,
            # Else it looks up a name for the machine. And one connection a turn: others share it.
            environ={"SERVER_NAME": "streamcache", "SERVER_PORT": "0", "wsgi.multiprocess": True},
        )

    def start(self) -> None:
        """Accept from now on."""
        self._server.start()

    def stop(self) -> None:
        """Accept no more, and end what runs. Switches."""
        self._server.stop(timeout=STOP_WAIT)
