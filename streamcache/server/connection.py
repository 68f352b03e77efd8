"""One client: a state machine fed with bytes, which owns a watcher while idle and no greenlet.

    IDLE -> the fast path answers -> IDLE
    IDLE -> HEAD -> a greenlet runs the request: BODY, LOOKUP, AWAITING, SENDING -> IDLE ...
    any  -> LINGERING -> CLOSED

The hub calls ``_readable`` (the watcher) and ``expire`` (the ticker); neither blocks. A whole head
starts a greenlet, which answers what is buffered and parks the connection again. While it runs
the watch goes on, to notice a client that leaves, and what arrives is kept up to the size of a
head. What needs no wait is answered without a greenlet (``fastpath``); what that cannot finish,
or does not take, goes the complete way.
"""

from __future__ import annotations

import enum
import logging
import time
from typing import Final

from greenlet import greenlet

from streamcache.http.body import BodyReader
from streamcache.http.plan import head_bytes
from streamcache.http.request import BadRequest, Request, RequestParser
from streamcache.server import lingering
from streamcache.server.addresses import Place
from streamcache.server.exchange import CutShort, Exchange, Interrupted, Stopped, Task
from streamcache.server.fastpath import ANSWERED, SLOW
from streamcache.server.handler import Response
from streamcache.server.lingering import Lingering
from streamcache.server.logline import NOTHING, Served
from streamcache.server.opening import Opening
from streamcache.server.service import Service
from streamcache.server.tags import NO_ID
from streamcache.server.transport import RECEIVE, SocketTransport, Transport
from streamcache.server.writer import Writer

log = logging.getLogger(__name__)

monotonic = time.monotonic

NEVER: Final = float("inf")
BODY_RECEIVE: Final = 2 * 1024  # bytes of one recv of a body: 0.5 ms if it is all framing
# s that a client which closed its sending side may wait for one cold byte. It may have left: then
# the lease goes back after this time, however long the source hangs.
HALF_CLOSED_WAIT: Final = 3.0


class Phase(enum.Enum):
    """What a connection is about; each has its own deadline (I17)."""

    IDLE = enum.auto()  # nothing buffered, no greenlet: limits.keepalive_timeout
    HEAD = enum.auto()  # a part of a head, no greenlet: limits.head_timeout, not extended; or a
    # PROXY header or a TLS handshake is due, each of which has the same time
    BODY = enum.auto()  # reading a request's body: limits.body_timeout
    LOOKUP = enum.auto()  # in the cache, whose own deadlines hold
    AWAITING = enum.auto()  # for bytes of the file: the cache's deadlines; the client may leave
    SENDING = enum.auto()  # waiting for the client to take bytes: limits.send_timeout
    LINGERING = enum.auto()  # all is sent, the client may still be sending
    CLOSED = enum.auto()


IDLE: Final = Phase.IDLE  # looked at for each request: the attribute of an enum is slower


