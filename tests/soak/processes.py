"""What each worker holds: descriptors, threads, memory; from /proc and from inside."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

MiB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process."""

    at: float  # monotonic s
    started: int  # when the process was, in ticks since the boot: ids are used again
    descriptors: int
    threads: int
    memory: int  # bytes that are its own (RssAnon)

    @classmethod
    def take(cls, pid: int, at: float) -> Sample | None:
        """None: it is gone."""
        try:
            text = Path(f"/proc/{pid}/status").read_text()
            fields = dict(line.split(":", 1) for line in text.splitlines())
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return cls(
                at,
                int(stat[19]),
                len(os.listdir(f"/proc/{pid}/fd")),
                int(fields["Threads"]),
                int(fields["RssAnon"].split()[0]) * 1024,
            )
        except (OSError, KeyError, IndexError):
            return None


def open_below(pid: int, *folders: Path) -> list[str]:
    """What the process has open below these folders, also what was unlinked."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if any(target.startswith(f"{folder}/") for folder in folders):
                    found.append(target)
    return found


@dataclass(slots=True)
class Watch:
    """Samples of all workers that there were."""

    samples: dict[tuple[int, int], list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def look(self, pids: list[int], at: float) -> None:
        """Take one of each."""
        for pid in pids:
            sample = Sample.take(pid, at)
            if sample is not None:
                self.samples[pid, sample.started].append(sample)

    def most(self, what: str) -> int:
        """The largest figure of any worker."""
        return max((getattr(s, what) for each in self.samples.values() for s in each), default=0)

    def growth(self, old: float) -> tuple[float, int] | None:
        """Of the worker that lived longest, if that was ``old`` s: s, and bytes that it grew by
        from the third to the last fifth of its life (what it was to hold, it holds by then).
        """
        lives = [each for each in self.samples.values() if each[-1].at - each[0].at >= old]
        life = max(lives, key=lambda each: each[-1].at - each[0].at, default=[])
        fifth = len(life) // 5
        if not fifth:
            return None
        before = statistics.median(sample.memory for sample in life[2 * fifth : 3 * fifth])
        after = statistics.median(sample.memory for sample in life[-fifth:])
        return life[-1].at - life[0].at, round(after - before)


@dataclass(slots=True)
class Stops:
    """When which process was stopped: what it then says of its hub says nothing."""

    spans: list[tuple[int, float, float]] = field(default_factory=list)

    def touch(self, pid: int, begun: float, ended: float) -> bool:
        """Whether this process was stopped in that time."""
        return any(
            stopped == pid and start <= ended and begun <= end for stopped, start, end in self.spans
        )


@dataclass(frozen=True, slots=True)
class Hubs:
    """What the workers said of themselves."""

    gap: float = 0.0  # s, the longest
    starved: float = 0.0  # s that a worker was ready and had no core, at most
    lines: int = 0
    greenlets: dict[int, int] = field(default_factory=dict)  # by pid: the last count
    copies: int = 0  # steps that were written by who read them, as far as was said

    @classmethod
    def read(cls, reports: Path, stops: Stops) -> Hubs:
        """All of the reports so far; see ``inside.py``."""
        gap = starved = 0.0
        count, copies, greenlets = 0, 0, {}
        for path in reports.iterdir():
            pid = int(path.name)
            last = 0
            for text in path.read_text().splitlines(keepends=True):
                if not text.endswith("\n"):  # it was killed
                    continue
                line = json.loads(text)
                last = line["copies"]
                if line["greenlets"] >= 0:
                    greenlets[pid] = line["greenlets"]
                if not stops.touch(pid, line["begun"], line["ended"]):
                    gap, starved = max(gap, line["gap"]), max(starved, line["starved"])
                    count += 1
            copies += last
        return cls(gap, starved, count, greenlets, copies)
