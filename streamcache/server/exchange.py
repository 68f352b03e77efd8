"""One request and its answer, from the parsed head to the line in the access log.

Runs in the connection's greenlet, but for ``send_early``, which the hub calls.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Final, Protocol

from streamcache.cache.delegate import Delegate
from streamcache.cache.reading import Ready
from streamcache.errors import StreamCacheError
from streamcache.http.body import BodyReader
from streamcache.http.plan import CONTINUE, FileRange, head_bytes
from streamcache.http.request import BadRequest, Request
from streamcache.server.admission import Admission
from streamcache.server.fastpath import Begun
from streamcache.server.handler import Response
from streamcache.server.logline import NOTHING, Served, words_of
from streamcache.server.pages import window_end
from streamcache.server.service import Service
from streamcache.server.transport import FILE_ERRORS
from streamcache.server.writer import FileCut, Writer

log = logging.getLogger(__name__)

monotonic = time.monotonic

# Where pages were missing, three that are there say little of the others: the kernel fetches what
# is looked at, and ahead of what is sent. So windows are read until so many were all there.
BELIEVED: Final = 16

Task = Request | BadRequest | Begun


class Interrupted(BaseException):
    """Thrown by the hub into a greenlet whose wait is over: time-out, client left, server stops.

    Not an ``Exception``, so that no cleanup on the way takes it for an error of the source.
    """


class Stopped(Interrupted):
    """The server does not wait any longer for what runs."""


class DiskLate(FileCut, TimeoutError):
    """The disk of the cache does not give the bytes in time."""


class CutShort(Exception):
    """The rest of a response cannot be sent; the connection ends before Content-Length (I8)."""


def _of_client(error: Exception) -> bool:
    # Both ends of a sendfile report an OSError, and SourceError is one too.
    return (
        isinstance(error, OSError)
        and not isinstance(error, StreamCacheError)
        and not isinstance(error, FileCut)
        and error.errno not in FILE_ERRORS
    )


class Client(Protocol):
    """What an exchange needs of its connection."""

    @property
    def name(self) -> str:
        """The peer's address."""
        ...

    @property
    def is_last(self) -> bool:
        """Whether nothing that follows on this connection would be answered."""
        ...

    def read_body(self, body: BodyReader) -> None:
        """SWITCHES until the body is done; BadRequest(408) at its deadline."""
        ...

    def looking_up(self) -> None:
        """A call of the cache begins that is short and bounded."""
        ...

    def awaiting(self) -> None:
        """A wait for bytes of the file begins; OSError if the client has left."""
        ...

    def resumed(self) -> None:
        """The wait is over."""
        ...


