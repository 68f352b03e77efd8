"""What scenarios share: a registry, the files, servers beside each other, rounds in turn."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.client import Expected, get
from tests.bench.peers import Server, StreamCache
from tests.bench.processes import Cores, on_cores
from tests.bench.programs import NotHere
from tests.bench.report import Row
from tests.bench.results import Results, Sample
from tests.content import write

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB

SMALL = "small.bin"  # 1 KiB
FILM = "film.mkv"  # 256 MiB
SMALL_SIZE = KiB
FILM_SIZE = 256 * MiB
PATIENCE = 60.0  # s until something becomes a hit

Scenario = Callable[["Bench"], list[Row]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(group: str) -> Callable[[Scenario], Scenario]:
    """Register a scenario as "group.its_name"."""

    def register(function: Scenario) -> Scenario:
        SCENARIOS[f"{group}.{function.__name__}"] = function
        return function

    return register


class Bench:
    """What all scenarios share: how long, how often, where, and the files."""

    def __init__(self, root: Path, *, quick: bool = False, rounds: int | None = None) -> None:
        """``rounds`` None: 5, or 2 when it is ``quick``."""
        self.root = root
        self.quick = quick
        self.rounds = rounds or (2 if quick else 5)
        self.seconds = 1.0 if quick else 3.0  # that one round of a load lasts
        self.cores = Cores.here()
        self._hot: Path | None = None
        self._contents: dict[tuple[str, int], Expected] = {}

    @property
    def hot(self) -> Path:
        """A directory with SMALL and FILM, finished an hour ago."""
        if self._hot is None:
            self._hot = self.root / "hot"
            write(self._hot, SMALL, SMALL_SIZE)
            write(self._hot, FILM, FILM_SIZE)
        return self._hot

    def expected(self, name: str, size: int) -> Expected:
        """What must be in a file of that name; kept in memory."""
        key = (name, size)
        if key not in self._contents:
            self._contents[key] = Expected(name, size)
        return self._contents[key]

    @contextlib.contextmanager
    def directory(self, kind: str = "files") -> Iterator[Path]:
        """An empty directory, removed at the end."""
        with tempfile.TemporaryDirectory(
            prefix=f"{kind}-", dir=self.root, ignore_cleanup_errors=True
        ) as path:
            yield Path(path)

    @contextlib.contextmanager
    def running(
        self, *servers: Server, cores: tuple[int, ...] | None = None
    ) -> Iterator[tuple[list[Server], Results]]:
        """Start servers on the servers' core; those that cannot be had are noted as absent."""
        results = Results()
        with contextlib.ExitStack() as stack:
            there = []
            for server in servers:
                try:
                    with on_cores(cores or self.cores.server):
                        there.append(stack.enter_context(server))
                except NotHere as why:
                    results.absent[server.name] = str(why)
            yield there, results

    def warm(self, servers: Sequence[Server], *files: tuple[str, int]) -> None:
        """Have each server give each file in full, right, and at last from its cache."""
        for server in servers:
            for name, size in files:
                expected = self.expected(name, size)
                answer = get(server.address, name, expected).require()
                deadline = time.monotonic() + PATIENCE
                while isinstance(server, StreamCache) and "hit" not in answer.cache_status:
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"{name} is no hit: {answer.cache_status}")
                    time.sleep(0.1)
                    answer = get(server.address, name, expected).require()

    def alternate(
        self,
        servers: Sequence[Server],
        results: Results,
        once: Callable[[Server], Sample],
        *,
        rounds: int = 0,
    ) -> Results:
        """Each server in turn, round after round, each round beginning with another one."""
        for turn in range(rounds or self.rounds):
            first = turn % len(servers) if servers else 0
            for server in [*servers[first:], *servers[:first]]:
                results.samples.setdefault(server.name, []).append(once(server))
        return results
