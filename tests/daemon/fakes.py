"""``python -m tests.daemon.fakes serve ...``: the daemon around parts that only report.

What they do is told by FAKE in the environment, a word or several:
``hung-start``   the cache starts when the file $FAKE_GATE is there
``in-use`` ``broken-cache`` ``full-disk`` ``broken-source`` ``broken-server``   start fails
``hung-stop``    the server never finishes to drain
``hung-thread``  a worker thread never returns
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import time

import gevent
from gevent.socket import socket as GeventSocket

from streamcache.cli import main
from streamcache.config import Config, changed
from streamcache.daemon.serve import CachePart, Parts
from streamcache.errors import CacheError, CacheInUse, SourceUnavailable
from streamcache.server.address import Address

WORDS = os.environ.get("FAKE", "").split()


def tell(text: str) -> None:
    print(f"fake: {text}", file=sys.stderr, flush=True)


class FakeCache:
    def __init__(self, config: Config) -> None:
        self.config = config

    def start(self) -> None:
        tell(f"cache.start files={resource.getrlimit(resource.RLIMIT_NOFILE)[0]}")
        if "in-use" in WORDS:
            raise CacheInUse(f"{self.config.cache.dir} is used by process 4711")
        if "full-disk" in WORDS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.config.cache.dir)
        if "broken-source" in WORDS:
            raise SourceUnavailable(errno.EIO, os.strerror(errno.EIO), self.config.source.path)
        if "broken-cache" in WORDS:
            raise CacheError(f"{self.config.cache.dir} has no room for a catalog")
        while "hung-start" in WORDS and not os.path.exists(os.environ["FAKE_GATE"]):
            gevent.sleep(0.01)
        if "hung-thread" in WORDS:
            gevent.get_hub().threadpool.spawn(time.sleep, 3600)
        if not self.config.cache.size:
            self.config = changed(self.config, "cache", size=123_456_789)

    def close(self) -> None:
        tell("cache.close")


class FakeServer:
    def __init__(self, listen: str, cache: CachePart) -> None:
        self._address = Address.parse(listen)
        self._listener: GeventSocket | None = None

    @property
    def url(self) -> str:
        return self._address.url

    def start(self) -> None:
        if "broken-server" in WORDS:
            raise OSError(errno.EIO, "the network card is on fire")
        self._listener = self._address.bind(1)
        self._address = Address.of(self._listener)

    def stop(self, timeout: float | None = None) -> None:
        tell(f"server.stop timeout={timeout}")
        if "hung-stop" in WORDS:
            gevent.sleep(3600)


if __name__ == "__main__":
    sys.exit(main(parts=Parts(FakeCache, FakeServer)))
