"""The fast path: an ordinary request for a hot file is answered in the hub's callback.

Runs in the hub; nothing here switches or waits. It takes one common shape and nothing else: one
whole head in the bytes that just came, ordinary (``http/ordinary.py``), for a file that the cache
knows to be fresh and has open. A body too large to leave with its head in one send is begun here,
and goes on in a greenlet of the complete path (``Begun``).
Everything else is left to the complete path, which starts from the same bytes (``SLOW``): nothing
was sent, counted or logged by then. So this path decides nothing by itself. Its heads are made by
``http/plan.py`` from the same plan, the cache's answers are those of the complete path's lookup.

What it saves is work that would come out the same again: the request line and the other fields of
a head are kept with what they mean (``heads.py``: players send them again with a new Range), and
of each file its heads with holes for what changes. docs/performance.md has the figures.
"""

from __future__ import annotations

import enum
import errno
import os
import time
from dataclasses import dataclass
from typing import Final

from streamcache.cache.delegate import CacheStatus
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.reading import Ready, Seen
from streamcache.http.ordinary import cut_range, one_range
from streamcache.http.plan import Entity, FileRange, ResponsePlan, head_bytes, plan
from streamcache.http.request import Limits, parse_head
from streamcache.http.status import REASONS
from streamcache.server.accesslog import AccessLog
from streamcache.server.backend import Backend
from streamcache.server.clock import Clock
from streamcache.server.handler import Response, cache_fields, entity_of
from streamcache.server.heads import Fields, Head, Heads, Line
from streamcache.server.logline import NOTHING, Served, usual_before, usual_line
from streamcache.server.pages import PageCache, window_end
from streamcache.server.tags import HOLE, NO_ID, Tags
from streamcache.server.transport import FILE_ERRORS, Transport

monotonic = time.monotonic

MOST: Final = 512 * 1024  # bytes of a body that leave at once; of a larger one the first window
COPIED: Final = 64 * 1024  # bytes that are quicker copied than sent by a call of their own
SMALL: Final = 4096  # bytes of a file that is kept in memory, as the whole answer

