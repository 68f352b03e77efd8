"""Where a server listens: addresses read, bound, and written as URLs.

Runs once per server, before anything is served; a host name is looked up with the calls of the
running program (cooperative when it is monkey-patched).
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gevent.socket import socket as GeventSocket

UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port, or with ``path`` the name of a Unix socket; ``scheme`` of its URL."""

    host: str = ""
    port: int = 0
    path: str = ""
    scheme: str = "http"

    def __post_init__(self) -> None:
        if not self.path and not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not within 0 to 65535")

    @classmethod
    def parse(cls, text: str | tuple[str, int]) -> Address:
        """Read ("host", port), "host:port", "[v6 address]:port" or "unix:PATH"; ValueError."""
        if isinstance(text, tuple):
            host, port = text[0], text[1]
            return cls(host.removeprefix("[").removesuffix("]"), port)
        if text.startswith(UNIX):
            path = text.removeprefix(UNIX)
            if not path:
                raise ValueError("unix: needs the path of a socket")
            return cls(path=path)
        host, colon, digits = text.rpartition(":")
        if not colon or not (digits.isascii() and digits.isdigit()):
            raise ValueError(f"{text!r} is none of HOST:PORT, [IPv6]:PORT, unix:PATH")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError(f"an IPv6 address stands in brackets: [{host}]:{digits}")
        return cls(host.removeprefix("[").removesuffix("]"), int(digits))

    @classmethod
    def of(cls, sock: _socket.socket, scheme: str = "http") -> Address:
        """Where a bound socket really listens."""
        name = sock.getsockname()
        if sock.family == _socket.AF_UNIX:
            return cls(path=os.fsdecode(name) or "(unnamed)")
        return cls(name[0], name[1], scheme=scheme)

    @classmethod
    def read(cls, url: str) -> Address:
        """The address that a ``url`` of ours, below, stands for."""
        scheme, mark, rest = url.partition("://")
        if not mark:
            return cls.parse(url)
        found = cls.parse(rest.removesuffix("/"))
        return cls(found.host, found.port, scheme=scheme)

    @property
    def url(self) -> str:
        """The base URL, or "unix:PATH", for which there is no URL form."""
        if self.path:
            return UNIX + self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/"

    def bind(self, backlog: int, kind: Callable[..., Any] = GeventSocket) -> Any:
        """A socket that listens here; OSError when that cannot be had.

        ``kind``: its class. One of gevent's makes a hub, and does not block.
        """
        if self.path:
            return _bind_unix(self.path, backlog, kind)
        found = socket.getaddrinfo(
            self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, type_, protocol, _, where = found[0]
        listener = kind(family, type_, protocol)
        try:
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(backlog)
        except BaseException:
            listener.close()
            raise
        return listener


def peer_name(peer: Any) -> str:
    """The client's address as logs and touches name it: an IP address, or "unix"."""
    return str(peer[0]) if isinstance(peer, tuple) else "unix"


class SocketFile:
    """The file of a Unix socket that we bound."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = _identity(path)

    def remove(self) -> None:
        """Remove it, unless another server's has that name by now."""
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._identity:
                os.unlink(self._path)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _bind_unix(path: str, backlog: int, kind: Callable[..., Any]) -> Any:
    listener = kind(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            # A socket file outlives its process. Only one that nobody answers is removed.
            if error.errno != errno.EADDRINUSE or not is_stale(path):
                raise OSError(error.errno, error.strerror, path) from None
            os.unlink(path)
            listener.bind(path)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def is_stale(path: str) -> bool:
    """Whether the socket at ``path`` outlived its process. Does not block."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except OSError:
        return False
    # Raw and non-blocking: a live server with a full backlog must not hold us.
    with contextlib.closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED
