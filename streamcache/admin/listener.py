"""Serves an application on the sockets of the admin listener, in one worker.

Greenlets: those of ``gevent.pywsgi``, one that accepts on each socket and one for each connection,
all in the hub's thread. pywsgi and not the server next door: nothing here is hot, and that one is
about files. But heads are read by ``http/request.py``, as they are there: pywsgi takes what two
recipients could read differently, answers the rest without a word, and prints tracebacks.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Literal

import gevent
from gevent.pool import Pool
from gevent.pywsgi import Input, WSGIHandler, WSGIServer

from streamcache.admin.routes import Environ, Routes
from streamcache.http.request import BadRequest, Limits, Request, RequestParser
from streamcache.http.target import authority_of

log = logging.getLogger(__name__)

CONNECTIONS: Final = 64  # at once, on each socket; the others wait
IDLE: Final = 60.0  # s that a connection may stand still, and until a whole head has come
STOP_WAIT: Final = 1.0  # s that running answers get at the end
_LIMITS: Final = Limits()
_PIECE: Final = 4096  # bytes of a line of a head that are looked at before the next
_LINGER: Final = 1.0  # s that a client whose head was refused may stand still, so that it reads why
_LINGER_PIECES: Final = 16  # and no more than so often 64 KiB are read of what it still sends


class _Handler(WSGIHandler):
    """Reads heads as the server next door does, and ends connections that stand still."""

    _parser: RequestParser

    def handle(self) -> None:
        self.socket.settimeout(IDLE)
        self._parser = RequestParser(_LIMITS)
        super().handle()

    def handle_one_request(self) -> Literal[True] | None:
        """SWITCHES; one question and its answer. None: the connection ends."""
        self.requestline = ""
        self.response_length = 0
        try:
            request = self._read_head()
        except OSError:  # went away, or stood still
            return None
        except BadRequest as refused:
            self._answer(partial(_refuse, refused), {}, Input(self.rfile, 0), keep=False)
            self._linger()
            return None
        if request is None:
            return None
        waits = self.socket if request.expect_continue else None
        body = Input(self.rfile, request.content_length, waits)
        keep = request.keep_alive
        # In HTTP/1.0 staying open must be said.
        self.request_version = "HTTP/1.0" if request.version == (1, 0) else "HTTP/1.1"
        self._answer(self.server.application, self._environ(request, body), body, keep=keep)
        return None if self.close_connection or self.rfile.closed else True

    def _read_head(self) -> Request | None:
        """SWITCHES; the next head, line by line, so that the body stays where it is.

        None: the client has said all. OSError, BadRequest.
        """
        parser = self._parser
        try:
            with gevent.Timeout(IDLE, TimeoutError()):  # however its bytes come
                while line := self.rfile.readline(_PIECE):
                    parser.feed(line)
                    if (request := parser.next()) is not None:
                        break
                else:
                    return None
        except TimeoutError:
            if parser.in_head:
                raise parser.refuse(408, "head too slow") from None
            raise
        if request.chunked:  # nobody here would read it to its end
            refusal = BadRequest(411, "a body needs a Content-Length")
            refusal.to_head = request.method == "HEAD"
            raise refusal
        return request

    def _answer(
        self,
        application: Callable[..., Iterable[bytes]],
        environ: Environ,
        body: Input,
        *,
        keep: bool,
    ) -> None:
        """SWITCHES; also when what is left of the body is thrown away."""
        self.application, self.environ, self.wsgi_input = application, environ, body
        self.close_connection = not keep
        self.handle_one_response()

    def _environ(self, request: Request, body: Input) -> Environ:
        """The question as PEP 3333 has it."""
        path = request.path or request.target  # "*", or of CONNECT
        environ: Environ = {
            **self.server.get_environ(),
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path.encode("utf-8", "surrogateescape").decode("latin-1"),
            "QUERY_STRING": request.target.partition("?")[2],
            "SERVER_PROTOCOL": "HTTP/{}.{}".format(*request.version),
            "CONTENT_TYPE": request.headers.get("content-type") or "",
            "CONTENT_LENGTH": str(request.content_length),
            "wsgi.input": body,
        }
        for name in request.headers:
            if "_" not in name:  # else it could be taken for another
                environ[f"HTTP_{name.upper().replace('-', '_')}"] = request.headers.get(name)
        authority = authority_of(request.target)
        if authority:
            environ["HTTP_HOST"] = authority
        return environ

    def _linger(self) -> None:
        """SWITCHES; read what is still sent: a reset would destroy the answer on its way."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(_LINGER)
            for _ in range(_LINGER_PIECES):
                if not self.socket.recv(64 * 1024):
                    return
        except OSError:
            pass

    def handle_error(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, OSError):  # of the client's socket: Routes answers all others
            self.close_connection = True
        else:
            super().handle_error(kind, error, trace)

    def log_error(self, msg: str, *args: Any) -> None:
        log.debug(msg, *args)  # about what strangers send


def _refuse(refused: BadRequest, _: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
    return Routes.refuse(refused, start)


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
