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

What a step does once it has begun is in ``inflight.py``. Hub's thread: ``pump`` runs in whoever
changed something, or in a timer's greenlet when ``max_bandwidth`` allows the next step.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import gevent

from streamcache.source.base import Source
from streamcache.source.breaker import Breaker
from streamcache.source.feed import Feed
from streamcache.source.inflight import Caller, InFlight
from streamcache.source.rate import FIRST_STEP, Rate
from streamcache.source.step import Key, Step, key_of
from streamcache.source.turns import Turns
from streamcache.stats import Counters

_LATE_WAITED_FOR = 2  # late steps of a file for its readers, until one of them comes back
_HELD_UP = 0.25  # s that a step may be with its reader and writer before there is no other such


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
        self._breaker = breaker or Breaker()
        self._breaker.on_close.append(self.pump)
        self._rate = Rate(step_time, in_flight)
        self._steps = InFlight(
            *(source, pool, counters, self._rate, self._breaker),
            limit=in_flight,
            changed=self.pump,
            returned=self._try_again,
        )
        self._workers = pool.size
        self._most = pool.size - pool.size // 4  # of them that one file may have
        self._max_bandwidth = max_bandwidth
        self._seeks: deque[tuple[Feed, int, int]] = deque()  # with the share when they came
        self._demands: Turns[tuple[Feed, int]] = Turns()
        self._reading: dict[Feed, None] = {}  # feeds with readers, in turn
        self._idle: dict[Feed, None] = {}
        # What waits for a file whose reads hang: (feed, offset) to whether it is a seek.
        self._held: dict[Key, dict[tuple[Feed, int], bool]] = {}
        self._next_sequential = 0.0  # monotonic s, by max_bandwidth
        self._timer: Any = None

    def __repr__(self) -> str:
        return (
            f"<Scheduler seeks={len(self._seeks)}+{self._steps.seeking}"
            f" demands={len(self._demands)} running={self._steps.running}"
            f" sessions={len(self._reading)}+{len(self._idle)}"
            f" step={self._rate.step}>"
        )

    def reconfigure(self, *, in_flight: int, step_time: float, max_bandwidth: int) -> None:
        """Other options, for the steps that begin from now on. Does not switch."""
        self._steps.limit = in_flight
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
        steps = self._steps
        while self._seeks and len(steps.busy) < self._workers:
            feed, offset, _ = self._seeks.popleft()
            if self._hold(feed, offset, seek=True):
                continue
            piece = feed.demanded(offset, FIRST_STEP)
            if piece is not None:
                self._demands.give(key_of(feed), piece.length)
                steps.begin(Step(feed, piece, seek=True, waited_for=True))
        while self._demands and steps.running < steps.limit:
            if self._seeks and self._demands.first > self._seeks[0][2]:
                return  # who has bytes already lets those go first who came before and have none
            feed, offset = self._demands.pop()
            if not self._hold(feed, offset, seek=False):
                piece = feed.demanded(offset, self._rate.step)
                if piece is not None:
                    self._demands.give(key_of(feed), piece.length)
                    steps.begin(Step(feed, piece, seek=False, waited_for=True))
        if self._seeks or steps.seeking or self._demands:
            return
        # Nobody competes: what was given is forgotten, but for what the source still works at.
        # Whose file that is has had it when the next ones come.
        self._demands.clear()
        for step in steps.busy:
            self._demands.give(step.key, step.piece.length)
        # Bytes that wait for the cache take memory as well: one buffer more than are in flight.
        while (
            steps.running < steps.limit
            and steps.running + steps.storing <= steps.limit
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
                steps.begin(Step(feed, piece, seek=False, waited_for=False, sink=sink))

    @property
    def _copies(self) -> bool:
        """Whether a worker that reads from this source may write as well.

        A disk that hangs would hold one after the other.
        """
        return (
            self._rate.is_near
            and not self._max_bandwidth
            and not any(step.sink is not None and step.age > _HELD_UP for step in self._steps.busy)
        )

    def _queue(self, feed: Feed, offset: int, *, seek: bool) -> None:
        if seek:
            self._seeks.append((feed, offset, self._demands.now))
        else:
            self._demands.add(key_of(feed), (feed, offset))

    def _has_enough(self, feed: Feed) -> bool:
        """Whether a worker more would be of no use.

        It would wait for the one that copies the file, as the kernel lets one write it at a time;
        or hang as another one does: then the file would take all of them, one by one.
        """
        busy = [step for step in self._steps.busy if step.feed is feed]
        return len(busy) >= self._most or any(
            step.sink is not None or step.is_late for step in busy
        )

    def _hold(self, feed: Feed, offset: int, *, seek: bool) -> bool:
        """Whether this file has as many workers as it may have: then it waits for one of them."""
        key = key_of(feed)
        busy = [step for step in self._steps.busy if step.key == key]
        late = sum(step.waited_for and step.is_late for step in busy)
        if late < _LATE_WAITED_FOR and len(busy) < self._most:
            return False
        self._held.setdefault(key, {})[feed, offset] = seek
        return True

    def _try_again(self, step: Step) -> None:
        """A worker has come back from this file; what waited for that tries again."""
        held = self._held.pop(step.key, None)
        if held is not None:
            for demand, seek in held.items():
                self._queue(*demand, seek=seek)
            self.pump()

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
