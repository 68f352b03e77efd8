"""What goes wrong at the source, one thing at a time: each follows from the seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import gevent

from tests.slowfs import SlowFS
from tests.soak.titles import Titles

LONGEST = 3.0  # s of one fault


class Weather:
    """Faults of the slow file system."""

    def __init__(self, fs: SlowFS, titles: Titles, random: Random) -> None:
        self.seen: Counter[str] = Counter()
        self._fs = fs
        self._titles = titles
        self._random = random

    def clear(self) -> None:
        """No fault; quick, but not as quick as a disk."""
        self._fs.release()
        self._fs.set(latency=0.002, meta_latency=0.001, bandwidth=60 * 1024 * 1024)

    def blow(self) -> None:
        """One fault, from its beginning to its end. Switches."""
        random = self._random
        kind = random.choice(list(_KINDS))
        self.seen[kind] += 1
        path = random.choice((None, random.choice(self._titles.names)))
        _KINDS[kind](self, path)
        try:
            gevent.sleep(random.random() * LONGEST)
        finally:
            self.clear()

    def _hang(self, path: str | None) -> None:
        self._fs.fault("hang", path)

    def _hanging_reads(self, path: str | None) -> None:
        self._fs.fault("hang", path, operations=("read",))

    def _error_once(self, path: str | None) -> None:
        self._fs.fault("EIO", path, operations=("read",), times=self._random.randint(1, 3))

    def _errors(self, path: str | None) -> None:
        self._fs.fault("EIO", path, operations=("read",))

    def _stale(self, _path: str | None) -> None:
        self._fs.fault("ESTALE", operations=("read",), existing=True)

    def _slow(self, _path: str | None) -> None:
        self._fs.set(latency=0.2, meta_latency=0.05, bandwidth=4 * 1024 * 1024)


_KINDS: dict[str, Callable[[Weather, str | None], None]] = {
    "hang": Weather._hang,
    "reads hang": Weather._hanging_reads,
    "EIO once": Weather._error_once,
    "EIO": Weather._errors,
    "ESTALE": Weather._stale,
    "slow": Weather._slow,
}
