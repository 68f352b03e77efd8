"""What was measured: samples of each server, round by round, and the rows that they make."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.peers import Server
from tests.bench.report import Figure, Row, show

OURS = "streamcache"


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
        aim: str = "",
        at_least: float | None = None,
        at_most: float | None = None,
        of_ratio: bool = True,
        note: str = "",
        loaded: bool = False,
    ) -> Row:
        """Ours against ``peer``. ``loaded``: the server should be the limit; say if it was not."""
        mine = Figure(math.nan, note=self.absent.get(OURS, ""))
        if OURS in self.samples:
            mine = self.figure(OURS)
        reference = None if peer is None else self.figure(peer)
        notes = [mine.note] if mine.note else []
        if reference is not None and reference.note:
            notes.append(f"{peer}: {reference.note}")
        if loaded:
            notes += self._not_the_limit()
        values = sorted(sample.value for sample in self.samples.get(OURS, ()))
        if len(values) > 1:
            least, most = show(values[0], unit), show(values[-1], unit)
            notes.append(f"{len(values)} rounds, {least} to {most}")
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
            "; ".join([*notes, *([note] if note else [])]),
            mine.cpu,
            None if reference is None else reference.cpu,
            self._others({OURS, peer}),
            {name: [sample.value for sample in each] for name, each in self.samples.items()},
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
        names = [name for name in self.samples if name not in (OURS, peer)]
        return Row(
            scenario,
            self.each(OURS) * scale if OURS in self.samples else math.nan,
            unit,
            None if peer is None else self.each(peer) * scale,
            peer or "",
            aim,
            at_most,
            of_ratio=True,
            others={name: Figure(self.each(name) * scale) for name in names},
            note="" if OURS in self.samples else self.absent.get(OURS, ""),
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
