"""What is watched, and when it is a finding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gevent

from tests.daemon_process import REPOSITORY
from tests.soak import inside
from tests.soak.findings import Findings
from tests.soak.processes import Hubs, MiB, Sample, Stops, Watch, open_below
from tests.soak.report import Report
from tests.system.site import eventually


def test_what_is_above_its_limit_is_a_finding() -> None:
    findings = Findings()
    report = Report(findings)
    report.say("a|b", 3)
    report.most("threads", 4, 4)
    report.least("answers", 9, 9)
    assert not findings
    report.most("gap", 1.26, 1.2, " ms", 1)
    report.least("answers", 8, 9)
    assert findings.found == [
        "gap: 1.3 ms, allowed is at most 1.2 ms",
        "answers: 8, allowed is at least 9",
    ]
    assert report.markdown().splitlines()[-2:] == [
        "| gap | **1.3 ms** | at most 1.2 ms |",
        "| answers | **8** | at least 9 |",
    ]
    assert "| a/b | 3 |  |" in report.markdown()


def test_a_process_is_sampled_with_what_it_has_open(tmp_path: Path) -> None:
    watch = Watch()
    with open(tmp_path / "file", "w"):
        watch.look([os.getpid(), 2**22 + 1], 1.0)
        assert open_below(os.getpid(), tmp_path) == [str(tmp_path / "file")]
    assert open_below(os.getpid(), tmp_path) == []
    assert [pid for pid, _ in watch.samples] == [os.getpid()]
    assert watch.most("threads") >= 1
    assert watch.most("descriptors") >= 4
    assert watch.most("memory") > 8 * MiB


def test_growth_is_that_of_the_longest_life_after_its_youth() -> None:
    watch = Watch()
    for at in range(100):  # it takes 50 MiB at its start, and then one a second
        young = Sample(at, 7, 1, 1, 50 * MiB)
        watch.samples[1, 6].append(Sample(at, 6, 1, 1, min(at, 10) * 5 * MiB + at * MiB))
        watch.samples[1, 7] += [young] if at < 50 else []
    assert watch.growth(200) is None
    life, grown = watch.growth(60) or (0, 0)
    assert life == 99
    assert 35 * MiB < grown < 45 * MiB


def test_a_hub_that_is_taken_up_is_seen_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    pid = os.getpid()
    greenlet = gevent.spawn(inside.watch, str(tmp_path / str(pid)))
    try:
        begun = time.monotonic()
        gevent.sleep(0.05)
        time.sleep(0.3)  # in the hub
        while Hubs.read(tmp_path, Stops()).lines < 1:
            gevent.sleep(0.05)
        hubs = Hubs.read(tmp_path, Stops())
        assert 0.2 < hubs.gap < 1.0
        assert hubs.greenlets[pid] >= 1
        stops = Stops([(pid, begun, time.monotonic())])
        assert Hubs.read(tmp_path, stops).gap == 0.0
    finally:
        greenlet.kill()


def test_waiting_for_a_core_is_no_gap(tmp_path: Path) -> None:
    """A few busy processes on the core of a nice one."""
    script = (
        "import os, sys\nfrom tests.soak.inside import watch\n"
        "os.nice(19); os.sched_setaffinity(0, {int(sys.argv[2])})\nwatch(sys.argv[1])\n"
    )
    busy = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    core, path = str(min(os.sched_getaffinity(0))), tmp_path / "1"
    processes = []

    def start(*command: str) -> None:
        processes.append(subprocess.Popen([sys.executable, "-c", *command], cwd=REPOSITORY))

    try:
        start(script, str(path), core)
        eventually(path.exists, wait=60.0)
        for _ in range(4):
            start(busy, core)
        eventually(lambda: starved(path), wait=60.0)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for line in map(json.loads, starved(path)):
        assert line["gap"] < line["starved"]


def starved(path: Path) -> list[str]:
    """The lines about seconds in which it waited for long."""
    lines = path.read_text().splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and json.loads(line)["starved"] > 0.05]


def test_half_a_line_of_a_killed_worker_is_left_out(tmp_path: Path) -> None:
    line = {"begun": 0.0, "ended": 1.0, "gap": 0.5, "starved": 0.1, "greenlets": -1, "copies": 8}
    text = json.dumps(line)
    (tmp_path / "7").write_text(f"{text}\n{text[:20]}")
    assert Hubs.read(tmp_path, Stops()) == Hubs(0.5, 0.1, 1, {}, copies=8)
