"""A soak: a crowd on real daemons; kills first, then a storm; what is found, and a table."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

import gevent

from tests.soak.audit import audit, await_order, held
from tests.soak.findings import Findings
from tests.soak.processes import Hubs, Stops, Watch, open_below
from tests.soak.report import Report
from tests.soak.site import WORKERS, Site
from tests.soak.source import MiB, Source, slow
from tests.soak.titles import Titles
from tests.soak.viewer import Viewers
from tests.soak.weather import Weather

VIEWERS = 24
LONGEST_MOMENT = 1.2  # s of load before a kill
LONGEST_START = 0.8  # s after which one that starts is killed
LONGEST_STOP = 3.0  # s that a worker is stopped
OLD = 120.0  # s: a worker that lived so long tells whether memory grows

# s that a hub may be taken up. Some 0.03 to 0.1 were measured, and 0.7 on a machine with four times
# as much to do as it can: a thread that holds the GIL waits for a core then, which is not ours.
MOST_GAP = 2.0
MOST_THREADS = 48  # of a worker: the sum of its pools is below
MOST_DESCRIPTORS = 400  # of a worker: objects it keeps open, copies, connections
MOST_GREENLETS = 16  # of a worker at rest
MOST_GROWTH = 32  # MiB of a worker that lived long


class Soak:
    """Made by ``begun``."""

    def __init__(self, source: Source, directory: Path, seed: int) -> None:
        random = Random(seed)
        self.findings = Findings()
        self.report = Report(self.findings)
        self.kills: Counter[str] = Counter()
        self._random = random
        self._audits = 0
        self._highest = 0  # bytes that the cache took at most
        self._watch = Watch()
        self._stops = Stops()
        self._source = source
        self._titles = Titles(source.backing, source.sizes, random)
        self._site = Site(source, directory, self.findings, Random(random.getrandbits(64)))
        self._weather = (
            None
            if source.fs is None
            else Weather(source.fs, self._titles, Random(random.getrandbits(64)))
        )
        self._clear_up()
        self._viewers = Viewers(
            VIEWERS,
            self._titles,
            self.findings,
            lambda: self._site.address,
            Random(random.getrandbits(64)),
        )
        self._helpers = [gevent.spawn(self._look_at_usage), gevent.spawn(self._look_at_processes)]

    @classmethod
    @contextlib.contextmanager
    def begun(
        cls, seed: int, source: Callable[[], AbstractContextManager[Source]] = slow
    ) -> Iterator[Soak]:
        """With all that it needs, which goes at the end."""
        with (
            # Not in memory: what is asked here is asked of a disk.
            tempfile.TemporaryDirectory(prefix="soak-", dir="/var/tmp") as directory,
            source() as files,
        ):
            soak = cls(files, Path(directory), seed)
            with soak._site.closing():
                try:
                    yield soak
                finally:
                    gevent.killall(soak._helpers)
                    soak._viewers.close()

    # -- kills

    def kill(self, count: int) -> None:
        """``count`` times SIGKILL at a random moment of the load. Switches."""
        changes = gevent.spawn(self._change_titles)
        kinds = [self._kill_worker] * 4 + [self._kill_supervisor] * 3 + [self._kill_all] * 3
        kinds.append(self._kill_start)
        before, said = sum(self.kills.values()), 0
        # Now and then no worker is there to be killed.
        while (done := sum(self.kills.values()) - before) < count:
            if done - said >= 50:
                said = done
                print(f"{done} of {count} kills", file=sys.stderr, flush=True)
            if self._site.daemon is None:
                self._site.start()
            gevent.sleep(self._random.random() * LONGEST_MOMENT)
            self._random.choice(kinds)()
        gevent.kill(changes)

    def _kill_worker(self) -> None:
        """The others serve on."""
        if self._site.kill_worker():
            self.kills["worker"] += 1
            self._audit("a worker was killed")

    def _kill_supervisor(self) -> None:
        """The next one comes before the last of its workers is gone, or after."""
        self.kills["supervisor"] += 1
        self._site.kill_supervisor()
        if self._random.random() < 0.5:
            self._site.await_orphans()
            self._audit("a supervisor was killed")
        self._restart("a supervisor was killed")

    def _kill_all(self) -> None:
        self.kills["everything"] += 1
        self._site.kill_all()
        self._audit_at_rest("everything was killed")
        self._restart("everything was killed")

    def _kill_start(self) -> None:
        """Everything, and then the next one while it starts."""
        self.kills["while it starts"] += 1
        self._site.kill_all()
        self._site.start(killed_after=self._random.random() * LONGEST_START)
        self._audit_at_rest("killed while it starts")
        self._restart("killed while it starts")

    def _restart(self, why: str) -> None:
        """Load on the new one, and then what the cache holds."""
        self._site.start()
        gevent.sleep(self._random.random() * LONGEST_MOMENT / 2)
        self.check(f"restart after: {why}")

    # -- the storm

    def storm(self, seconds: float) -> None:
        """Everything at once, for so long: replaced files, faults, workers killed and stopped."""
        if self._site.daemon is None:
            self._site.start()
        parts = [gevent.spawn(self._change_titles), gevent.spawn(self._shake_workers)]
        if self._weather is not None:
            parts.append(gevent.spawn(self._have_weather, self._weather))
        gevent.joinall(parts, timeout=seconds, raise_error=True)
        gevent.killall(parts)
        self._clear_up()

    def _change_titles(self) -> None:
        """Greenlet."""
        while True:
            gevent.sleep(self._random.random() * 0.3)
            self._titles.change()

    def _have_weather(self, weather: Weather) -> None:
        """Greenlet."""
        while True:
            gevent.sleep(self._random.random() * 3.0)
            weather.blow()

    def _clear_up(self) -> None:
        if self._weather is not None:
            self._weather.clear()

    def _shake_workers(self) -> None:
        """Greenlet. The first of them is left alone, so that one lives long."""
        while True:
            gevent.sleep(5.0 + self._random.random() * 20.0)
            shaken = sorted(item for item in self._site.workers.items() if item[0] != "w1")
            if not shaken:
                continue
            _, pid = self._random.choice(shaken)
            with contextlib.suppress(ProcessLookupError):
                if self._random.random() < 0.5:
                    self.kills["worker"] += 1
                    os.kill(pid, signal.SIGKILL)
                else:
                    self.kills["stopped, not killed"] += 1
                    self._stop(pid)

    def _stop(self, pid: int) -> None:
        begun = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        try:
            gevent.sleep(self._random.random() * LONGEST_STOP)
        finally:
            os.kill(pid, signal.SIGCONT)
            # The second that it was stopped in ends a second later.
            self._stops.spans.append((pid, begun, time.monotonic() + 2.0))

    # -- what must hold

    def check(self, when: str) -> None:
        """Nobody watches for a moment: the account is true, and all that lies there is sound."""
        self._viewers.rest()
        self._site.await_orphans()
        for text in await_order(self._site.cache_dir, gevent.sleep):
            self.findings.add(f"{when}: {text}")
        self._audit(when)
        self._viewers.resume()

    def _audit(self, when: str) -> None:
        self._audits += 1
        for text in audit(self._site.cache_dir, self._titles):
            self.findings.add(f"{when}: {text}")

    def _audit_at_rest(self, when: str) -> None:
        """No process is there."""
        self._audit(when)
        used = sum(held(self._site.cache_dir).values())
        if used > self._source.limit:
            self.findings.add(f"{when}: {used} bytes in a cache of {self._source.limit}")

    def finish(self) -> None:
        """Fair weather: everything is served, all is given back, the daemon ends. Switches."""
        site = self._site
        self._viewers.rest()
        site.await_orphans()
        self._clear_up()
        self._titles.restore()
        gevent.sleep(1.0)  # longer than ``revalidate`` and ``negative_ttl``
        self._viewers.check_all()
        self.check("at the end")
        self._viewers.rest()
        self._at_rest(list(site.workers.values()))
        site.stop()
        self._audit_at_rest("after the end")

    def _at_rest(self, pids: list[int]) -> None:
        """What a worker that nobody asks still holds."""
        places = (self._source.path, *(self._site.cache_dir / n for n in ("partial", "trash")))
        deadline, left = time.monotonic() + 20.0, [""]
        while left and time.monotonic() < deadline:
            gevent.sleep(0.1)
            left = [target for pid in pids for target in open_below(pid, *places)]
        for target in left:
            self.findings.add(f"still open at rest: {target}")
        gevent.sleep(6.0)  # until each has counted its greenlets again
        counts = Hubs.read(self._site.reports, self._stops).greenlets
        most = max((counts.get(pid, 0) for pid in pids), default=0)
        self.report.most("greenlets of a worker at rest", most, MOST_GREENLETS)

    def _look_at_usage(self) -> None:
        """Greenlet: the limit holds at every moment."""
        while True:
            files = held(self._site.cache_dir)
            used = sum(files.values())
            self._highest = max(self._highest, used)
            if used > self._source.limit:
                others = {path: size for path, size in files.items() if "objects/" not in path}
                self.findings.add(
                    f"{used} bytes in a cache of {self._source.limit}, of them {others}"
                )
            gevent.sleep(0.05)

    def _look_at_processes(self) -> None:
        """Greenlet."""
        while True:
            self._watch.look(list(self._site.workers.values()), time.monotonic())
            gevent.sleep(1.0)

    def table(self, seconds: float) -> str:
        """Everything that was watched; what is not allowed becomes a finding."""
        report, seen, hubs = (
            self.report,
            self._viewers.seen,
            Hubs.read(self._site.reports, self._stops),
        )
        report.say("time", f"{seconds:.0f} s, {VIEWERS} viewers, {WORKERS} workers")
        for kind, count in sorted(self.kills.items()):
            report.say(f"SIGKILL: {kind}" if "stopped" not in kind else "SIGSTOP, SIGCONT", count)
        report.say("starts, audits", f"{self._site.starts}, {self._audits}")
        report.say("files replaced or taken away", self._titles.changes)
        if self._weather is None:
            report.least("steps that their reader wrote", hubs.copies, 1)
        else:
            report.say("faults of the source", _words(self._weather.seen))
        report.least("whole answers, every byte right", seen.whole, seconds)
        report.say("bytes verified", f"{seen.bytes / MiB:.0f} MiB")
        report.say("answers of the cache", _words(seen.statuses))
        report.say("outcomes", _words(seen.outcomes))
        report.most("cache on disk", self._highest / MiB, self._source.limit / MiB, " MiB", 1)
        report.most("descriptors of a worker", self._watch.most("descriptors"), MOST_DESCRIPTORS)
        report.most("threads of a worker", self._watch.most("threads"), MOST_THREADS)
        report.say("memory of a worker", f"{self._watch.most('memory') / MiB:.0f} MiB at most")
        growth = self._watch.growth(OLD)
        if growth is not None:
            old, bytes_ = growth
            what = f"growth of a worker that lived {old:.0f} s"
            report.most(what, bytes_ / MiB, MOST_GROWTH, " MiB", 1)
        report.most("gap of a hub", 1000 * hubs.gap, 1000 * MOST_GAP, " ms")
        report.say("... beside it, no core for at most", f"{1000 * hubs.starved:.0f} ms")
        report.most("findings", self.findings.count, 0)
        return report.markdown()


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{word} {count}" for word, count in counts.most_common()) or "none"
