"""The place of a soak: a source, a cache directory, and the daemons that use it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import gevent

from tests.daemon_process import DaemonError, DaemonProcess, children, process_name
from tests.soak.findings import Findings
from tests.soak.source import Source

WORKERS = 3
ORPHANS = 40.0  # s until the workers of a dead supervisor are gone; they promise 30
GONE_WRONG = ("Traceback", "account off", "broke")  # in no log

SETTINGS = {
    "STREAMCACHE_SOURCE_REVALIDATE": "300ms",
    "STREAMCACHE_SOURCE_NEGATIVE_TTL": "200ms",
    "STREAMCACHE_SOURCE_TIMEOUT": "5s",
    "STREAMCACHE_CACHE_EVICT_INTERVAL": "200ms",
    "STREAMCACHE_COPY_CLAIM_TIMEOUT": "1s",
    "STREAMCACHE_LOG_ACCESS": "off",
}


class Site:
    """At most one daemon that is asked, and those that were killed and are not gone yet."""

    def __init__(self, source: Source, directory: Path, findings: Findings, random: Random) -> None:
        self.source = source
        self.cache_dir = directory / "cache"
        self.reports = directory / "reports"
        self.reports.mkdir()
        self.daemon: DaemonProcess | None = None
        self.starts = 0
        self.born: dict[int, float] = {}  # by pid of a worker: when it was first seen, monotonic s
        self._findings = findings
        self._random = random
        self._orphans: dict[int, float] = {}  # pid -> when it must be gone, monotonic s

    @property
    def address(self) -> tuple[str, int] | None:
        """Where to ask; None: nowhere now."""
        return None if self.daemon is None else self.daemon.address

    @property
    def workers(self) -> dict[str, int]:
        """Process ids by name."""
        found = {} if self.daemon is None else self.daemon.worker_pids
        for pid in found.values():
            self.born.setdefault(pid, time.monotonic())
        return found

    def start(self, *, killed_after: float | None = None) -> None:
        """Start a daemon. ``killed_after`` so many seconds it is gone, ready or not. Switches."""
        self.starts += 1
        begun: list[int] = []
        killer = None
        if killed_after is not None:
            killer = gevent.spawn(_kill_later, begun, killed_after)
        daemon = gevent.get_hub().threadpool.apply(self._start, (begun.append,))
        if isinstance(daemon, DaemonError):
            if killed_after is None:
                self._findings.add(f"no start: {daemon}")
                raise daemon
            daemon = None
        if killer is not None:
            killer.join()
            if daemon is not None:
                self._bury(daemon)
            return
        self.daemon = daemon

    def _start(self, begun: Callable[[int], object]) -> DaemonProcess | DaemonError:
        """In a thread of gevent's, which prints what is raised there."""
        environment = {
            **SETTINGS,
            "STREAMCACHE_COPY_WHEN_IDLE": self._random.choice(("finish", "stop")),
            "STREAMCACHE_CACHE_CHECKSUM": self._random.choice(("off", "xxh3")),
            "SOAK_REPORTS": str(self.reports),
        }
        try:
            return DaemonProcess(
                self.source.path,
                cache_dir=self.cache_dir,
                cache_size=str(self.source.limit),
                workers=WORKERS,
                module="tests.soak.inside",
                environment=environment,
                begun=begun,
            )
        except DaemonError as error:
            return error

    def kill_worker(self) -> bool:
        """One of them, by chance; False: there is none."""
        pids = sorted(self.workers.values())
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(pids), signal.SIGKILL)
        return bool(pids)

    def kill_supervisor(self) -> None:
        """Its workers notice, and end by themselves."""
        assert self.daemon is not None
        daemon, self.daemon = self.daemon, None
        os.kill(daemon.pid, signal.SIGSTOP)  # it forks nobody whom we do not know
        deadline = time.monotonic() + ORPHANS
        self._orphans.update(dict.fromkeys(daemon.worker_pids.values(), deadline))
        self._bury(daemon)

    def kill_all(self) -> None:
        """As if the machine's memory had run out: no process is left."""
        assert self.daemon is not None
        daemon, self.daemon = self.daemon, None
        kill_family(daemon.pid)
        self._bury(daemon)

    def _bury(self, daemon: DaemonProcess) -> None:
        daemon.kill()
        self._read(daemon)
        daemon.close()

    def stop(self) -> None:
        """Drain the daemon, if there is one: it ends with 0. Switches."""
        daemon, self.daemon = self.daemon, None
        if daemon is None:
            return
        code = gevent.get_hub().threadpool.apply(daemon.stop)
        if code:
            self._findings.add(f"the daemon ended with {code}: {daemon.log[-2000:]}")
        self._read(daemon)
        daemon.close()

    def _read(self, daemon: DaemonProcess) -> None:
        log = daemon.log
        for word in GONE_WRONG:
            if word in log:
                at = max(0, log.index(word) - 500)
                self._findings.add(f"in the log: {log[at : at + 3000]}")

    def orphans(self) -> list[int]:
        """Those that are still there; one that is late is a finding."""
        for pid, deadline in list(self._orphans.items()):
            if not process_name(pid).startswith("streamcache w"):
                del self._orphans[pid]
            elif time.monotonic() > deadline:
                self._findings.add(f"worker {pid} outlives its supervisor by {ORPHANS:g} s")
                os.kill(pid, signal.SIGKILL)
                del self._orphans[pid]
        return sorted(self._orphans)

    def await_orphans(self) -> None:
        """Until there is none. Switches."""
        while self.orphans():
            gevent.sleep(0.05)

    @contextlib.contextmanager
    def closing(self) -> Iterator[Site]:
        """Whatever happens, no process stays behind."""
        try:
            yield self
        finally:
            if self.daemon is not None:
                self.kill_all()
            for pid in self.orphans():
                os.kill(pid, signal.SIGKILL)
            self.await_orphans()


def kill_family(pid: int) -> None:
    """SIGKILL a supervisor and all of its workers; none is forked in between."""
    os.kill(pid, signal.SIGSTOP)
    for number in (*children(pid), pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _kill_later(begun: list[int], seconds: float) -> None:
    while not begun:
        gevent.sleep(0.001)
    gevent.sleep(seconds)
    kill_family(begun[0])
