"""What scenarios are made of: a registry, the files, servers beside each other, rounds in turn."""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.client import Expected, get
from tests.bench.peers import Server, StreamCache
from tests.bench.processes import Cores, on_cores
from tests.bench.programs import NotHere
from tests.bench.report import Figure, Row
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


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one server."""

    value: float  # what the row shows
    cpu: float  # s, of all its processes
    seconds: float  # of the wall
    work: float = math.nan  # requests or GiB
    note: str = ""

    @property
    def busy(self) -> float:
        """The share of one core that the server took."""
        return self.cpu / self.seconds


class Meter:
    """CPU and wall seconds of a server since it was made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._cpu, self._began = server.cpu, time.monotonic()

    def sample(self, value: float, work: float = math.nan, note: str = "") -> Sample:
        """What passed until now."""
        now = time.monotonic()
        return Sample(value, self._server.cpu - self._cpu, now - self._began, work, note)


@dataclass
class Results:
    """Samples of each server, and why some did not take part."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """The median over the rounds."""
        return statistics.median(sample.value for sample in self.samples[name])

    def each(self, name: str) -> float:
        """CPU seconds per request or GiB, the median."""
        return statistics.median(sample.cpu / sample.work for sample in self.samples[name])

    def figure(self, name: str) -> Figure:
        """As the table shows it."""
        samples = self.samples[name]
        middle = min(samples, key=lambda sample: abs(sample.value - self.value(name)))
        cpu = statistics.median(sample.cpu for sample in samples)
        return Figure(self.value(name), cpu, middle.note)

    def best(self, counts: Sequence[str], *, more: bool = True) -> str | None:
        """Which of the peers that count did best; None: none of them was there."""
        there = [name for name in counts if name in self.samples]
        return (max if more else min)(there, key=self.value) if there else None

    def row(
        self,
        scenario: str,
        unit: str,
        peer: str | None,
        *,
        ours: str = "streamcache",
        aim: str = "",
        at_least: float | None = None,
        at_most: float | None = None,
        of_ratio: bool = True,
        note: str = "",
        loaded: bool = False,
    ) -> Row:
        """Ours against ``peer``. ``loaded``: the server should be the limit; say if it was not."""
        mine = Figure(math.nan, note=self.absent.get(ours, ""))
        if ours in self.samples:
            mine = self.figure(ours)
        reference = None if peer is None else self.figure(peer)
        notes = [mine.note] if mine.note else []
        if reference is not None and reference.note:
            notes.append(f"{peer}: {reference.note}")
        if loaded:
            notes += self._not_the_limit()
        rounds = (
            [f"{len(self.samples[ours])} rounds"] if len(self.samples.get(ours, ())) > 1 else []
        )
        return Row(
            scenario,
            mine.value,
            unit,
            None if reference is None else reference.value,
            peer or "",
            aim,
            at_most,
            at_least,
            of_ratio,
            "; ".join([*notes, *([note] if note else []), *rounds]),
            mine.cpu,
            None if reference is None else reference.cpu,
            self._others({ours, peer}),
        )

    def cost_row(
        self,
        scenario: str,
        unit: str,
        scale: float,
        peer: str | None,
        *,
        aim: str = "",
        at_most: float | None = None,
    ) -> Row:
        """CPU seconds per unit of work, times ``scale``, against the same of ``peer``."""
        ours = "streamcache"
        names = [name for name in self.samples if name not in (ours, peer)]
        return Row(
            scenario,
            self.each(ours) * scale if ours in self.samples else math.nan,
            unit,
            None if peer is None else self.each(peer) * scale,
            peer or "",
            aim,
            at_most,
            of_ratio=True,
            others={name: Figure(self.each(name) * scale) for name in names},
            note="" if ours in self.samples else self.absent.get(ours, ""),
        )

    def _others(self, without: set[str | None]) -> dict[str, Figure]:
        others = {name: self.figure(name) for name in self.samples if name not in without}
        absent = {
            name: Figure(math.nan, note=f"not run: {why}") for name, why in self.absent.items()
        }
        return {**others, **{name: why for name, why in absent.items() if name not in without}}

    def _not_the_limit(self) -> list[str]:
        """The load (or its core) is the bottleneck where a server had time left."""
        busy = {
            name: statistics.median(sample.busy for sample in samples)
            for name, samples in self.samples.items()
        }
        idle = [f"{name} {share:.0%}" for name, share in busy.items() if share < 0.9]
        return [f"the server was not the limit, busy: {', '.join(idle)}"] if idle else []


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