_HEAD_ROOM: Final = 4096  # bytes for the head of an answer
_DATE: Final = b"Date: @"
_CACHE_STATUS, _CACHE = cache_fields(CacheStatus.HIT)


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer of which only some bytes have left: the complete path sends the rest.

    Over TLS that may be bytes which the transport holds, and none of the answer.
    """

    line: str  # of the request
    path: str
    fields: Fields
    range: str  # as it is logged
    response: Response  # with what is left of the body; whoever has it closes it
    head: bytes
    sent: int  # bytes of head and body that have left
    request_id: str


class Taken(enum.Enum):
    """What became of a request."""

    ANSWERED = enum.auto()
    SLOW = enum.auto()  # nothing was done: the complete path takes the same bytes


ANSWERED: Final = Taken.ANSWERED
SLOW: Final = Taken.SLOW


class _Answers:
    """What one version of a file is answered with.

    ``whole`` is the head of 200, ``small`` the same with the file, if that is small; ``part`` is
    the head of 206 with holes for length, first and last byte. The heads are what ``plan`` and
    ``head_bytes`` make of a sample request; only the date is renewed. With it goes what the lines
    of the log begin with.
    """

    __slots__ = (
        *("_part", "_whole", "mtime", "object", "second", "size"),
        *("part", "part_logged", "small", "whole", "whole_logged"),
    )

    def __init__(self, path: str, hot: ObjectHandle, tags: Tags) -> None:
        entity = entity_of(path, hot.version)
        self.object = hot
        self.size = entity.size
        self.mtime = entity.mtime
        self.second = -1
        self._whole = _sample(entity, b"", tags)
        self._part = (
            _sample(entity, b"\r\nRange: bytes=0-0", tags)
            .replace(b"%", b"%%")
            .replace(b"\r\nContent-Length: 1\r\n", b"\r\nContent-Length: %d\r\n")
            .replace(b"\r\nContent-Range: bytes 0-0/", b"\r\nContent-Range: bytes %d-%d/")
        )
        self.whole = self.part = self.small = b""
        self.whole_logged = self.part_logged = ""

    def renew(self, clock: Clock, request_line: str, body: bytes) -> None:
        """Write the date of another second; ``body``: of a small file."""
        self.second = clock.second
        date = b"Date: " + clock.date
        self.whole = self._whole.replace(_DATE, date, 1)
        self.part = self._part.replace(_DATE, date, 1)
        self.small = self.whole + body if body else b""
        self.whole_logged = usual_before(clock.stamp, request_line, 200)
        self.part_logged = usual_before(clock.stamp, request_line, 206)


def _sample(entity: Entity, field: bytes, tags: Tags) -> bytes:
    """The head of the answer to an ordinary request that has this field; nothing waited for it."""
    request = parse_head(b"GET / HTTP/1.1\r\nHost: h" + field, Limits())
    answer = plan(request, entity, max_ranges=1, now=entity.mtime)
    extra = tags.fields(_CACHE_STATUS, _CACHE, HOLE, 0.0, 0.0)
    return head_bytes(answer, date=b"@", extra=extra)


def _range(wanted: bytes) -> str:
    """A Range, or none, as it is logged."""
    return "bytes=" + wanted.decode("latin-1") if wanted else NOTHING


class _Room:
    """Where a head and a body are put together: the body at a place of its own, the head before it.

    One for all connections: the kernel has taken the bytes, or they are dropped, on return. Its
    views are made for one head's and one body's size and kept, as players ask for equal lengths.
    """

    __slots__ = ("_buffer", "body", "head", "length", "size", "whole")

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_HEAD_ROOM + COPIED))
        self.shape(0, 0)

    def shape(self, size: int, length: int) -> None:
        """For a head of ``size`` and a body of ``length`` bytes."""
        self.size, self.length = size, length
        first, last = _HEAD_ROOM - size, _HEAD_ROOM + length
        self.head = self._buffer[first:_HEAD_ROOM]
        self.body = (self._buffer[_HEAD_ROOM:last],)  # as preadv wants it
        self.whole = self._buffer[first:last]


class FastPath:
    """Answers in the hub what it can, for all connections of a server."""

    def __init__(
        self,
        cache: Backend,
        clock: Clock,
        access_log: AccessLog,
        pages: PageCache,
        limits: Limits,
        tags: Tags,
    ) -> None:
        self.now = 0.0  # monotonic s of the last request
        self.request_id = NO_ID  # of the last request
        self._tags = tags
        self._identified = tags.enabled
        self._cache = cache
        self._pages = pages
        self._clock = clock
        self._log = access_log
        self._heads: Heads[_Answers] = Heads(limits, _CACHE)
        # Bound once: they run for every request.
        self._kept, self._read_head = self._heads.kept, self._heads.read
        self._room = _Room()
        self._read_flags = os.RWF_NOWAIT

    def answer(self, data: bytes, transport: Transport, client: str) -> Taken | Begun:
        """Answer the request that ``data`` is, the first bytes after the last answer.

        OSError: the client is gone; that is logged.
        """
        key, wanted = cut_range(data)
        head = self._kept.get(key) or self._read_head(key)
        if head is None:
            return SLOW
        answers, now = head.line.answers, monotonic()
        self.now = now
        if (
            answers is None
            or answers.second != self._clock.second
            or now >= answers.object.good_until
        ):
            answers = self._look_up(head.line)
            if answers is None:
                return SLOW
        if wanted:
            place = one_range(wanted, answers.size)
            if place is None:
                return SLOW
            start, stop = place
            status, top = 206, answers.part % (stop - start, start, stop - 1)
        else:
            start, stop = 0, answers.size
            status, top = 200, answers.whole
        hot, length = answers.object, stop - start
        small = b"" if wanted else answers.small
        if self._identified:
            small, top = self._identify(small, top)
        try:
            if small:
                sent = transport.send(small)
            elif length <= COPIED:
                sent = self._send_copy(transport, top, hot.fd, start, length)
            else:
                end, seen = (stop, None) if length <= MOST else (window_end(start, stop), hot.seen)
                sent = self._send_file(transport, top, hot.fd, start, end - start, seen)
        except OSError:
            self._cache.counters.quick_cuts += 1
            self._cache.delivered(hot, client, 0, now)
            self._log_other(head, status, 0, wanted, client, whole=False)
            raise
        if sent is None:
            return SLOW
        if sent < len(top) + length or transport.holds:
            return self._begun(head, wanted, client, FileRange(start, stop), top, sent)
        # Counted and logged as the complete path does it.
        self._cache.delivered(hot, client, length, now)
        log = self._log
        if log.usual:
            if wanted:
                before, range_ = answers.part_logged, _range(wanted)
            else:
                before, range_ = answers.whole_logged, NOTHING
            log.add(usual_line(client, before, length, head.behind, range_))
        else:
            self._log_other(head, status, length, wanted, client, whole=True)
        return ANSWERED

    def _identify(self, small: bytes, top: bytes) -> tuple[bytes, bytes]:
        """Give the request an id, and write it into the head of its answer."""
        self.request_id = self._tags.make()
        hole, name = HOLE.encode("ascii"), self.request_id.encode("ascii")
        holes = top.count(hole)  # the head has all of them, what follows in ``small`` none of ours
        return small.replace(hole, name, holes), top.replace(hole, name)

    def _send_copy(
        self, transport: Transport, top: bytes, fd: int, start: int, length: int
    ) -> int | None:
        """Head and body in one call; None: nothing was sent."""
        room = self._room
        if room.length != length or room.size != len(top):
            room.shape(len(top), length)
        if not self._read(fd, room.body, start, length):
            return None
        room.head[:] = top
        return transport.send(room.whole)

    def _send_file(
        self,
        transport: Transport,
        top: bytes,
        fd: int,
        start: int,
        length: int,
        seen: Seen | None,
    ) -> int | None:
        """The body without a copy; None: nothing was sent."""
        if not self._pages.has(fd, start, start + length, seen):
            return None
        # Not ``more``: the kernel would join the head to the first bytes of the file in a packet
        # that is then too long for one, and time the rest (128 KiB: 41 us, so 32).
        sent = transport.send(top)
        if sent == len(top):
            try:
                sent += transport.sendfile(fd, start, length) or 0
            except OSError as error:
                if error.errno not in FILE_ERRORS:
                    raise
                # The complete path finds the same, and another way.
        return sent

    def _look_up(self, line: Line[_Answers]) -> _Answers | None:
        """What the file of this line is answered with in this second, if it is hot."""
        answers = line.answers
        hot = self._cache.peek(line.path, None if answers is None else answers.object)
        if hot is None:
            return None
        if answers is None or answers.object is not hot:
            answers = line.answers = _Answers(line.path, hot, self._tags)
        if answers.second == self._clock.second:
            return answers
        return answers if self._renew(answers, line.text) else None

    def _renew(self, answers: _Answers, request_line: str) -> bool:
        if not answers.size or answers.mtime > self._clock.second:  # from the future
            return False
        body = bytearray(answers.size if answers.size <= SMALL else 0)
        if body and not self._read(answers.object.fd, (body,), 0, len(body)):
            return False
        answers.renew(self._clock, request_line, bytes(body))
        return True

    def _read(self, fd: int, into: tuple[bytearray | memoryview], offset: int, count: int) -> bool:
        """Whether all of it was in the page cache: the hub never waits for the disk."""
        try:
            return os.preadv(fd, into, offset, self._read_flags) == count
        except OSError as error:
            # A file system that cannot say so is one in memory (tmpfs), nearly always.
            if error.errno == errno.EOPNOTSUPP and self._read_flags:
                self._read_flags = 0
                return self._read(fd, into, offset, count)
            return False

    def _log_other(
        self,
        head: Head[_Answers],
        status: int,
        count: int,
        wanted: bytes,
        client: str,
        *,
        whole: bool,
    ) -> None:
        """Log what the usual line does not say, or another form is wanted for."""
        if not self._log.enabled:
            return
        method, target, protocol = head.line.text.split(" ")
        fields = head.fields
        response = Served(
            client=client,
            method=method,
            target=target,
            protocol=protocol,
            path=head.line.path,
            status=status,
            bytes=count,
            cache=_CACHE,
            whole=whole,
            referer=fields.referer,
            user_agent=fields.user_agent,
            host=fields.host,
            range=_range(wanted),
            ttfb=0.0 if whole else None,
            bytes_cache=count,
            request_id=self.request_id,
        )
        self._log.served(response)

    def _begun(
        self,
        head: Head[_Answers],
        wanted: bytes,
        client: str,
        part: FileRange,
        top: bytes,
        sent: int,
    ) -> Begun:
        """Not all has left: what the complete path needs to go on with it."""
        line, answers = head.line, head.line.answers
        assert answers is not None
        delegate = self._cache.take(answers.object, client, line.path)
        taken = max(0, sent - len(top))
        if taken:
            delegate.sent(Ready(answers.object.fd, part.start, taken), taken)
        rest = (FileRange(part.start + taken, part.stop),) if taken < part.length else ()
        status = 206 if wanted else 200
        # Its fields are decided and written: they are in ``top``.
        answer = ResponsePlan(status, REASONS[status], (), rest, part.length, close=False)
        return Begun(
            line=line.text,
            path=line.path,
            fields=head.fields,
            range=_range(wanted),
            response=Response(answer, _CACHE_STATUS, _CACHE, delegate),
            head=top,
            sent=sent,
            request_id=self.request_id,
        )
