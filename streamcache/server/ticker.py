"""The timers of a server: a coarse one for all deadlines of its connections, and the time of day.

Runs in the hub. A timer per wait costs a small hit a third of its throughput; a sweep over
10,000 connections every half second costs 0.1 % of a core. Deadlines are late by at
most one tick; that of a client which takes no byte by two, as the first one begins it; all by
two more after the hub was held.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from gevent.hub import Hub

log = logging.getLogger(__name__)

TICK: Final = 0.5  # s; shorter only if a configured time-out is shorter than two ticks
SHORTEST_TICK: Final = 0.02  # s
_BEHIND: Final = 0.001  # s after a second has begun: a timer may be a little early

monotonic = time.monotonic


class Timed(Protocol):
    """Something with a deadline."""

    deadline: float  # s of ``time.monotonic``; infinity: none

    def expire(self, now: float) -> None:
        """Called in the hub at the first tick after the deadline; may set a new one."""
        ...


class Ticker:
    """Calls ``expire`` of what is overdue, and every ``each_tick``, until ``stop``."""

    def __init__(
        self,
        hub: Hub,
        timed: Callable[[], Iterable[Timed]],
        each_tick: Callable[[], None],
        shortest_timeout: float,
    ) -> None:
        self._timed = timed
        self._each_tick = each_tick
        self.interval = max(SHORTEST_TICK, min(TICK, shortest_timeout / 2))
        self._timer = hub.loop.timer(self.interval, self.interval, ref=False)
        self._due = math.inf  # when the next tick is, monotonic s
        self._mild_until = 0.0  # nothing expires before that, monotonic s

    def start(self) -> None:
        """Tick from now on."""
        self._due = monotonic() + self.interval
        self._timer.start(self._tick)

    def stop(self) -> None:
        """Tick no more; idempotent."""
        self._timer.stop()
        self._timer.close()

    def _tick(self) -> None:
        now = monotonic()
        if not self._is_mild(now):
            self._expire(now)
        self._each_tick()

    def _is_mild(self, now: float) -> bool:
        """Whether the hub was held (this process was stopped, perhaps) and has just come back.

        What clients have sent meanwhile lies in their sockets, and is read first: so nothing
        expires for half an interval, as a tick that was missed is made up for at once. Not twice in
        a row: where the hub is always late, deadlines hold too.
        """
        if now - self._due > self.interval and now - self._mild_until > 2 * self.interval:
            self._mild_until = now + self.interval / 2
        self._due = now + self.interval
        return now < self._mild_until

    def _expire(self, now: float) -> None:
        # Decide first, act afterwards: expiring a connection changes the collection.
        for late in [each for each in self._timed() if each.deadline <= now]:
            try:
                late.expire(now)
            except Exception:
                log.exception("deadline not kept of=%r", late)


class Seconds:
    """Calls ``update(now)`` as each second of the time of day begins, until ``stop``.

    A clock that is set is followed within a second. ``now``: s since the epoch.
    """

    def __init__(self, hub: Hub, update: Callable[[float], None]) -> None:
        self._loop = hub.loop
        self._update = update
        self._timer: Any = None

    def start(self) -> None:
        """Call from now on."""
        self._next()

    def stop(self) -> None:
        """Call no more; idempotent."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _next(self) -> None:
        self.stop()
        now = time.time()
        # One that fires a little early finds the same second, and is there again when it is over.
        self._timer = self._loop.timer(1.0 - now % 1.0 + _BEHIND, ref=False)
        self._timer.start(self._next)
        self._update(now)
