"""Bytes to requests: the head of RFC 9112 2 to 6, read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from streamcache.http.framing import keeps_alive, request_framing
from streamcache.http.headers import Headers, parse_fields
from streamcache.http.syntax import TEXT, TOKEN, BadRequest
from streamcache.http.target import is_authority, resolve

__all__ = [
    "BadRequest",
    "BodySink",
    "Headers",
    "Limits",
    "Request",
    "RequestParser",
    "parse_head",
    "parse_line",
]

MAX_EMPTY_LINES = 8  # before a request line; clients send one too many (RFC 9112 2.2), not dozens

_HEAD_END = b"\r\n\r\n"
_TOKEN_BYTES = frozenset(TOKEN.encode("ascii"))
_CR = 0x0D
# Any 1.x is read as the 1.x we know (RFC 9110 2.5); the name is case-sensitive, one digit a side.
_VERSIONS = {f"HTTP/1.{minor}": (1, minor) for minor in range(10)}
_OTHER_VERSIONS = frozenset(f"HTTP/{a}.{b}" for a in range(10) for b in range(10)) - set(_VERSIONS)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one head may take: bytes of head, bytes of request target, number of field lines.

    ``scheme``: "http", or "https" over TLS, of the URL that a target in absolute-form has.
    """

    head_size: int = 32 * 1024
    target_size: int = 8 * 1024
    fields: int = 100
    scheme: str = "http"

    def __post_init__(self) -> None:
        if min(self.head_size, self.target_size, self.fields) <= 0:
            raise ValueError("limits must be positive")


@dataclass(frozen=True, slots=True)
class Request:
    """One request head.

    ``target`` is as received, visible ASCII, for the log. ``path`` begins with "/" and has its
    escapes decoded once (UTF-8, surrogateescape) and empty and dot segments resolved; a trailing
    slash stays, and a path with an escaped slash gets one, as neither is a file's; it is "" for
    ``OPTIONS *`` and CONNECT, which name no file. ``content_length`` is
    0 without a body; ``chunked`` bodies have no length yet. ``expect_continue``: the client waits
    for ``plan.CONTINUE`` before it sends the body that this request announces.
    """

    method: str
    target: str
    path: str
    version: tuple[int, int]
    headers: Headers
    keep_alive: bool
    content_length: int
    chunked: bool
    expect_continue: bool

    @property
    def has_body(self) -> bool:
        """Whether bytes of a body follow the head on the connection."""
        return self.chunked or self.content_length > 0


class BodySink(Protocol):
    """Takes bytes of a body; ``body.BodyReader`` is one."""

    def feed(self, data: bytes) -> int:
        """Take bytes; the answer is how many of them belonged to the body."""


class RequestParser:
    """Finds the heads in the bytes of one connection; each byte is looked at a bounded number
    of times, however the bytes come."""

    __slots__ = ("_buffer", "_empty_lines", "_limits", "_line_checked", "_refusal", "_scanned")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._scanned = 0  # bytes of an incomplete head that need not be looked at again
        self._line_checked = False
        self._empty_lines = 0
        self._refusal: BadRequest | None = None

    @property
    def in_head(self) -> bool:
        """Whether bytes are buffered: after ``next()`` gave None, those of an incomplete head."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes from the connection."""
        self._buffer += data

    def feed_body(self, body: BodySink) -> None:
        """Give the buffered bytes to a body, which takes those that belong to it.

        Raises what the body raises (BadRequest).
        """
        del self._buffer[: body.feed(bytes(self._buffer))]

    def next(self) -> Request | None:
        """Take the next whole head; None when it has not arrived yet.

        The bytes after it stay buffered: of its body (``feed_body``), else of the next request.
        Raises BadRequest, as soon as the bytes at hand suffice for it and then for ever, as the
        place of the next request is unknown (RFC 9112 2.2).
        """
        if self._refusal is not None:
            raise self._refusal
        try:
            return self._next()
        except BadRequest as refusal:
            self._refusal = refusal
            self._describe(refusal)
            raise

    def refuse(self, status: int, reason: str) -> BadRequest:
        """The refusal of the head that is buffered, which may be incomplete, for another reason."""
        refusal = BadRequest(status, reason)
        self._describe(refusal)
        return refusal

    def _describe(self, refusal: BadRequest) -> None:
        """Say what is known of the request that is refused."""
        refusal.to_head = self._buffer.startswith(b"HEAD ")
        # No more than a head may have: what came behind it is not ours to show.
        line, _, _ = bytes(self._buffer[: self._limits.head_size]).partition(b"\n")
        refusal.line = line.partition(b"\r")[0].decode("latin-1")

    def _next(self) -> Request | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):
            del buffer[:2]
            self._empty_lines += 1
            if self._empty_lines > MAX_EMPTY_LINES:
                raise BadRequest(400, "too many empty lines before a request")
        end = buffer.find(_HEAD_END, max(self._scanned - 3, 0))
        if end < 0 or end + 4 > self._limits.head_size:
            self._look_at_incomplete()
            return None
        request = parse_head(bytes(buffer[:end]), self._limits)
        del buffer[: end + 4]
        self._scanned = 0
        self._line_checked = False
        self._empty_lines = 0
        return request

    def _look_at_incomplete(self) -> None:
        """Refuse what can no longer become a head, and what grew too large.

        Waiting for the end instead would hold a client that speaks something else (TLS, HTTP/0.9,
        bare LF) until the deadline. The order of the checks is that of ``parse_head``, so that
        the answer does not depend on how the bytes were cut.
        """
        buffer = self._buffer
        head_size = self._limits.head_size
        size = min(len(buffer), head_size + 1)
        if not size or buffer == b"\r":
            return
        if buffer[0] not in _TOKEN_BYTES:
            raise BadRequest(400, "not a request line")
        start = self._scanned
        if not self._line_checked:
            line_end = buffer.find(b"\r\n", start, size)
            if line_end >= 0:
                parse_line(buffer[:line_end].decode("latin-1"), self._limits.target_size)
                self._line_checked = True
        # a CR at the end is left for the next look: its LF may be on its way
        stop = size - (buffer[size - 1] == _CR)
        line_ends = buffer.count(b"\r\n", start, stop)
        if not buffer.count(b"\r", start, stop) == line_ends == buffer.count(b"\n", start, stop):
            raise BadRequest(400, "bare CR or LF")
        self._scanned = stop
        if size > head_size:
            raise _oversized(bytes(buffer[:size]), line_is_whole=self._line_checked)


