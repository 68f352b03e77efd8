"""``python -m tests.daemon.fakes serve ...``: the daemon around parts that only report.

What they do is told by FAKE in the environment, a word or several:
``hung-start``   the cache starts when the file $FAKE_GATE is there
``in-use`` ``broken-cache`` ``full-disk`` ``broken-source`` ``broken-server``   start fails
``hung-stop``    the server never finishes to drain
``hung-hub``     the hub hangs when logs are to be opened again, until $FAKE_GATE is there
``broken-reload``  what the server does when it is told to
``hung-reload``  the same, until the directory $FAKE_GATE has a file for that number of connections
``hung-thread``  a worker thread never returns
``crash``        the process kills itself when its cache starts
``crash-again``  the same, but not the first time; $FAKE_GATE is a directory
``hub``          a hub is made too early: before the daemon has begun
A word with "@w2" behind it is for that worker only.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import socket
import sys
import time

import gevent

from streamcache.cli import main
from streamcache.config import Config, changed
from streamcache.daemon import place, pulse, supervisor
from streamcache.daemon.parts import CachePart, Parts
from streamcache.errors import CacheError, CacheInUse, ConfigError, SourceUnavailable
from streamcache.server.address import Address
from streamcache.server.addresses import AddressRow
from streamcache.stats import Statistics

WORDS = os.environ.get("FAKE", "").split()


def is_said(word: str) -> bool:
    """Whether FAKE has the word, for every process or, as "word@w2", for this one."""
    return word in WORDS or f"{word}@{worker()}" in WORDS


def worker() -> str:
    """The name of this worker ("w1"), as ps shows it."""
    with open("/proc/self/comm", encoding="ascii") as comm:
        return comm.read().strip().rpartition(" ")[2]


def tell(text: str) -> None:
    sys.stderr.write(f"fake: {text}\n")  # one write: print makes two


class FakeCache:
    def __init__(self, config: Config) -> None:
        self.config = config

    def start(self) -> None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limits = self.config.limits
        size = self.config.cache.size
        tell(f"cache.start files={files} size={size} connections={limits.connections}")
        if is_said("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        if is_said("crash-again"):
            lived = os.path.join(os.environ["FAKE_GATE"], worker())
            if os.path.exists(lived):
                os.kill(os.getpid(), signal.SIGKILL)
            open(lived, "wb").close()
        if is_said("in-use"):
            raise CacheInUse(f"{self.config.cache.dir} is used by process 4711")
        if is_said("full-disk"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.config.cache.dir)
        if is_said("broken-source"):
            raise SourceUnavailable(errno.EIO, os.strerror(errno.EIO), self.config.source.path)
        if is_said("broken-cache"):
            raise CacheError(f"{self.config.cache.dir} has no room for a catalog")
        while is_said("hung-start") and not os.path.exists(os.environ["FAKE_GATE"]):
            gevent.sleep(0.01)
        if is_said("hung-thread"):
            gevent.get_hub().threadpool.spawn(time.sleep, 3600)
        if not self.config.cache.size:
            self.config = changed(self.config, "cache", size=123_456_789)

    def reconfigure(self, config: Config) -> tuple[str, ...]:
        self.config = config
        tell(f"cache.reconfigure revalidate={config.source.revalidate}")
        return ()

    def statistics(self) -> Statistics:
        return Statistics(requests={"hit": 3, "miss": 1}, bytes={"hit": 300})

    def close(self) -> None:
        tell("cache.close")


class FakeServer:
    connections = 0

    def __init__(self, listener: socket.socket, cache: CachePart, addresses: AddressRow) -> None:
        self._listener = listener

    @property
    def url(self) -> str:
        return Address.of(self._listener).url

    def start(self) -> None:
        if is_said("broken-server"):
            raise OSError(errno.EIO, "the network card is on fire")

    def reconfigure(self, config: Config) -> tuple[str, ...]:
        tell(f"server.reconfigure connections={config.limits.connections}")
        gate = f"{os.environ.get('FAKE_GATE')}/{config.limits.connections}"
        while is_said("hung-reload") and not os.path.exists(gate):
            gevent.sleep(0.01)
        if is_said("broken-reload"):
            raise ConfigError("access.keys: gone")
        return ()

    def reopen_logs(self) -> None:
        frozen = gc.get_freeze_count() > 0
        tell(f"server.reopen_logs collected={gc.get_threshold()[0]} frozen={frozen}")
        while is_said("hung-hub") and not os.path.exists(os.environ["FAKE_GATE"]):
            time.sleep(0.01)  # the thread's, so no greenlet runs

    def stop(self, timeout: float | None = None) -> None:
        tell(f"server.stop timeout={timeout}")
        if is_said("hung-stop"):
            gevent.sleep(3600)


def hasten() -> None:
    """Make the supervisor's times shorter, where a test cannot wait for them."""
    place.SHORTEST_DELAY = float(os.environ.get("TEMPO_DELAY", place.SHORTEST_DELAY))
    place.LIVED = float(os.environ.get("TEMPO_LIVED", place.LIVED))
    pulse.SILENT = float(os.environ.get("TEMPO_SILENT", pulse.SILENT))
    supervisor.RELOAD_WAIT = float(os.environ.get("TEMPO_RELOAD", supervisor.RELOAD_WAIT))
    supervisor.DRAIN_GRACE = float(os.environ.get("TEMPO_GRACE", supervisor.DRAIN_GRACE))


if __name__ == "__main__":
    hasten()
    if is_said("hub"):
        gevent.get_hub()
    sys.exit(main(parts=Parts(FakeCache, FakeServer)))
