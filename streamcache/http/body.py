"""Reads the body of a request only to know where it ends (RFC 9112 6.3, 7.1)."""

from __future__ import annotations

import enum
import re

from streamcache.http.headers import parse_field
from streamcache.http.request import BadRequest, Request
from streamcache.http.syntax import TEXT

SMALLEST_CHUNK = 256  # bytes that a chunk counts at least: each costs us the same, and them 6
MAX_LINE = 4096  # bytes of a chunk's size with extensions, or of one trailer field
MAX_TRAILERS = 8192  # bytes of all trailer fields (RFC 9112 7.1.2 asks for a limit)

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
# chunk-size [ chunk-ext ], RFC 9112 7.1.1; blanks only around ";" and "="
_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]+)"
    rb"(?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*"
)


class _State(enum.Enum):
    SIZE = enum.auto()  # in a line with a chunk's size
    CONTENT = enum.auto()  # in bytes that are thrown away
    CONTENT_END = enum.auto()  # in the CRLF after a chunk's bytes
    TRAILERS = enum.auto()  # in the trailer fields or the empty line that ends them
    DONE = enum.auto()


class BodyReader:
    """Drains one request's body within a limit of ``limit`` bytes on the wire.

    A chunk counts as ``SMALLEST_CHUNK`` bytes at least.

    Raises BadRequest(413) at once when the head announces more. ``done`` is true from the start
    for a request without a body.
    """

    __slots__ = (*("_chunked", "_left", "_limit", "_line", "_state", "_taken", "_trailers"),)

    def __init__(self, request: Request, limit: int) -> None:
        if request.content_length > limit:
            raise BadRequest(413, "body too large")
        self._limit = limit
        self._taken = 0
        self._chunked = request.chunked
        self._left = request.content_length  # bytes of content until the end or the chunk's end
        self._line = bytearray()
        self._trailers = 0
        if self._chunked:
            self._state = _State.SIZE
        else:
            self._state = _State.CONTENT if self._left else _State.DONE

    @property
    def done(self) -> bool:
        """Whether the body has ended."""
        return self._state is _State.DONE

    def feed(self, data: bytes) -> int:
        """Take bytes and return how many belong to the body: all of them until it is done.

        Raises BadRequest: 400 for a chunk that is not framed to the letter, as the place of the
        next request is unknown then; 413 for more bytes than the limit.
        """
        position = 0
        while position < len(data) and self._state is not _State.DONE:
            stop = min(len(data), position + self._limit - self._taken)
            if stop <= position:
                raise BadRequest(413, "body too large")
            if self._state is _State.CONTENT:
                step = min(self._left, stop - position)
                self._left -= step
                self._taken += step
                if not self._left:
                    self._state = _State.CONTENT_END if self._chunked else _State.DONE
            else:
                step = self._feed_line(data, position, stop)
            position += step
        return position

    def _feed_line(self, data: bytes, start: int, stop: int) -> int:
        end = data.find(b"\n", start, stop) + 1
        line = self._line
        line += data[start : end or stop]
        self._taken += (end or stop) - start
        if len(line) > MAX_LINE:
            raise BadRequest(400, "line of a chunked body too long")
        if self._state is _State.CONTENT_END and not b"\r\n".startswith(line):
            raise BadRequest(400, "chunk longer than its size")
        if end:
            if not line.endswith(b"\r\n"):
                raise BadRequest(400, "bare LF in a chunked body")
            whole = bytes(line[:-2])
            line.clear()
            self._line_ended(whole)
        return (end or stop) - start

    def _line_ended(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise BadRequest(400, "malformed chunk size")
            self._left = int(match[1], 16)  # base 16 is linear in the digits, and those are few
            if self._left > self._limit - self._taken:
                raise BadRequest(413, "body too large")
            if self._left:
                self._taken += max(0, SMALLEST_CHUNK - self._left)
            self._state = _State.CONTENT if self._left else _State.TRAILERS
        elif self._state is _State.CONTENT_END:
            self._state = _State.SIZE
        elif line:
            self._trailers += len(line)
            if self._trailers > MAX_TRAILERS:
                raise BadRequest(413, "trailers too large")
            if line.translate(None, TEXT):
                raise BadRequest(400, "control byte in a trailer")
            parse_field(line.decode("latin-1"))
        else:
            self._state = _State.DONE
