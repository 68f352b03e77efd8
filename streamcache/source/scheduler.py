"""Who reads next: one scheduler per source.

In this order: the first block of a reader that has just come or sought (at once, with a worker of
its own), the blocks that other waiting readers need (of the file that was given least while they
compete, the oldest wait first), then sequential copying: fairly over the sessions that have
readers, at last those that have none. No sequential step starts while a seek waits (I12).

A file whose reads hang must not take all workers: it gets no more of them while two reads that
somebody waits for are late, and never the last quarter. While the source does not answer at all
(``breaker.py``) nothing starts.

Steps are sized to what the source delivers in ``step_time`` (15 ms), and a few are kept in flight
to hide its latency; the figures behind that are in docs/architecture.md, "Reading a slow file".

Greenlets: each step runs in one of its own; ``pump`` runs in whoever changed something. All in the
hub's thread; only the source's own functions run in workers.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import gevent

from streamcache.errors import SourceUnavailable, StreamCacheError
from streamcache.source.base import Fingerprint, Source
from streamcache.source.breaker import Breaker, Question
from streamcache.source.buffers import Buffers
from streamcache.source.feed import Copied, Feed, Piece, Sink
from streamcache.source.rate import FIRST_STEP, Rate
from streamcache.source.step import SLICE, Key, Step, copy, key_of, look, look_later, read
from streamcache.source.turns import Turns
from streamcache.stats import Counters

_LATE = 2.0  # s after which a step no longer counts as in flight
_LATE_WAITED_FOR = 2  # late steps of a file for its readers, until one of them comes back
_QUICK = 0.0002  # s: a look at a file that takes no longer asks no server
_PATIENCE = 1.0  # s that a cache's disk may take for a slice that its reader writes
_HELD_UP = 0.25  # s that a step may be with its reader and writer before there is no other such

log = logging.getLogger(__name__)


class Caller(Protocol):
    """The worker pool, as far as it is needed here."""

    size: int

    @property
    def pending(self) -> int:
        """Calls under way."""
        ...

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        late: Callable[[], object] | None = None,
    ) -> Any:
        """Run in a worker thread; ``late()`` when it takes more than ``timeout`` s. Switches."""
        ...


class Scheduler:
    """The one queue in front of a source."""

    def __init__(
        self,
        source: Source,
        pool: Caller,
        counters: Counters,
        *,
        in_flight: int = 3,
        step_time: float = 0.015,
        max_bandwidth: int = 0,
        breaker: Breaker | None = None,
    ) -> None:
        self.source = source
        self._breaker = breaker or Breaker()
        self._breaker.on_close.append(self.pump)
        self._pool = pool
        self._counters = counters
        self._limit = in_flight
        self._most = pool.size - pool.size // 4  # workers that one file may have
        self._max_bandwidth = max_bandwidth
        self._seeks: deque[tuple[Feed, int, int]] = deque()  # with the share when they came
        self._demands: Turns[tuple[Feed, int]] = Turns()
        self._look_time = 1.0  # s that a look at a file takes
        self._reading: dict[Feed, None] = {}  # feeds with readers, in turn
        self._idle: dict[Feed, None] = {}
        self._steps: set[Step] = set()  # in flight, and not late
        self._busy: set[Step] = set()  # with a worker, also those too late to count
        # What waits for a file whose reads hang: (feed, offset) to whether it is a seek.
        self._held: dict[Key, dict[tuple[Feed, int], bool]] = {}
        self._seeking = 0  # seeks in flight
        self._running = 0  # other steps in flight
        self._storing = 0  # steps whose bytes are on their way to the cache
        self._rate = Rate(step_time, in_flight)
        self._buffers = Buffers()
        self._next_sequential = 0.0  # monotonic s, by max_bandwidth
        self._timer: Any = None
        self._watcher: Any = None

    def __repr__(self) -> str:
        return (
            f"<Scheduler seeks={len(self._seeks)}+{self._seeking} demands={len(self._demands)}"
            f" running={self._running} sessions={len(self._reading)}+{len(self._idle)}"
            f" step={self._rate.step}>"
        )

    def reconfigure(self, *, in_flight: int, step_time: float, max_bandwidth: int) -> None:
        """Other options, for the steps that begin from now on. Does not switch."""
        self._limit = in_flight
        self._max_bandwidth = max_bandwidth
        self._next_sequential = min(self._next_sequential, time.monotonic())
        self._rate.reconfigure(step_time, in_flight)
        self.pump()

    def demand(self, feed: Feed, offset: int, *, seek: bool) -> None:
        """A reader of this feed waits for the bytes at ``offset``. Does not switch."""
        self._queue(feed, offset, seek=seek)
        self.pump()

    def add(self, feed: Feed, *, idle: bool) -> None:
        """This feed has something to copy sequentially; ``idle``: nobody reads it.

        Who is in the queue keeps its turn. A file that has the workers it may have gets none, and
        is added again when they come back.
        """
        if self._has_enough(feed):
            return
        queue, other = (self._idle, self._reading) if idle else (self._reading, self._idle)
        other.pop(feed, None)
        queue.setdefault(feed)
        self.pump()

    def remove(self, feed: Feed) -> None:
        """Nothing sequential from this feed any more. Steps in flight go on."""
        self._reading.pop(feed, None)
        self._idle.pop(feed, None)
        if self._timer is not None and not (self._reading or self._idle):
            self._timer.kill(block=False)
            self._timer = None

    def withdraw(self, feed: Feed) -> None:
        """Nobody waits for anything of this feed any more. Does not switch."""
        for key, held in list(self._held.items()):
            for demand in [demand for demand in held if demand[0] is feed]:
                del held[demand]
            if not held:
                del self._held[key]

    def pump(self) -> None:
        """Start what may start now. Does not switch."""
        if self._breaker.is_open:
            return
        while self._seeks and len(self._busy) < self._pool.size:
            feed, offset, _ = self._seeks.popleft()
            if self._hold(feed, offset, seek=True):
                continue
            piece = feed.demanded(offset, FIRST_STEP)
            if piece is not None:
                self._seeking += 1
                self._demands.give(key_of(feed), piece.length)
                self._spawn(Step(feed, piece, seek=True, waited_for=True))
        while self._demands and self._running < self._limit:
            if self._seeks and self._demands.first > self._seeks[0][2]:
                return  # who has bytes already lets those go first who came before and have none
            feed, offset = self._demands.pop()
            if not self._hold(feed, offset, seek=False):
                piece = feed.demanded(offset, self._rate.step)
                if piece is not None:
                    self._demands.give(key_of(feed), piece.length)
                self._start(feed, piece, waited_for=True)
        if self._seeks or self._seeking or self._demands:
            return
        # Nobody competes: what was given is forgotten, but for what the source still works at.
        # Whose file that is has had it when the next ones come.
        self._demands.clear()
        for step in self._busy:
            self._demands.give(step.key, step.piece.length)
        # Bytes that wait for the cache take memory as well: one buffer more than are in flight.
        while (
            self._running < self._limit
            and self._running + self._storing <= self._limit
            and self._affordable()
        ):
            queue = self._reading or self._idle
            if not queue:
                return
            feed = next(iter(queue))
            del queue[feed]
            if self._has_enough(feed):
                continue
            sink = feed.sink if self._copies else None
            piece = feed.sequential(self._rate.step if sink is None else self._rate.copied)
            if piece is not None:
                queue[feed] = None
                self._demands.give(key_of(feed), piece.length)
                self._next_sequential += piece.length / (self._max_bandwidth or float("inf"))
                self._start(feed, piece, waited_for=False, sink=sink)

    @property
    def _copies(self) -> bool:
        """Whether a worker that reads from this source may write as well.

        A disk that hangs would hold one after the other.
        """
        before = time.monotonic() - _HELD_UP
        return (
            self._rate.is_near
            and not self._max_bandwidth
            and not any(step.sink is not None and step.started < before for step in self._busy)
        )

    def _queue(self, feed: Feed, offset: int, *, seek: bool) -> None:
        if seek:
            self._seeks.append((feed, offset, self._demands.now))
        else:
            self._demands.add(key_of(feed), (feed, offset))

    def _start(
        self, feed: Feed, piece: Piece | None, *, waited_for: bool, sink: Sink | None = None
    ) -> None:
        if piece is not None:
            self._running += 1
            self._spawn(Step(feed, piece, seek=False, waited_for=waited_for, sink=sink))

    def _spawn(self, step: Step) -> None:
        self._busy.add(step)
        gevent.spawn(self._step, step)

    def _has_enough(self, feed: Feed) -> bool:
        """Whether a worker more would be of no use.

        It would wait for the one that copies the file, as the kernel lets one write it at a time;
        or hang as another one does: then the file would take all of them, one by one.
        """
        before = time.monotonic() - _LATE
        busy = [step for step in self._busy if step.feed is feed]
        return len(busy) >= self._most or any(
            step.sink is not None or step.started < before for step in busy
        )

    def _hold(self, feed: Feed, offset: int, *, seek: bool) -> bool:
        """Whether this file has as many workers as it may have: then it waits for one of them."""
        key, before = key_of(feed), time.monotonic() - _LATE
        busy = [step for step in self._busy if step.key == key]
        late = sum(step.waited_for and step.started < before for step in busy)
        if late < _LATE_WAITED_FOR and len(busy) < self._most:
            return False
        self._held.setdefault(key, {})[feed, offset] = seek
        return True

    def _give_back(self, step: Step) -> None:
        """A worker has come back from this file; what waited for that tries again."""
        self._busy.discard(step)
        held = self._held.pop(step.key, None)
        if held is not None:
            for demand, seek in held.items():
                self._queue(*demand, seek=seek)
            self.pump()

    def _step(self, step: Step) -> None:
        """Greenlet of one step: read in a worker, then let the feed keep or deliver it.

        Whoever gave the piece gets exactly one ``arrived``, ``stored`` or ``failed`` for it.
        """
        feed, piece, buffer = step.feed, step.piece, bytearray()
        data, now, copied = memoryview(b""), None, Copied(piece)
        self._steps.add(step)
        self._watch()
        question = self._breaker.ask(feed.file.path)
        try:
            buffer = self._buffers.take(piece.length if step.sink is None else SLICE)
            if step.sink is None:
                data, now = self._read(step, memoryview(buffer)[: piece.length])
                if now is None:
                    now, self._look_time = self._pool.call(look, self.source, feed.file)
            else:
                self._copy(step, memoryview(buffer)[:SLICE], copied, question)
                now = copied.now
            if now is not None and feed.seen.may_be_growing(now):
                now = copied.now = self._pool.call(look_later, self.source, feed.file)
        except StreamCacheError as error:
            self._counters.source_errors += 1
            self._breaker.failed(question, error)
            self._leave(step)
            self._give_back(step)
            feed.failed(piece, error)
        except Exception as error:  # MemoryError, a fault of ours: the claim must not stay
            log.exception("step broke offset=%d", piece.offset)
            self._breaker.failed(question, error)
            self._leave(step)
            self._give_back(step)
            feed.failed(piece, SourceUnavailable(str(error)))
        else:
            self._breaker.answered(question)
            self._begin_storing(step)
            self._give_back(step)
            if step.sink is not None:
                step.sink.stored(piece, copied)
            elif now is not None:
                feed.arrived(piece, data, now)
        finally:
            if buffer:
                self._buffers.give(buffer)
            if step.storing:
                self._storing -= 1
            self.pump()

    def _read(self, step: Step, view: memoryview) -> tuple[memoryview, Fingerprint | None]:
        """Fill ``view``, fewer bytes at the end of the file. Switches. Raises SourceError.

        And look at the file after the bytes (what is the same before and after brackets them, I8),
        if that asks no server; None: it is to be looked at.
        """
        file, offset = step.feed.file, step.piece.offset
        started, count, now = self._rate.begin(), 0, None
        try:
            if self._look_time < _QUICK:
                count, now, took = self._pool.call(read, self.source, file, view, offset)
                self._looked(took)
            else:
                count = self._pool.call(self.source.read_into, file, view, offset)
        finally:
            self._counters.read_time.observe(time.monotonic() - started)
            saturated = self._running >= self._limit - 1
            self._rate.end(count, saturated=saturated, started=started)
        # The source must wait neither for its own fstat nor for the cache disk.
        if now is not None:
            self._begin_storing(step)
        self._leave(step)
        self._counters.source_reads += 1
        self._counters.bytes_from_source += count
        return view[:count], now

    def _copy(self, step: Step, view: memoryview, copied: Copied, question: Question) -> None:
        """Let the worker that reads the piece write it into the sink, a ``view`` at a time.

        Switches. Raises SourceError.
        """
        feed, piece, sink = step.feed, step.piece, step.sink
        assert sink is not None

        def watch() -> None:
            """Greenlet, once it takes long: is it the sink, now or later?"""
            while (left := (copied.since or time.monotonic()) + _PATIENCE - time.monotonic()) > 0:
                gevent.sleep(left)
            self._breaker.answered(question)  # the source has
            self._leave(step)
            sink.stalled(piece)

        watchers: list[gevent.Greenlet[[], None]] = []
        arguments = (self.source, feed.file, view, piece, sink, feed.seen, copied)
        try:
            self._pool.call(
                *(copy, *arguments),
                timeout=_PATIENCE,
                late=lambda: watchers.append(gevent.spawn(watch)),
            )
        finally:
            gevent.killall(watchers, block=False)
            copies = sum(one.sink is not None for one in self._busy)  # they share what it gives
            self._rate.copied_in(copied.read, copied.reading / copies)
            self._counters.read_time.observe(copied.reading)
        if copied.now is not None:
            self._looked(copied.look_time)
        self._leave(step)
        self._counters.source_reads += 1
        self._counters.bytes_from_source += copied.read

    def _looked(self, took: float) -> None:
        # One that took long has waited for the interpreter, perhaps; three in a row, no.
        self._look_time = min(took, 2 * max(self._look_time, _QUICK / 8))

    def _begin_storing(self, step: Step) -> None:
        """Its bytes are on their way to the cache: from now until its end. Idempotent."""
        if not step.storing:
            step.storing = True
            self._storing += 1

    def _leave(self, step: Step) -> None:
        """It takes no place at the source any more; once."""
        if step in self._steps:
            self._steps.remove(step)
            if step.seek:
                self._seeking -= 1
            else:
                self._running -= 1
            if not self._steps:
                self._unwatch()
            self.pump()

    def _watch(self) -> None:
        if self._watcher is None:
            due = min(step.started for step in self._steps) + _LATE
            wait = max(0.01, due - time.monotonic())
            self._watcher = gevent.spawn_later(wait, self._give_up_late)

    def _unwatch(self) -> None:
        # Nothing of ours stays behind when all is quiet: the cache may be closed by now.
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill(block=False)

    def _give_up_late(self) -> None:
        """A read that hangs keeps its worker, but not the place of others (I12)."""
        self._watcher = None
        before = time.monotonic() - _LATE
        late = [step for step in self._steps if step.started < before]
        for step in late:
            self.remove(step.feed)
        for step in late:
            self._leave(step)
        if self._steps:
            self._watch()

    def _affordable(self) -> bool:
        """Whether ``max_bandwidth`` allows a sequential step now; else come back later."""
        if not self._max_bandwidth:
            return True
        now = time.monotonic()
        self._next_sequential = max(self._next_sequential, now - 0.1)
        if self._next_sequential <= now:
            return True
        if self._timer is None and (self._reading or self._idle):
            self._timer = gevent.spawn_later(self._next_sequential - now, self._come_back)
        return False

    def _come_back(self) -> None:
        self._timer = None
        self.pump()
