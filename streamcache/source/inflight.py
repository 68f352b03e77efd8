"""The steps in flight: what each of them does from its beginning to its end.

A step takes a place at the source, a worker and a buffer, and gives them back one by one: the place
when its bytes are read, or when it takes longer than 2 s; the worker when nothing is asked of the
source any more, however late that is; the buffer when the cache has its bytes. Each time whoever
decides who reads next (``scheduler.py``) is told, and what comes next begins at once.

Greenlets: each step runs in one of its own, with another one while the disk that its worker writes
to is slow; a timer for what becomes late. All in the hub's thread; only the source's functions, and
what they write for a sink, run in workers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent

from streamcache.errors import SourceUnavailable, StreamCacheError
from streamcache.source.base import Fingerprint, Source
from streamcache.source.breaker import Breaker, Question
from streamcache.source.buffers import Buffers
from streamcache.source.feed import Copied
from streamcache.source.rate import Rate
from streamcache.source.step import LATE, SLICE, Step, copy, look, look_later, read
from streamcache.stats import Counters

_QUICK = 0.0002  # s: a look at a file that takes no longer asks no server

log = logging.getLogger(__name__)


class Caller(Protocol):
    """The worker pool, as far as it is needed here."""

    size: int

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        late: Callable[[], object] | None = None,
    ) -> Any:
        """Run in a worker thread; ``late()`` when it takes more than ``timeout`` s. Switches."""
        ...


class InFlight:
    """The steps that have begun and are not over."""

    def __init__(
        self,
        source: Source,
        pool: Caller,
        counters: Counters,
        rate: Rate,
        breaker: Breaker,
        *,
        limit: int,
        changed: Callable[[], object],
        returned: Callable[[Step], object],
    ) -> None:
        """``changed`` hears that others may have a place, and ``returned`` that the worker of this
        step has come back. Neither may switch; both may begin steps.
        """
        self.limit = limit  # steps that may have a place at the source, beside seeks
        self.busy: set[Step] = set()  # with a worker, also those too late to count
        self._source = source
        self._pool = pool
        self._counters = counters
        self._rate = rate
        self._breaker = breaker
        self._changed = changed
        self._returned = returned
        self._buffers = Buffers()
        self._seeking: set[Step] = set()  # seeks with a place
        self._running: set[Step] = set()  # other steps with one
        self._storing: set[Step] = set()  # their bytes are on their way to the cache
        self._look_time = 1.0  # s that a look at a file takes
        self._watcher: Any = None

    def __repr__(self) -> str:
        return (
            f"<InFlight seeking={self.seeking} running={self.running}/{self.limit}"
            f" storing={self.storing} busy={len(self.busy)}>"
        )

    @property
    def seeking(self) -> int:
        """Seeks that have a place at the source."""
        return len(self._seeking)

    @property
    def running(self) -> int:
        """Other steps that have one, ``limit`` at most."""
        return len(self._running)

    @property
    def storing(self) -> int:
        """Steps whose bytes are on their way to the cache, so that they hold buffers."""
        return len(self._storing)

    def begin(self, step: Step) -> None:
        """It has its place and its worker from now on, and runs in a greenlet. Does not switch."""
        self.busy.add(step)
        (self._seeking if step.seek else self._running).add(step)
        self._watch()
        gevent.spawn(self._run, step)

    def _run(self, step: Step) -> None:
        """Greenlet of one step: read in a worker, then let the feed keep or deliver it.

        Whoever gave the piece gets exactly one ``arrived``, ``stored`` or ``failed`` for it.
        """
        feed, piece, buffer = step.feed, step.piece, bytearray()
        data, now, copied = memoryview(b""), None, Copied(piece)
        question = self._breaker.ask(feed.file.path)
        try:
            buffer = self._buffers.take(piece.length if step.sink is None else SLICE)
            if step.sink is None:
                data, now = self._read(step, memoryview(buffer)[: piece.length])
                if now is None:
                    now, self._look_time = self._pool.call(look, self._source, feed.file)
            else:
                self._copy(step, memoryview(buffer)[:SLICE], copied, question)
                now = copied.now
            if now is not None and feed.seen.may_be_growing(now):
                now = copied.now = self._pool.call(look_later, self._source, feed.file)
        except StreamCacheError as error:
            self._counters.source_errors += 1
            self._breaker.failed(question, error)
            self._return(step)
            feed.failed(piece, error)
        except Exception as error:  # MemoryError, a fault of ours: the claim must not stay
            log.exception("step broke path=%r offset=%d", f"/{feed.file.path}", piece.offset)
            self._breaker.failed(question, error)
            self._return(step)
            feed.failed(piece, SourceUnavailable(str(error)))
        else:
            self._breaker.answered(question)
            self._storing.add(step)
            self._return(step)
            if step.sink is not None:
                step.sink.stored(piece, copied)
            elif now is not None:
                feed.arrived(piece, data, now)
        finally:
            if buffer:
                self._buffers.give(buffer)
            self._storing.discard(step)
            self._changed()

    def _read(self, step: Step, view: memoryview) -> tuple[memoryview, Fingerprint | None]:
        """Fill ``view``, fewer bytes at the end of the file. Switches. Raises SourceError.

        And look at the file after the bytes (what is the same before and after brackets them, I8),
        if that asks no server; None: it is to be looked at.
        """
        file, offset = step.feed.file, step.piece.offset
        started, count, now = self._rate.begin(), 0, None
        try:
            if self._look_time < _QUICK:
                count, now, took = self._pool.call(read, self._source, file, view, offset)
                self._looked(took)
            else:
                count = self._pool.call(self._source.read_into, file, view, offset)
        finally:
            self._counters.read_time.observe(time.monotonic() - started)
            saturated = self.running >= self.limit - 1
            self._rate.end(count, saturated=saturated, started=started)
        # The source must wait neither for its own fstat nor for the cache disk.
        if now is not None:
            self._storing.add(step)
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
        clock, patience = time.monotonic, sink.patience

        def watch() -> None:
            """Greenlet, once it takes long: is it the sink, now or later?"""
            while (left := (copied.since or clock()) + patience - clock()) > 0:
                gevent.sleep(left)
            self._breaker.answered(question)  # the source has
            self._leave(step)
            sink.stalled(piece)

        watchers: list[gevent.Greenlet[[], None]] = []
        arguments = (self._source, feed.file, view, piece, sink, feed.seen, copied)
        try:
            self._pool.call(
                *(copy, *arguments),
                timeout=patience,
                late=lambda: watchers.append(gevent.spawn(watch)),
            )
        finally:
            gevent.killall(watchers, block=False)
            copies = sum(one.sink is not None for one in self.busy)  # they share what it gives
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

    # -- places and workers

    def _leave(self, step: Step) -> None:
        """It takes no place at the source any more; once."""
        places = self._seeking if step.seek else self._running
        if step in places:
            places.remove(step)
            if not (self._seeking or self._running):
                self._unwatch()
            self._changed()

    def _return(self, step: Step) -> None:
        """Its worker has come back."""
        self._leave(step)
        self.busy.discard(step)
        self._returned(step)

    def _watch(self) -> None:
        if self._watcher is None:
            due = min(step.started for step in self._seeking | self._running) + LATE
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
        for step in [step for step in self._seeking | self._running if step.is_late]:
            self._leave(step)
        if self._seeking or self._running:
            self._watch()
