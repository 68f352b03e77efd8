"""Clients that are served from the cache all the time, whatever becomes of the source."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

import gevent

from tests.content import verify
from tests.server.client import Client

PAUSE = 0.05  # s between two requests of a client


class Crowd:
    """Connections that ask for cached files in turn, and check every byte that comes."""

    def __init__(self, address: tuple[str, int], names: Sequence[str], clients: int) -> None:
        self.served: Counter[str] = Counter()  # by the words of Cache-Status
        self.slowest = 0.0  # s, since ``forget``
        self.stop = False
        self._address = address
        self._names = names
        self.greenlets = [gevent.spawn(self._run, Random(seed)) for seed in range(clients)]

    def forget(self) -> None:
        """Begin to count anew."""
        self.served.clear()
        self.slowest = 0.0

    def check(self) -> None:
        """Raise what went wrong so far."""
        for greenlet in self.greenlets:
            if greenlet.ready():
                greenlet.get()

    def _run(self, random: Random) -> None:
        with Client(self._address) as client:
            while not self.stop:
                name = random.choice(self._names)
                started = time.monotonic()
                answer = client.ask(f"/{name}")
                self.slowest = max(self.slowest, time.monotonic() - started)
                assert answer.status == 200, (name, answer)
                assert verify(name, 0, answer.body) is None
                _, _, status = answer.fields["cache-status"].partition("; ")
                self.served[status.partition(";")[0]] += 1
                gevent.sleep(PAUSE * (0.5 + random.random()))


@contextlib.contextmanager
def crowd(address: tuple[str, int], names: Sequence[str], clients: int = 50) -> Iterator[Crowd]:
    """They come, and leave at the end; all of them were served well."""
    found = Crowd(address, names, clients)
    try:
        yield found
        found.check()
        found.stop = True
        gevent.joinall(found.greenlets, timeout=10, raise_error=True)
        assert all(greenlet.ready() for greenlet in found.greenlets)
    finally:
        gevent.killall(found.greenlets)
