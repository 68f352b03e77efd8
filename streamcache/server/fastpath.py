"""The fast path: an ordinary request for a hot file is answered in the hub's callback.

Runs in the hub; nothing here switches or waits. It takes one common shape and nothing else: one
whole head in the bytes that just came, ordinary (``http/ordinary.py``), for a file that the cache
knows to be fresh and has open, and a body small enough to leave with its head in one send.
Everything else is left to the complete path, which starts from the same bytes (``SLOW``): nothing
was sent, counted or logged by then. So this path decides nothing by itself. Its heads are made by
``http/plan.py`` from the same plan, the cache's answers are those of the complete path's lookup.

What it saves is work that would come out the same again: the request line and the other fields of
a head are kept with what they mean (players send the same ones with a new Range each time), and
of each file its heads with holes for what changes. docs/performance.md has the figures.
"""

from __future__ import annotations

import enum
import errno
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from streamcache.cache.delegate import CacheStatus
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.reading import Ready
from streamcache.http.ordinary import (
    Fields,
    cut_range,
    one_range,
    ordinary_fields,
    ordinary_path,
)
from streamcache.http.plan import Entity, FileRange, head_bytes, plan
from streamcache.http.request import Limits, Request, parse_head
from streamcache.server.accesslog import AccessLog, escape, log_line
from streamcache.server.backend import Backend
from streamcache.server.clock import Clock
from streamcache.server.handler import Response, cache_fields, entity_of
from streamcache.server.transport import Transport

MOST: Final = 128 * 1024  # bytes of a body; above it sendfile is quicker than a copy
LONGEST: Final = 4096  # bytes of a request's head: what is kept of strangers is bounded
LINES: Final = 2048  # request lines kept, each with the heads of its file: 6 MB at worst
BLOCKS: Final = 512  # fields kept: 4 MB at worst