class Connection:
    """Serves the requests of one client in order; closes itself, and says so to its service."""

    __slots__ = (
        "_ahead",
        "_doubted_until",
        "_ended",
        "_exchange",
        "_greenlet",
        "_opening",
        "_parser",
        "_service",
        "_settled",
        "_transport",
        "_watching",
        "_writer",
        "deadline",
        "name",
        "phase",
        "place",
    )

    def __init__(self, service: Service, transport: SocketTransport, name: str) -> None:
        self._service = service
        self._transport: Transport = transport
        self.name = name
        self._parser = RequestParser(service.head_limits)
        self._greenlet: greenlet | None = None
        self._exchange: Exchange | None = None
        self._watching = False
        self._writer: Writer | None = None
        self._ahead = 0  # bytes buffered while a request runs
        self._ended = False  # the client will send no more
        self._doubted_until = NEVER
        self._opening: Opening | None = None  # until the first byte of a request
        self._settled = service.admission is None  # no request of this peer need be asked about
        self.phase = Phase.IDLE
        self.deadline = NEVER
        self.place: Place | None = None  # where its client's connections are counted, if they are

    def __repr__(self) -> str:
        return f"<Connection {self.name} {self.phase.name} {self._transport!r}>"

    # -- life: called by the server, from any greenlet

    def open(self) -> None:
        """Wait for the first request."""
        self.introduce(self.name)
        self._opening = Opening(self._service)
        self._opening.begin(self)
        self._park()

    def introduce(self, name: str) -> None:
        """Take this for the client from now on; the next request is judged by today's rules."""
        admission = self._service.admission
        if admission is None:
            self._settled = True
        else:
            self.name = admission.named(name)
            self._settled = admission.settled_by_peer(name)

    def encrypt(self, received: bytes) -> Transport:
        """Begin TLS; these bytes of it have been read already."""
        encrypt, socket = self._service.encrypt, self._transport
        assert encrypt is not None and isinstance(socket, SocketTransport)
        self._transport = encrypt(socket, received)
        return self._transport

    def refuse(self, response: Response, *, logged: bool) -> None:
        """Answer with this error without reading a request, then linger.

        ``logged``: with a line in the access log, if the answer leaves. Over TLS close: the answer
        would take a handshake, which is dear.
        """
        if self._service.encrypt is not None:
            self.close()
            return
        extra = (("Cache-Status", response.cache_status),)
        head = head_bytes(response.plan, date=self._service.clock.date, extra=extra)
        body = b"".join(piece for piece in response.plan.pieces if isinstance(piece, bytes))
        try:
            self._transport.send(head + body)  # the first bytes on a socket: never short
        except OSError:
            self.close()
            return
        if logged:
            served = Served(
                *(self.name, NOTHING, NOTHING, NOTHING, NOTHING),
                status=response.plan.status,
                bytes=len(body),
                cache=response.cache,
                whole=True,
            )
            self._service.access_log.served(served)
        self._linger()

    def drain(self) -> None:
        """The request that runs, or the one that is on its way, is the last."""
        if self.phase is Phase.LINGERING:
            self.deadline = min(self.deadline, monotonic() + lingering.TIME_DRAINING)

    def leave(self) -> None:
        """Close by the hub's next turn, if no request is running and none has come meanwhile."""
        self._service.hub.loop.run_callback(self._leave)

    def cut(self) -> None:
        """Close, whatever is running; a greenlet is stopped by the hub's next turn."""
        self._service.hub.loop.run_callback(self._cut)

    def close(self) -> None:
        """Close at once; idempotent."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        self.deadline = NEVER
        self._transport.close()
        self._service.closed(self)

    # -- the hub's side

    def _readable(self) -> None:
        try:
            if self._greenlet is not None:
                self._look_ahead()
            else:
                data = self._transport.recv(RECEIVE)
                if data:
                    self._arrived(data)
                elif data is not None:
                    self.close()  # also in the middle of a head: nobody waits for an answer
                elif self._opening is not None and self._opening.advances(self._transport):
                    self._park()
        except OSError as error:
            self._gone(error)

    def _arrived(self, data: bytes) -> None:
        """The first bytes after an answer, or more of a head."""
        if self._opening is not None:
            data = self._opening.take(data, self)
            if self.phase in (Phase.CLOSED, Phase.LINGERING):
                return
            if data:
                self._opening = None
            self._park()
            if not data:
                return
        fast = self._service.fast
        if fast is not None and self.phase is IDLE and self._settled:
            try:
                taken = fast.answer(data, self._transport, self.name)
            except OSError:
                raise
            except Exception:  # a fault of ours: who knows what was sent
                log.exception("request failed client=%s request_id=%s", self.name, fast.request_id)
                self.close()
                return
            if taken is ANSWERED:  # one at a time: the hub looks at others in between
                self.deadline = fast.now + self._service.limits.keepalive_timeout
                return
            if taken is not SLOW:
                self._start(taken)
                return
        self._parser.feed(data)
        self._park_or_start()

    def _park_or_start(self) -> None:
        task = self._next()
        if task is None:
            self._park()
        else:
            self._start(task)

    def _next(self) -> Request | BadRequest | None:
        try:
            return self._parser.next()
        except BadRequest as refused:
            return refused

    def _start(self, task: Task) -> None:
        self._ahead = 0
        self.phase = Phase.LOOKUP
        self.deadline = NEVER
        # Like spawn_raw, but run now and not a turn of the loop later.
        self._greenlet = greenlet(self._run, self._service.hub)
        self._greenlet.switch(task)

    def _park(self) -> None:
        limits = self._service.limits
        hurries = self._parser.in_head or (self._opening is not None and self._opening.hurries)
        if not hurries:
            self.phase = Phase.IDLE
            self.deadline = monotonic() + limits.keepalive_timeout
        elif self.phase is not Phase.HEAD:
            self.phase = Phase.HEAD
            self.deadline = monotonic() + limits.head_timeout
        self._watch()

    def _watch(self) -> None:
        if not self._watching and not self._ended:
            self._watching = True
            self._transport.watch(self._readable)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._transport.unwatch()

    def _look_ahead(self) -> None:
        """A request is running: keep a head's worth of what follows, and notice the end."""
        room = self._service.limits.head_size - self._ahead
        if room <= 0:
            self._unwatch()
            return
        data = self._transport.recv(min(room, RECEIVE))
        if data:
            self._ahead += len(data)
            self._parser.feed(data)
        elif data is not None:
            self._ended = True
            self._unwatch()
            if self.phase is Phase.AWAITING:
                self._doubt()

    def _doubt(self) -> None:
        """The client will send no more while we wait for a cold byte: is it still there?"""
        if self._exchange is not None:
            self._exchange.send_early()
        self.deadline = monotonic()  # look at every tick
        self._doubted_until = self.deadline + HALF_CLOSED_WAIT

    def _gone(self, error: OSError) -> None:
        """The client has reset the connection, or speaks no TLS."""
        self._ended = True
        if self._opening is not None:
            self._opening.broken(self.name, error)
        if self._greenlet is None:
            self.close()
            return
        self._unwatch()
        if self.phase is not Phase.LOOKUP:  # short, and others may be waiting for its result
            self._interrupt(Interrupted("client left"))

    def expire(self, now: float) -> None:
        """The deadline of this phase has passed; called by the ticker, in the hub."""
        if self.phase in (Phase.HEAD, Phase.IDLE) and self._opening is not None:
            self._opening.expired(self.name)
            self._cut()
        elif self.phase is Phase.HEAD:
            self._start(self._parser.refuse(408, "head too slow"))
        elif self.phase is Phase.BODY:
            self._interrupt(BadRequest(408, "body too slow"))
        elif self.phase is Phase.AWAITING:
            if now >= self._doubted_until or self._transport.broken():
                self._interrupt(Interrupted("client left"))
        elif self.phase is Phase.SENDING:
            assert self._writer is not None
            if self._writer.progresses():
                self.deadline = now + self._service.limits.send_timeout
            else:
                self._interrupt(Interrupted("no byte taken"))
        else:
            self._cut()

    def _leave(self) -> None:
        if self.phase in (Phase.IDLE, Phase.HEAD):
            self._readable()  # it may be there, and the hub has not come to it
        if self.phase in (Phase.IDLE, Phase.HEAD):
            self.close()

    def _cut(self) -> None:
        if self._greenlet is None:
            self.close()
        else:
            self._interrupt(Stopped("server stops"))

    def _interrupt(self, error: BaseException) -> None:
        """Throw into the greenlet, which waits, as this is the hub."""
        assert self._greenlet is not None
        self._greenlet.throw(error)

    # -- the greenlet's side

    def _run(self, task: Task | None) -> None:
        keep, done = True, False
        writer = self._writer = Writer(self._transport, self)
        try:
            while keep and task is not None:
                exchange = self._exchange = Exchange(self._service, self, writer, task)
                keep = exchange.run()
                self._exchange = None
                if keep:
                    writer.end_of_response()
                    task = self._next()
            done = True
        except (OSError, Interrupted) as reason:
            form = "connection ends path=%r client=%s request_id=%s reason=%s"
            log.debug(form, *self._about, reason)
        except CutShort as reason:
            form = "response cut short path=%r client=%s request_id=%s error=%s"
            log.warning(form, *self._about, reason)
        except Exception:
            log.exception("request failed path=%r client=%s request_id=%s", *self._about)
        finally:
            self._greenlet = self._exchange = self._writer = None  # an idle connection has none
            if not done:
                self.close()
            elif keep and not self._ended and not self._service.draining:
                self._park()
            else:
                self._linger()

    @property
    def _about(self) -> tuple[str, str, str]:
        """What a line of the log says of the request that runs: path, client, id."""
        exchange = self._exchange
        if exchange is None:
            return NOTHING, self.name, NO_ID
        return exchange.path, self.name, exchange.id

    def _linger(self) -> None:
        """Close so that the client gets our last bytes."""
        if self._ended:
            self.close()
            return
        self._unwatch()
        try:
            Lingering(self._transport, self.close)
        except OSError:
            self.close()
            return
        self.phase = Phase.LINGERING
        draining = self._service.draining
        self.deadline = monotonic() + (lingering.TIME_DRAINING if draining else lingering.TIME)

    # -- what the exchange and the writer say

    @property
    def is_last(self) -> bool:
        """Whether the answer that is about to be sent is the last on this connection."""
        return self._service.draining or (self._ended and not self._parser.in_head)

    def read_body(self, body: BodyReader) -> None:
        """SWITCHES until the body is done; BadRequest(408) at its deadline, OSError when cut."""
        self._parser.feed_body(body)
        if body.done:
            return
        self._unwatch()
        self.phase = Phase.BODY
        self.deadline = monotonic() + self._service.limits.body_timeout
        while not body.done:
            # Before each piece others run: a body of small chunks costs 1.5 us for each of them,
            # and one that comes fast would own the hub.
            if not self._ended:
                self._transport.wait_readable()
            data = b"" if self._ended else self._transport.recv(BODY_RECEIVE)
            if data:
                self._parser.feed(data)
                self._parser.feed_body(body)
            elif data is not None:
                raise ConnectionAbortedError("the client closed before the end of its body")
        self.deadline = NEVER
        self._watch()

    def looking_up(self) -> None:
        """A short, bounded call of the cache begins."""
        self.phase = Phase.LOOKUP
        self.deadline = NEVER  # a wait before it may have ended with an error

    def awaiting(self) -> None:
        """A wait for bytes of the file begins; OSError if the client has left."""
        self.phase = Phase.AWAITING
        if self._ended:
            self._doubt()

    def sending(self) -> None:
        """A wait for the client to take bytes begins, or one for our turn."""
        # Few waits are as long as a tick: those that are, are looked at then (``expire``).
        self.phase = Phase.SENDING
        self.deadline = 0.0

    def resumed(self) -> None:
        """The wait is over."""
        self.deadline = NEVER
