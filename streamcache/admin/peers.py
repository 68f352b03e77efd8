"""The other workers of this server, asked over their private sockets.

Runs in the greenlet of who asks, with one more for each worker. Who does not answer in time is
named; what it counted is on the board all the same.
"""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import gevent
from gevent import socket

from streamcache.admin.answers import JSON, Json
from streamcache.admin.sockets import Sockets

log = logging.getLogger(__name__)

PATIENCE: Final = 1.0  # s for a question; one that changes something may say otherwise


@dataclass(frozen=True, slots=True)
class Heard:
    """What the others said: values by worker, and who said nothing."""

    values: Mapping[str, Json]
    silent: tuple[str, ...]


class Peers:
    """All workers but one."""

    def __init__(self, sockets: Sockets, own: str) -> None:
        names = [f"w{number}" for number in range(1, sockets.workers + 1)]
        self._paths = {name: sockets.path_of(name) for name in names if name != own}

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Json] | None = None,
        patience: float = PATIENCE,
        whom: str = "",
    ) -> Heard:
        """SWITCHES for ``patience`` s at most; ask each for itself alone ("local").

        ``whom``: only the worker of that name.
        """
        given = urlencode({**(query or {}), "local": "1"}, errors="surrogateescape")
        url = f"{path}?{given}"
        asked = {
            name: gevent.spawn(_ask, socket_path, method, url, body, patience)
            for name, socket_path in self._paths.items()
            if whom in ("", name)
        }
        gevent.joinall(list(asked.values()))
        values = {name: each.value for name, each in asked.items() if each.value is not None}
        return Heard(values, tuple(name for name in asked if name not in values))


class _Connection(http.client.HTTPConnection):
    """To a Unix socket, with gevent's sockets whether the program is patched or not."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def _ask(
    path: str, method: str, url: str, body: Mapping[str, Json] | None, patience: float
) -> Json | None:
    """Greenlet: the JSON value of one worker's answer; None: there was none, or an error."""
    connection = _Connection(path)
    try:
        with gevent.Timeout(patience, TimeoutError(f"no answer in {patience:g} s")):
            fields = {"Content-Type": JSON} if method != "GET" else {}
            sent = None if body is None else json.dumps(body)
            connection.request(method, url, sent, fields)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status >= 300:
                raise OSError(f"status {answer.status} {data[:200]!r}")
            return json.loads(data)
    except (OSError, ValueError, http.client.HTTPException) as error:
        log.warning("worker does not answer worker=%s error=%s", path.rpartition("/")[2], error)
        return None
    finally:
        connection.close()
