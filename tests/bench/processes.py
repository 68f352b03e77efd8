"""What processes take, from /proc: CPU seconds, memory, connections; and where they run."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass

_TICK = os.sysconf("SC_CLK_TCK")  # of /proc/PID/stat, per second


@dataclass(frozen=True, slots=True)
class Stat:
    """One line of /proc/PID/stat."""

    pid: int
    parent: int
    cpu: float  # s, user and system, its own threads and the children that it has waited for

    @classmethod
    def parse(cls, line: str) -> Stat:
        """``line`` as the kernel writes it; the name in it may hold blanks and parentheses."""
        head, _, tail = line.rpartition(")")
        fields = tail.split()  # from the third on: state, ppid, ...
        ticks = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
        return cls(int(head.split()[0]), int(fields[1]), ticks / _TICK)


def tree(root: int) -> list[Stat]:
    """``root`` and all its living descendants; [] when it has ended."""
    stats = {stat.pid: stat for stat in _all()}
    family = [stats[root]] if root in stats else []
    for member in family:  # grows while it is walked
        family += [stat for stat in stats.values() if stat.parent == member.pid]
    return family


def cpu_seconds(root: int) -> float:
    """What ``root``, its descendants and those of them that have ended took so far."""
    return sum(stat.cpu for stat in tree(root))


def machine_seconds() -> float:
    """CPU seconds that all processes and the kernel took since the boot, on all cores."""
    with open("/proc/stat") as lines:
        user, nice, system, _idle, _waiting, irq, softirq, steal = map(
            int, next(lines).split()[1:9]
        )
    return (user + nice + system + irq + softirq + steal) / _TICK


def memory(root: int) -> int:
    """Bytes of user memory of ``root`` and its descendants, shared pages counted once (PSS)."""
    total = 0
    for stat in tree(root):
        with contextlib.suppress(OSError), open(f"/proc/{stat.pid}/smaps_rollup") as lines:
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def peak(pid: int) -> int:
    """The most bytes that were resident in one process so far (VmHWM)."""
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def connections(root: int, port: int) -> dict[int, int]:
    """How many established connections of this IPv4 port each process of the tree holds."""
    inodes = set()
    with open("/proc/net/tcp") as lines:
        next(lines)
        for line in lines:
            fields = line.split()
            if fields[3] == "01" and int(fields[1].partition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    return {stat.pid: sum(link in inodes for link in _links(stat.pid)) for stat in tree(root)}


def raise_descriptors(wanted: int) -> int:
    """Let this process and its children open that many files, as far as allowed; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((wanted, max(wanted, hard)), (min(wanted, hard), hard)):
        if soft >= wanted:
            break
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass(frozen=True, slots=True)
class Cores:
    """The first core is the servers', the others are the load's; one core is everybody's."""

    all: tuple[int, ...]

    @classmethod
    def here(cls) -> Cores:
        """Those that this process may use."""
        return cls(tuple(sorted(os.sched_getaffinity(0))))

    @property
    def server(self) -> tuple[int, ...]:
        return self.all[:1]

    @property
    def load(self) -> tuple[int, ...]:
        return self.all[1:] or self.all


@contextlib.contextmanager
def on_cores(cores: tuple[int, ...]) -> Iterator[None]:
    """Processes and threads started inside inherit these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _all() -> Iterator[Stat]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{entry}/stat", errors="replace") as file,
            ):
                yield Stat.parse(file.read())


def _links(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                yield os.readlink(f"{folder}/{name}")
