"""``python -m tests.soak.inside serve ...``: the daemon as it is, and each worker watches itself.

A greenlet in the worker sees what no client can tell from a busy machine: how long the hub was not
free. It sleeps for ``BEAT`` and reports by how much it woke up late, less the time for which this
thread was ready to run and had no core (/proc/thread-self/schedstat; not for which another thread
had the GIL and no core). Once a second a line of JSON goes to a file named after the process, in
the directory that SOAK_REPORTS names.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import gevent
from greenlet import greenlet

from streamcache import cli
from streamcache.config import Config
from streamcache.daemon.parts import CachePart, Parts, real_parts
from streamcache.source import inflight

BEAT = 0.01  # s
SECOND = 1.0  # s that a line is about
COUNTED = 5  # s between two counts of greenlets, which look at all objects


@dataclass(slots=True)
class Line:
    """What one second was like."""

    begun: float  # monotonic s
    ended: float
    gap: float  # s that the hub was not free at most, without ``starved``
    starved: float  # s that it was ready and had no core
    greenlets: int  # alive; -1: not counted
    copies: int  # steps that were written by who read them, since the start


def watch(path: str) -> None:
    """Greenlet."""
    clock = time.monotonic
    with open(path, "a", buffering=1) as out, open("/proc/thread-self/schedstat", "rb") as stat:
        fd = stat.fileno()

        def starved() -> float:
            return int(os.pread(fd, 100, 0).split()[1]) / 1e9

        line, seconds = Line(clock(), 0.0, 0.0, 0.0, -1, 0), 0
        before, waited = clock(), starved()
        while True:
            gevent.sleep(BEAT)
            now, then = clock(), starved()
            late, missed = now - before - BEAT, then - waited
            line.gap = max(line.gap, late - missed)
            line.starved = max(line.starved, missed)
            if now - line.begun >= SECOND:
                line.ended, line.copies = now, Copies.count
                if seconds % COUNTED == 0:
                    line.greenlets = count()
                out.write(json.dumps(asdict(line)) + "\n")
                line, seconds = Line(clock(), 0.0, 0.0, 0.0, -1, 0), seconds + 1
            before, waited = clock(), starved()


class Copies:
    """Counts the steps of a near source, which look from outside as all others do."""

    count = 0
    _copy = staticmethod(inflight.copy)

    @classmethod
    def copy(cls, *args: Any) -> None:
        """In a worker thread, in place of the real one."""
        cls.count += 1
        cls._copy(*args)


def count() -> int:
    """Greenlets that run or wait, of those that began after the worker had started.

    What is there by then is frozen: the collector does not know of it.
    """
    return sum(1 for found in gc.get_objects() if isinstance(found, greenlet) and bool(found))


def parts() -> Parts:
    """The real ones; the watch begins where the worker begins."""
    real, reports = real_parts(), os.environ["SOAK_REPORTS"]

    def make_cache(config: Config) -> CachePart:
        inflight.copy = Copies.copy
        gevent.spawn(watch, os.path.join(reports, str(os.getpid())))
        return real.cache(config)

    return Parts(make_cache, real.server)


if __name__ == "__main__":
    sys.exit(cli.main(parts=parts()))