_HEAD_ROOM: Final = 4096  # bytes for the head of an answer
_HEAD_END: Final = b"\r\n\r\n"
_DATE: Final = b"Date: @"
_CACHE_STATUS, _OUTCOME = cache_fields(CacheStatus.HIT)


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer of which the kernel took only some bytes: the complete path sends the rest."""

    request: Request
    response: Response  # with what is left of the body; whoever has it closes it
    head: bytes
    sent: int  # bytes of head and body that have left


class Outcome(enum.Enum):
    """What became of a request."""

    ANSWERED = enum.auto()
    SLOW = enum.auto()  # nothing was done: the complete path takes the same bytes


ANSWERED: Final = Outcome.ANSWERED
SLOW: Final = Outcome.SLOW


class _Heads:
    """The heads that one version of a file is answered with.

    ``whole`` is that of 200, ``part`` of 206 with holes for length, first and last byte. Both are
    what ``plan`` and ``head_bytes`` make of a sample request; only the date is renewed.
    """

    __slots__ = ("_part", "_whole", "hot", "mtime", "part", "second", "size", "whole")

    def __init__(self, path: str, hot: ObjectHandle) -> None:
        entity = entity_of(path, hot.version)
        self.hot = hot
        self.size = entity.size
        self.mtime = entity.mtime
        self.second = -1
        self._whole = _sample(entity, b"")
        self._part = (
            _sample(entity, b"\r\nRange: bytes=0-0")
            .replace(b"%", b"%%")
            .replace(b"\r\nContent-Length: 1\r\n", b"\r\nContent-Length: %d\r\n")
            .replace(b"\r\nContent-Range: bytes 0-0/", b"\r\nContent-Range: bytes %d-%d/")
        )
        self.whole = self.part = b""

    def renew(self, clock: Clock) -> None:
        """Write the date of another second."""
        self.second = clock.second
        date = b"Date: " + clock.date
        self.whole = self._whole.replace(_DATE, date, 1)
        self.part = self._part.replace(_DATE, date, 1)


def _sample(entity: Entity, field: bytes) -> bytes:
    """The head of the answer to an ordinary request that has this field."""
    request = parse_head(b"GET / HTTP/1.1\r\nHost: h" + field, Limits())
    answer = plan(request, entity, max_ranges=1, now=entity.mtime)
    return head_bytes(answer, date=b"@", extra=(("Cache-Status", _CACHE_STATUS),))


class _Line:
    """A request line: the path that it names, how it is logged, the heads of its file."""

    __slots__ = ("heads", "path", "text")

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.heads: _Heads | None = None


class FastPath:
    """Answers in the hub what it can, for all connections of a server."""

    def __init__(self, cache: Backend, clock: Clock, access_log: AccessLog, limits: Limits) -> None:
        self.answered = 0
        self._cache = cache
        self._clock = clock
        self._log = access_log
        self._limits = limits
        self._longest = min(LONGEST, limits.head_size)
        self._line = lru_cache(LINES)(self._read_line)
        self._fields = lru_cache(BLOCKS)(self._read_fields)
        # One buffer for all: the kernel has taken its bytes, or they are dropped, on return.
        self._buffer = memoryview(bytearray(_HEAD_ROOM + MOST))
        self._read_flags = os.RWF_NOWAIT

    def answer(self, data: bytes, transport: Transport, client: str) -> Outcome | Begun:
        """Answer the request that ``data`` is, the first bytes after the last answer.

        OSError: the client is gone; that is logged.
        """
        if len(data) > self._longest or not data.endswith(_HEAD_END):
            return SLOW
        end = data.find(b"\r\n")
        line = self._line(data[:end])
        if line is None:
            return SLOW
        block, wanted = cut_range(data[end:-4])
        fields = self._fields(block)
        if fields is None:
            return SLOW
        heads = line.heads
        hot = self._cache.peek(line.path, None if heads is None else heads.hot)
        if hot is None:
            return SLOW
        if heads is None or heads.hot is not hot:
            heads = line.heads = _Heads(line.path, hot)
        if heads.second != self._clock.second:
            heads.renew(self._clock)
        if not wanted:
            start, stop = 0, heads.size
            head = heads.whole
        else:
            place = one_range(wanted, heads.size)
            if place is None:
                return SLOW
            start, stop = place
            head = heads.part % (stop - start, start, stop - 1)
        length = stop - start
        if not 0 < length <= MOST or heads.mtime > heads.second:
            return SLOW
        size = len(head)
        answer = self._buffer[: size + length]
        answer[:size] = head
        if not self._read(hot.fd, answer[size:], start):
            return SLOW
        status = 206 if wanted else 200
        try:
            sent = transport.send(answer)
        except OSError:
            self._done(line, fields, wanted, hot, client, status, 0, "cut")
            raise
        if sent is None:
            return SLOW
        if sent < size + length:
            return self._begun(data, line, hot, client, head, sent)
        self.answered += 1
        self._done(line, fields, wanted, hot, client, status, length, "done")
        return ANSWERED

    def _read(self, fd: int, into: memoryview, offset: int) -> bool:
        """Whether all of it was in the page cache: the hub never waits for the disk."""
        try:
            return os.preadv(fd, (into,), offset, self._read_flags) == len(into)
        except OSError as error:
            # A file system that cannot say so is one in memory (tmpfs), nearly always.
            if error.errno == errno.EOPNOTSUPP and self._read_flags:
                self._read_flags = 0
                return self._read(fd, into, offset)
            return False

    def _done(
        self,
        line: _Line,
        fields: Fields,
        wanted: bytes,
        hot: ObjectHandle,
        client: str,
        status: int,
        count: int,
        end: str,
    ) -> None:
        """Count and log as the complete path does."""
        self._cache.delivered(hot, client, count)
        if self._log.enabled:
            text = log_line(
                client,
                self._clock.stamp,
                line.text,
                status,
                count,
                fields.referer,
                fields.user_agent,
                _OUTCOME,
                "0.000",  # nothing waited
                f"bytes={wanted.decode('ascii')}" if wanted else "-",
                end,
            )
            self._log.add(text)

    def _begun(
        self, data: bytes, line: _Line, hot: ObjectHandle, client: str, head: bytes, sent: int
    ) -> Begun:
        """Short send: what the complete path needs to go on with it."""
        request = parse_head(data[:-4], self._limits)
        entity = entity_of(line.path, hot.version)
        answer = plan(request, entity, max_ranges=1, now=self._clock.second)
        delegate = self._cache.take(hot, client)
        (body,) = answer.pieces
        assert isinstance(body, FileRange)
        taken = max(0, sent - len(head))
        if taken:
            delegate.sent(Ready(hot.fd, body.start, taken), taken)
            answer = replace(answer, pieces=(FileRange(body.start + taken, body.stop),))
        return Begun(request, Response(answer, _CACHE_STATUS, _OUTCOME, delegate), head, sent)

    def _read_line(self, line: bytes) -> _Line | None:
        path = ordinary_path(line, self._limits.target_size)
        return None if path is None else _Line(path, escape(line.decode("latin-1")))

    def _read_fields(self, block: bytes) -> Fields | None:
        fields = ordinary_fields(block, self._limits.fields)
        if fields is None:
            return None
        return Fields(escape(fields.referer), escape(fields.user_agent))
