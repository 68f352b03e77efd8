"""Asking a running server: its admin listener found or named, questions and answers in JSON."""

from __future__ import annotations

import argparse
import errno
import http.client
import json
import os
import socket
import stat
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from streamcache.admin.place import SYSTEM_DIRECTORY, default_directory, sockets_in
from streamcache.commands import output
from streamcache.errors import ConfigError, StreamCacheError

VARIABLE: Final = "STREAMCACHE_SERVER_ADMIN"
FOUND: Final = (
    "The server is found by itself if one runs on this machine for this user; else name its admin\n"
    "listener with --admin, or in $STREAMCACHE_SERVER_ADMIN."
)

_WAIT: Final = 30.0  # s for an answer: a purge of many files takes its time
_FIRST: Final = 2.0  # s for a connection, where a server is looked for
# Statuses that say that an argument is wrong or too long, not that something could not be done.
_MISTAKES: Final = (400, 413, 414)


class NoServer(StreamCacheError):
    """No server can be asked; the message says what to do."""


class Refused(StreamCacheError):
    """The server answered with an error, which is the message."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, as it came and as it is understood."""

    text: str
    value: Any


def add_server(parser: argparse.ArgumentParser) -> None:
    """--admin and --json."""
    parser.add_argument(
        "--admin",
        metavar="ADDRESS",
        help="the server's admin listener: unix:PATH or HOST:PORT (default: the one server of this"
        " user)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print what the server's API answers, and nothing else to stdout",
    )


class Server:
    """A server that runs. A connection for each question: it may end at any time."""

    def __init__(self, address: str) -> None:
        """``address`` as --admin has it. ConfigError."""
        from streamcache.server.address import Address  # it brings gevent along

        try:
            self._address = Address.parse(address)
        except ValueError as error:
            raise ConfigError(f"--admin: {error}") from None
        self.address = address

    def __repr__(self) -> str:
        return f"<Server {self.address}>"

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Self:
        """The one that --admin or the environment names, or the only one. NoServer, ConfigError."""
        named = arguments.admin or os.environ.get(VARIABLE, "")
        return cls(named or _only_one())

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Answered:
        """Ask. NoServer, Refused; ConfigError: an argument is wrong."""
        given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        text = urllib.parse.urlencode(given, errors="surrogateescape")
        return self._ask("GET", f"{path}?{text}" if text else path)

    def post(self, path: str, body: Mapping[str, object]) -> Answered:
        """Have something done. NoServer, Refused, ConfigError."""
        return self._ask("POST", path, json.dumps(body).encode("ascii"))

    def delete(self, path: str) -> Answered:
        """Have something ended. NoServer, Refused, ConfigError."""
        return self._ask("DELETE", path)

    def _ask(self, method: str, target: str, body: bytes | None = None) -> Answered:
        fields = {"Accept": "application/json"}
        if method != "GET":
            fields["Content-Type"] = "application/json"
        connection = _Connection(self._address.path, self._address.host, self._address.port)
        try:
            connection.request(method, target, body, fields)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoServer(_unreachable(self.address, error)) from None
        finally:
            connection.close()
        text = data.decode("utf-8", "replace").rstrip("\n")
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if answer.status >= 400:
            said = value.get("error") if isinstance(value, dict) else None
            if said is None:
                raise NoServer(self._stranger(f"it answered {answer.status} {answer.reason}"))
            if answer.status in _MISTAKES:
                raise ConfigError(str(said))
            raise Refused(str(said))
        if value is None:
            raise NoServer(self._stranger("no JSON came back"))
        if isinstance(value, dict) and (silent := value.get("unanswered")):
            output.tell(f"no answer from {', '.join(silent)}: what only these know is missing")
        return Answered(text, value)

    def _stranger(self, why: str) -> str:
        return (
            f"{self.address} is no admin listener of streamcache: {why}; the log of the server says"
            ' where that is ("admin listener url=...")'
        )


class _Connection(http.client.HTTPConnection):
    """Over TCP, or over a Unix socket where there is a path."""

    def __init__(self, path: str, host: str, port: int) -> None:
        super().__init__(host or "localhost", port or None, timeout=_WAIT)
        self._path = path

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_WAIT)
        self.sock.connect(self._path)


def _only_one() -> str:
    """The address of the one server that can be found. NoServer.

    Those of the user come before the system's: who runs one of his own means that.
    """
    places = [default_directory(os.environ, os.geteuid())]
    if not os.environ.get("RUNTIME_DIRECTORY") and SYSTEM_DIRECTORY not in places:
        places.append(SYSTEM_DIRECTORY)
    forbidden: list[str] = []
    for place in places:
        alive = []
        for path in sockets_in(place):
            try:
                if _is_alive(path):
                    alive.append(f"unix:{path}")
            except PermissionError:
                forbidden.append(f"unix:{path}")
        if len(alive) == 1:
            return alive[0]
        if alive:
            named = ", ".join(alive)
            raise NoServer(f"{len(alive)} servers run here: name one with --admin: {named}")
    if forbidden:
        named = ", ".join(forbidden)
        raise NoServer(f"{named}: permission denied: be the server's user, or root")
    raise NoServer(
        f"no running server found in {' or '.join(places)}: start one with"
        ' "streamcache serve SOURCE", or name its admin listener with --admin'
    )


def _is_alive(path: str) -> bool:
    """Whether somebody listens there. PermissionError: we may not know."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_FIRST)
            sock.connect(path)
    except PermissionError:
        raise
    except TimeoutError:
        return True  # it is there, and says nothing
    except OSError:
        return False  # whoever made it has ended
    return True


def _unreachable(address: str, error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.EACCES, errno.EPERM):
        return f"{address}: permission denied: be the server's user, or root"
    if code in (errno.ENOENT, errno.ECONNREFUSED):
        return (
            f"{address}: no server listens there; its log says where its admin listener is"
            ' ("admin listener url=...")'
        )
    if isinstance(error, TimeoutError):
        return f"{address}: no answer within {_WAIT:.0f} s"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
    return f"{address}: {text}"
