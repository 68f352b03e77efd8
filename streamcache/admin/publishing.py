"""Keeps a worker's slot on the board up to date, and what that leads to: lag and history.

A greenlet that writes once a second, and a timer of the hub that measures how late it is.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import gevent

from streamcache.admin.board import LAG, Slot, Worker
from streamcache.admin.rates import Rates
from streamcache.admin.subject import Cache, Server
from streamcache.stats import Histogram, hits_of

log = logging.getLogger(__name__)

EVERY: Final = 1.0  # s between two writes
LOOK: Final = 0.2  # s between two looks at the clock
KEPT: Final = 600  # samples: ten minutes


@dataclass(frozen=True, slots=True)
class Sample:
    """The whole server at one moment; counts are since its start."""

    time: float  # s since the epoch
    bytes_out: int
    requests: int
    hits: int
    source_bytes: int
    usage: int
    connections: int


class HubLag:
    """How late the hub's callbacks are."""

    def __init__(self) -> None:
        self._timer = gevent.get_hub().loop.timer(LOOK, LOOK, ref=False)
        self._due = 0.0
        self._longest = 0.0
        self.all = Histogram(LAG)

    def start(self) -> None:
        """Look at the clock from now on."""
        self._due = time.monotonic() + LOOK
        self._timer.start(self._look)

    def stop(self) -> None:
        """No more; idempotent."""
        self._timer.stop()
        self._timer.close()

    def take(self) -> float:
        """The longest, in s, since this was last asked."""
        # While the hub is held no timer runs: what is overdue now counts too.
        longest, self._longest = max(self._longest, time.monotonic() - self._due), 0.0
        return max(0.0, longest)

    def _look(self) -> None:
        now = time.monotonic()
        late = max(0.0, now - self._due)
        self._longest = max(self._longest, late)
        self.all.observe(late)
        self._due = now + LOOK


class Publishing:
    """Writes what a cache and a server count."""

    def __init__(self, slot: Slot, cache: Cache, server: Server) -> None:
        self._slot, self._cache, self._server = slot, cache, server
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self.rates = Rates()

    @property
    def history(self) -> list[Sample]:
        """One sample a second, of this worker's life or the last ten minutes, oldest first."""
        return list(self._samples)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write now, each second, and at the end."""
        lag = HubLag()
        lag.start()
        self._publish(lag)
        greenlet = gevent.spawn(self._run, lag)
        try:
            yield
        finally:
            greenlet.kill()
            self._publish(lag)
            lag.stop()

    def _run(self, lag: HubLag) -> None:
        while True:
            gevent.sleep(EVERY)
            self._publish(lag)

    def _publish(self, lag: HubLag) -> None:
        try:
            statistics = self._cache.statistics()
            self._slot.publish(
                statistics,
                self._server.connections,
                lags=lag.all.snapshot(),
                hub_lag=lag.take(),
            )
            self.rates.look(time.monotonic(), statistics.sessions)
            self._samples.append(self._sample())
        except Exception:  # counts are worth no response
            log.exception("counts are not published")

    def _sample(self) -> Sample:
        board = self._slot.board
        totals = board.totals()
        return Sample(
            time=time.time(),
            bytes_out=sum(totals.bytes.values()),
            requests=sum(totals.requests.values()),
            hits=hits_of(totals.requests),
            source_bytes=totals.bytes_from_source,
            usage=latest(board.workers()).usage,
            connections=totals.connections,
        )


def latest(workers: list[Worker]) -> Worker:
    """Who wrote last: what it says of what all share is the newest."""
    return max(workers, key=lambda worker: worker.wrote)
