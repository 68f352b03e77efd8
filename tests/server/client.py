"""A raw HTTP client on gevent's sockets: sends what it is given, splits what comes back."""

from __future__ import annotations

import contextlib
import socket as constants
import ssl
import struct
from dataclasses import dataclass, field

import gevent
from gevent import socket

WAIT = 5.0  # s until a test that waits for the server gives up


@dataclass
class Response:
    status: int
    fields: dict[str, str]
    body: bytes = b""
    head: bytes = field(default=b"", repr=False)


def get(path: str = "/a.bin", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: h", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class TlsSocket:
    """The calls of a socket that ``Client`` makes, with TLS between; it can half-close."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        self._raw = raw
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._run(self._tls.do_handshake)
        self.setsockopt, self.close, self.fileno = raw.setsockopt, raw.close, raw.fileno
        self.settimeout = raw.settimeout

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
            self._raw.sendall(self._out.read())

    def recv(self, size: int) -> bytes:
        try:
            return self._run(lambda: self._tls.read(size))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def shutdown(self, _: int) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._raw.sendall(self._out.read())
        self._raw.shutdown(constants.SHUT_WR)

    def _run(self, step):
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                done = None
            if self._out.pending:
                self._raw.sendall(self._out.read())
            if done is not None or (step == self._tls.do_handshake and self._tls.version()):
                return done
            data = self._raw.recv(65536)
            if data:
                self._in.write(data)
            else:
                self._in.write_eof()


class Client:
    """One connection; with TLS if there is a ``context``."""

    def __init__(
        self, address, *, receive_buffer: int = 0, context: ssl.SSLContext | None = None
    ) -> None:
        unix = isinstance(address, str)
        family = (
            socket.AF_UNIX if unix else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        )
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(constants.SOL_SOCKET, constants.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT)
        self.socket.connect(address)
        if context is not None:
            self.socket = TlsSocket(self.socket, context)
        self.rest = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def half_close(self) -> None:
        self.socket.shutdown(constants.SHUT_WR)

    def reset(self) -> None:
        """Leave with a reset."""
        self.socket.setsockopt(constants.SOL_SOCKET, constants.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def more(self) -> bytes:
        """The next bytes as they come."""
        data, self.rest = self.rest, b""
        return data or self.socket.recv(65536)

    def head(self) -> Response:
        """The next head; what follows stays."""
        data = self.rest
        while b"\r\n\r\n" not in data:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError(data)
            data += piece
        head, _, self.rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in lines[1:])
        fields = {name.lower(): value for name, _, value in pairs}
        return Response(int(lines[0].split()[1]), fields, head=head)

    def body(self, length: int) -> bytes:
        data = self.rest
        while len(data) < length:
            piece = self.socket.recv(1 << 20)
            if not piece:
                raise EOFError(f"{len(data)} of {length} bytes")
            data += piece
        self.rest = data[length:]
        return data[:length]

    def response(self, method: str = "GET") -> Response:
        found = self.head()
        if method != "HEAD" and found.status not in (204, 304):
            found.body = self.body(int(found.fields["content-length"]))
        return found

    def ask(self, *args: str, method: str = "GET", version: str = "1.1") -> Response:
        self.send(get(*args, method=method, version=version))
        return self.response(method)

    def until_closed(self) -> bytes:
        """What comes until the server closes in order; a reset raises."""
        data = self.rest
        while piece := self.socket.recv(1 << 20):
            data += piece
        self.rest = b""
        return data


def eventually(condition, wait: float = WAIT) -> None:
    """Let others run until the condition holds."""
    with gevent.Timeout(wait, AssertionError(f"still not so after {wait} s")):
        while not condition():
            gevent.sleep(0.005)
