"""Questions to an admin listener, with blocking sockets, from outside of its process."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PATIENCE = 20.0  # s


@dataclass(frozen=True, slots=True)
class Told:
    """An answer."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.fields["content-type"] == "application/json", self
        return json.loads(self.body)


class Admin:
    """The admin listener at the path of a Unix socket, or at (host, port)."""

    def __init__(self, where: str | tuple[str, int]) -> None:
        self._where = where

    def ask(
        self, method: str, target: str, body: Any = None, fields: Mapping[str, str] | None = None
    ) -> Told:
        """One question on a connection of its own; ``body`` is sent as JSON, bytes as they are."""
        sent = dict(fields or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        client = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        if isinstance(self._where, str):
            client.sock = socket.socket(socket.AF_UNIX)
            client.sock.settimeout(PATIENCE)
            client.sock.connect(self._where)
        else:
            client.sock = socket.create_connection(self._where, PATIENCE)
        try:
            client.request(method, target, body, sent)
            answer = client.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Told(answer.status, told, answer.read())
        finally:
            client.close()

    def get(self, target: str) -> Any:
        """The JSON value there."""
        told = self.ask("GET", target)
        assert told.status == 200, told
        return told.json


def eventually(condition: Callable[[], Any], what: str = "") -> Any:
    """What ``condition`` gives as soon as that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, what or "it never came true"
        time.sleep(0.02)
    return found