class Exchange:
    """Answers one request; ``run`` once."""

    __slots__ = (
        "_begun",
        "_client",
        "_cold",
        "_first",
        "_first_out",
        "_head_size",
        "_keep",
        "_name",
        "_pending",
        "_request",
        "_service",
        "_started",
        "_user",
        "_waited",
        "_writer",
        "id",
    )

    def __init__(self, service: Service, client: Client, writer: Writer, task: Task) -> None:
        self._service = service
        self._client = client
        self._writer = writer
        self._begun = task if isinstance(task, Begun) else None
        self._request = None if isinstance(task, Begun) else task
        self._name = client.name  # behind trusted proxies, as soon as that is known
        self._user = "-"
        self._started = monotonic()
        self._pending = b""  # bytes before the next range of the file: the head, a part's head
        self._head_size = 0
        self._first: Ready | None = None  # the bytes that the head waited for
        self._first_out = 0.0  # when the first byte of the answer left; s of ``monotonic``
        self._waited = 0.0  # s for bytes of the file
        self._cold = 0  # windows to be read in full before looks are believed again
        self._keep = False
        self.id = task.request_id if isinstance(task, Begun) else self._identify(task)

    @property
    def path(self) -> str:
        """The file that is asked for ("/a/b.mp4"); "-" when no request could be read."""
        if isinstance(self._request, Request):
            return self._request.path
        return NOTHING if self._begun is None else self._begun.path

    def run(self) -> bool:
        """SWITCHES; send the answer and say whether the connection may go on.

        Raises OSError (the client is gone), Interrupted, CutShort; the answer is logged then too.
        """
        response = self._answer() if self._begun is None else self._begun.response
        before, whole = self._writer.written, False
        try:
            if self._begun is None:
                response = self._first_bytes(response)
            else:
                self._go_on(self._begun)
            self._send_pieces(response)
            self._writer.finish()
            whole = True
        finally:
            response.close()
            self._done(response, self._writer.written - before, whole=whole)
        return self._keep

    def send_early(self) -> None:
        """Called by the hub: send a head that still waits for the first byte of its body.

        A client that has closed its side may only have said that it will ask no more, or be
        gone: this makes it answer with a reset in that case. OSError.
        """
        self._first_out = self._first_out or monotonic()
        self._pending = self._writer.send_now(self._pending)

    def _answer(self) -> Response:
        try:
            return self._respond()
        # Before there was an answer; it has its line all the same.
        except Stopped:
            self._done(self._service.handler.overloaded(), 0, whole=False)
            raise
        except (OSError, Interrupted):  # not our fault: whoever likes can have that counted
            refused = BadRequest(400, "client left")
            self._done(self._service.handler.refusal(refused), 0, whole=False)
            raise

    def _respond(self) -> Response:
        request, handler = self._request, self._service.handler
        assert request is not None
        if isinstance(request, BadRequest):
            return handler.refusal(request)
        if self._service.admission is not None:
            refused = self._ask(self._service.admission, request)
            if refused is not None:
                return refused
            request = self._request
            assert isinstance(request, Request)
        response = handler.early(request)
        if request.has_body and not (response is not None and response.plan.close):
            try:
                self._drain(request)
            except BadRequest as refusal:  # of the body, or a body that does not come
                refusal.to_head = request.method == "HEAD"
                return handler.refusal(refusal)
        if response is not None:
            return response
        self._client.looking_up()
        response = handler.respond(request, self._name, self.id)
        self._client.resumed()
        return response

    def _ask(self, admission: Admission, request: Request) -> Response | None:
        """The answer to a request that is not let in; one that is names its file from here on."""
        self._client.looking_up()
        admitted = admission.ask(request, self._client.name, self.id)
        self._client.resumed()
        self._name, self._user = admitted.client, admitted.user
        if admitted.path != request.path:
            self._request = dataclasses.replace(request, path=admitted.path)
        if not admitted.status:
            return None
        return self._service.handler.forbidden(request, admitted.status, admitted.fields)

    def _identify(self, task: Request | BadRequest) -> str:
        """The id of the request: its proxy's, if we trust that one, else one of our own."""
        tags, admission = self._service.tags, self._service.admission
        if isinstance(task, Request) and admission is not None and tags.enabled:
            return tags.of(task.headers if admission.is_proxy(self._client.name) else None)
        return tags.of(None)

    def _drain(self, request: Request) -> None:
        body = BodyReader(request, self._service.limits.body_size)
        if request.expect_continue:
            self._writer.send(CONTINUE)
            self._writer.finish()
        self._client.read_body(body)

    def _go_on(self, begun: Begun) -> None:
        """Some bytes of the answer have left already."""
        self._keep = not self._client.is_last
        self._pending = begun.head[begun.sent :]
        self._first_out = self._started
        self._head_size = len(begun.head)
        self._writer.begun(begun.sent)

    def _first_bytes(self, response: Response) -> Response:
        """Make the head; if the body starts with cold bytes, wait for them before it leaves.

        An error of the source can still become a status then.
        """
        self._make_head(response)
        request, delegate = self._request, response.delegate
        if delegate is None or not isinstance(request, Request):
            return response
        first = next(piece for piece in response.plan.pieces if isinstance(piece, FileRange))
        try:
            self._first = self._ready(delegate, first.start, first.stop)
        except Exception as error:
            if _of_client(error):
                raise
            if len(self._pending) < self._head_size:
                raise CutShort(f"{type(error).__name__}: {error}") from error
            response.close()
            response = self._service.handler.failure(request, error, self.id)
            self._make_head(response)
        else:
            if self._service.tags.timing and len(self._pending) == self._head_size:
                self._make_head(response)  # now it is known how long that took
        return response

    def _make_head(self, response: Response) -> None:
        answer = response.plan
        if not answer.close and self._client.is_last:
            answer = dataclasses.replace(answer, close=True)
        self._keep = not answer.close
        extra = self._service.tags.fields(
            response.cache_status,
            response.cache,
            self.id,
            self._waited,
            monotonic() - self._started,
        )
        self._pending = head_bytes(answer, date=self._service.clock.date, extra=extra)
        self._head_size = len(self._pending)

    def _send_pieces(self, response: Response) -> None:
        for piece in response.plan.pieces:
            if isinstance(piece, bytes):
                self._pending += piece
                continue
            assert response.delegate is not None
            try:
                self._send_range(response.delegate, piece)
            except Exception as error:
                if _of_client(error):
                    raise
                raise CutShort(f"{type(error).__name__}: {error}") from error
        self._flush(more=False)

    def _send_range(self, delegate: Delegate, piece: FileRange) -> None:
        offset, writer = piece.start, self._writer
        while offset < piece.stop:
            ready = self._first or self._ready(delegate, offset, piece.stop)
            self._first = None
            self._flush(more=True)
            before = writer.written
            try:
                if ready.data is None:
                    self._send_file(ready)
                else:
                    writer.send(ready.data[: ready.length])
            except (FileCut, OSError) as error:
                if ready.data is not None or _of_client(error):
                    raise
                self._client.awaiting()
                delegate.failed(error)  # or it goes on past the cache
                self._client.resumed()
            finally:
                count = writer.written - before
                delegate.sent(ready, count)
                offset += count

    def _send_file(self, ready: Ready) -> None:
        """As much at once as a turn takes, all of which is in the page cache when it is sent."""
        pages, fd, seen, turn = self._service.pages, ready.fd, ready.seen, self._writer.turn
        offset, stop = ready.offset, ready.offset + ready.length
        while offset < stop:
            end = offset
            while not self._cold and end < stop and end - offset < turn:
                window = window_end(end, stop)
                if not pages.has(fd, end, window, seen):
                    break
                end = window
            if end == offset:
                end = window_end(offset, stop)
                self._prefetch(fd, offset, end - offset)
            self._writer.send_file(fd, offset, end - offset)
            offset = end

    def _prefetch(self, fd: int, offset: int, count: int) -> None:
        """Have a worker read what is not in the page cache."""
        self._client.awaiting()
        try:
            there = self._service.prefetch(fd, offset, count)
            self._cold = max(0, self._cold - 1) if there else BELIEVED
        except TimeoutError as error:
            raise DiskLate(f"disk of the cache: {error}") from error
        except (OSError, StreamCacheError) as error:
            # sendfile will say what is wrong
            log.debug("not read ahead path=%r request_id=%s error=%s", self.path, self.id, error)
        self._client.resumed()

    def _ready(self, delegate: Delegate, offset: int, stop: int) -> Ready:
        self._client.awaiting()
        began = monotonic()
        try:
            ready = delegate.ready(offset, stop)
        finally:
            self._waited += monotonic() - began
        self._client.resumed()
        return ready

    def _flush(self, *, more: bool) -> None:
        if self._pending:
            self._first_out = self._first_out or monotonic()
            pending, self._pending = self._pending, b""
            self._writer.send(pending, more=more)

    def _done(self, response: Response, written: int, *, whole: bool) -> None:
        """Count and log it."""
        access_log, request = self._service.access_log, self._request
        delegate, status = response.delegate, response.plan.status
        size, seconds = max(0, written - self._head_size), monotonic() - self._started
        ttfb = self._first_out - self._started if self._first_out and written else None
        self._service.counters.responded(
            response.cache, status, size, first_byte=ttfb, seconds=seconds, whole=whole
        )
        if not access_log.enabled:
            return
        served = Served(
            client=self._name,
            method=NOTHING,
            target=NOTHING,
            protocol=NOTHING,
            path=NOTHING,
            status=status,
            bytes=size,
            cache=response.cache,
            whole=whole,
            user=self._user,
            seconds=seconds,
            ttfb=ttfb,
            bytes_cache=0 if delegate is None else delegate.from_cache,
            bytes_source=0 if delegate is None else delegate.from_source,
            request_id=self.id,
        )
        if isinstance(request, Request):
            get, (major, minor) = request.headers.get, request.version
            served.method, served.protocol = request.method, f"HTTP/{major}.{minor}"
            served.path = request.path
            served.target, served.referer = request.target, get("referer") or NOTHING
            served.user_agent = get("user-agent") or NOTHING
            served.range = get("range") or NOTHING
            served.host = get("host") or NOTHING
        elif self._begun is not None:
            begun = self._begun
            served.method, served.target, served.protocol = begun.line.split(" ")
            served.path, served.range = begun.path, begun.range
            served.referer, served.user_agent, served.host = begun.fields
        elif request is not None:
            served.method, served.target, served.protocol = words_of(request.line)
        if self._service.admission is not None:
            redacted = self._service.admission.redacted
            served.target, served.referer = redacted(served.target), redacted(served.referer)
        access_log.served(served)
