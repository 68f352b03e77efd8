"""One HTTP request of a viewer: sent, checked to the byte, timed. Cooperative under locust."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from tests.content import Verifier
from tests.load.titles import Title

PIECE = 64 * 1024
TIMEOUT = 60.0  # s without a byte


class Wrong(Exception):
    """The answer is not what it must be; the message says what and at which offset."""


class Viewer:
    """A connection to the server, kept while it can be."""

    def __init__(self, host: str) -> None:
        parts = urlsplit(host)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"--host must be http://HOST:PORT, not {host!r}")
        self._address = (parts.hostname, parts.port or 80)
        self._base = parts.path.rstrip("/")
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Leave, as a viewer does who closes the window."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def fetch(self, path: str) -> bytes:
        """The whole body of a small file."""
        answer = self._send(path, {})
        body = answer.read()
        if answer.status != 200:
            raise Wrong(f"/{path}: status {answer.status}")
        return body

    def watch(self, title: Title, start: int = 0, stop: int | None = None) -> Watching:
        """Ask for bytes [start, stop) of a title; ``stop`` None: to the end."""
        return Watching(self, title, start, stop)

    def _send(self, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        target = f"{self._base}/{quote(path)}"
        fresh = self._connection is None
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT)
        try:
            self._connection.request("GET", target, headers=headers)
            return self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self.close()
            if fresh:
                raise
            return self._send(path, headers)  # the server had closed the idle connection


class Watching:
    """One range of a title on its way. ``pieces`` yields how many verified bytes are there."""

    def __init__(self, viewer: Viewer, title: Title, start: int, stop: int | None) -> None:
        self._viewer = viewer
        self._title = title
        self._start = start
        self._stop = stop
        self.received = 0  # verified bytes
        self.first_byte: float | None = None  # s after the request

    def pieces(self) -> Iterator[int]:
        """Receive and verify; the number of bytes so far after each piece. Raises Wrong.

        Not driven to its end, the connection must be closed: ``Viewer.close``.
        """
        began = time.monotonic()
        title, start, stop = self._title, self._start, self._stop
        headers = {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            answer = self._viewer._send(title.name, headers)
        except (OSError, http.client.HTTPException) as error:
            raise Wrong(f"{title.name}: no answer ({error!r})") from error
        end = title.size if stop is None else min(stop, title.size)
        self._check_head(answer, headers, start, end)
        verifier = Verifier(title.name, start, end)
        try:
            while data := answer.read1(PIECE):
                if self.first_byte is None:
                    self.first_byte = time.monotonic() - began
                wrong = verifier.feed(data)
                if wrong is not None:
                    raise Wrong(wrong)
                self.received += len(data)
                yield self.received
        except (OSError, http.client.HTTPException) as error:
            raise Wrong(f"{verifier.missing()} ({error!r})") from error
        missing = verifier.missing()
        if missing is not None:
            raise Wrong(missing)
        answer.close()  # read1 leaves an answer that is read to its end open: no next request

    def _check_head(
        self, answer: http.client.HTTPResponse, headers: dict[str, str], start: int, end: int
    ) -> None:
        expected: dict[str, str | None] = {"Content-Length": str(end - start)}
        if headers:
            expected["Content-Range"] = f"bytes {start}-{end - 1}/{self._title.size}"
        if answer.status != (206 if headers else 200):
            raise Wrong(f"{self._title.name}: status {answer.status} for {headers}")
        for name, value in expected.items():
            if answer.headers[name] != value:
                got = answer.headers[name]
                raise Wrong(f"{self._title.name}: {name} is {got}, must be {value}")