def _oversized(prefix: bytes, *, line_is_whole: bool) -> BadRequest:
    """The refusal of a head that is longer than the limit."""
    if line_is_whole:
        return BadRequest(431, "request head too large")
    method, blank, _ = prefix.decode("latin-1").partition(" ")
    if method.strip(TOKEN):
        return BadRequest(400, "not a request line")
    # RFC 9112 3: a method longer than any known is 501, a target too long for us is 414
    return BadRequest(414, "request target too long") if blank else BadRequest(501, "long method")


def parse_head(head: bytes, limits: Limits) -> Request:
    """Parse one head, without the empty line at its end (RFC 9112 2 to 6).

    A function of its arguments alone, so that its results can be kept. Raises BadRequest: 400
    malformed, 413, 414, 421, 431, 501, 505.
    """
    lines = head.decode("latin-1").split("\r\n")
    method, target, version = parse_line(lines[0], limits.target_size)
    # Every CR and LF is part of a CRLF, and no other control byte is there, exactly when this
    # holds: the left side has one CR and LF for each pair plus the bare ones.
    if head.translate(None, TEXT) != b"\r\n" * (len(lines) - 1):
        raise BadRequest(400, "control byte or bare line end")
    path = resolve(method, target, limits.scheme)
    if len(lines) - 1 > limits.fields:
        raise BadRequest(431, "too many fields")
    headers = parse_fields(lines[1:])
    hosts = headers.all("host")
    if len(hosts) > 1 or (not hosts and version != (1, 0)):
        raise BadRequest(400, "not exactly one Host")  # RFC 9112 3.2
    if hosts and not is_authority(hosts[0]):
        raise BadRequest(400, "invalid Host")
    framing = request_framing(headers, version)
    return Request(
        method=method,
        target=target,
        path=path,
        version=version,
        headers=headers,
        keep_alive=keeps_alive(headers, version),
        content_length=framing.content_length,
        chunked=framing.chunked,
        expect_continue=framing.expect_continue,
    )


def parse_line(line: str, max_target: int) -> tuple[str, str, tuple[int, int]]:
    """Method, target and version of a request line; single spaces only (RFC 9112 3).

    ``max_target`` in bytes. Raises BadRequest: 400, 414, 505.
    """
    if "\r" in line or "\n" in line:
        raise BadRequest(400, "bare CR or LF")
    words = line.split(" ")
    if len(words) != 3:
        raise BadRequest(400, "malformed request line")
    method, target, protocol = words
    if not method or method.strip(TOKEN) or not target:
        raise BadRequest(400, "malformed request line")
    version = _VERSIONS.get(protocol)
    if version is None:
        if protocol in _OTHER_VERSIONS:
            raise BadRequest(505, "unsupported version")
        raise BadRequest(400, "malformed version")
    if len(target) > max_target:
        raise BadRequest(414, "request target too long")
    return method, target, version
