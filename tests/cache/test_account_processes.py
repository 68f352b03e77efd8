"""The account of one cache directory, shared by real processes that die at any moment (I13)."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cache.account_process import Process
from tests.cache.accounts import check, checked

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(limit=...)``: one more process; the first one makes the catalog."""
    running: list[Process] = []

    def process(**options: object) -> Process:
        made = Process(tmp_path, alone=not running, **options)
        running.append(made)
        assert made.ask("ready")
        return made

    yield process
    for one in running:
        one.close()


@pytest.fixture
def observer(tmp_path: Path, start: Start) -> Iterator[Callable[[int], dict[str, int]]]:
    """``observe(limit)``: one look at the rows; their sums are the totals, and within the limit."""
    connections: list[sqlite3.Connection] = []

    def observe(limit: int) -> dict[str, int]:
        if not connections:
            path = os.path.realpath(tmp_path / "catalog.sqlite")
            connections.append(sqlite3.connect(path, isolation_level=None, timeout=5))
        totals = check(connections[0])
        assert totals["objects"] + totals["reserved"] + totals["trash"] <= limit
        return totals

    yield observe
    for connection in connections:
        connection.close()


def test_no_draw_is_lost(start: Start, tmp_path: Path) -> None:
    processes = [start(limit=1 << 41) for _ in range(3)]
    before = checked(tmp_path)["generation"]
    for seed, process in enumerate(processes):
        process.tell("grow", [1, 2, 3], 200, seed)
    drawn = [process.answer() for process in processes]
    totals = checked(tmp_path)
    assert drawn == [200, 200, 200]
    assert totals["reserved"] == 600
    assert totals["generation"] - before == 600, "each draw has a generation of its own"


def test_the_limit_holds_while_processes_fill_it_and_are_killed(
    start: Start, observer: Callable[[int], dict[str, int]], tmp_path: Path
) -> None:
    limit = 100_000
    rng = random.Random(7)
    processes = {tribe: start(limit=limit) for tribe in range(4)}
    for tribe, process in processes.items():
        process.ask("hammer", tribe)
    highest, objects, looks = 0, 0, 0
    for tribe in range(4, 10):
        end = time.monotonic() + rng.uniform(0.2, 0.5)
        while time.monotonic() < end:
            totals = observer(limit)
            highest = max(highest, totals["objects"] + totals["reserved"] + totals["trash"])
            objects = max(objects, totals["objects"])
            looks += 1
        doomed = rng.choice(list(processes))
        processes.pop(doomed).signal(signal.SIGKILL)
        observer(limit)
        processes[tribe] = start(limit=limit)
        processes[tribe].ask("sweep", doomed)
        processes[tribe].ask("hammer", tribe)
    for process in processes.values():
        process.ask("end")
    observer(limit)
    assert objects > 0
    assert highest > limit * 0.8, "it was full"
    assert looks > 50


def test_a_late_settle_does_not_take_what_another_process_drew(start: Start) -> None:
    one, other = start(), start()
    amount, whole, first = one.ask("draw", 1, 300, 900, 1.0)
    assert (amount, whole) == (300, False)
    _, _, second = other.ask("draw", 1, 300, 900, 1.0)
    one.ask("settle", 1, first, 0)
    assert one.ask("totals") == [0, 600, 0]
    assert one.ask("generation", 1) == second
    other.ask("settle", 1, second, 0)
    assert one.ask("totals") == [0, 0, 0]


def test_a_killed_process_leaves_its_reservation_to_whoever_sweeps(start: Start) -> None:
    one, other = start(), start()
    _, _, generation = one.ask("draw", 1, 300, 900, 1.0)
    one.signal(signal.SIGKILL)
    assert other.ask("totals") == [0, 300, 0]
    assert other.ask("generation", 1) == generation
    other.ask("settle", 1, generation, 100)
    assert other.ask("totals") == [0, 100, 0]


def test_who_waits_finds_the_room_that_another_makes(start: Start) -> None:
    one, other = start(), start(evictor=True)
    for number in range(20):
        one.ask("put", number, 45)
    for process in (one, other):
        process.tell("draw", 100 if process is one else 101, 400, 400, 10.0)
    assert [one.answer()[0], other.answer()[0]] == [400, 400]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_when_the_evicting_process_dies_another_takes_over(
    start: Start, end: signal.Signals
) -> None:
    other = start(evictor=False)
    for number in range(20):
        other.ask("put", number, 45)
    doomed, heir = start(hang="eviction"), start()
    doomed.tell("draw", 100, 500, 500, 30.0)
    assert doomed.answer() == "evicting"
    if end is signal.SIGSTOP:
        doomed.signal(signal.SIGSTOP)
        refusal = heir.ask("draw", 101, 500, 500, 0.5)
        assert "no room within 0.5 s" in refusal, "it has the lock: bypass"
    heir.tell("draw", 101, 500, 500, 60.0)
    doomed.signal(signal.SIGKILL)
    died = time.monotonic()
    assert heir.answer()[0] == 500
    assert time.monotonic() - died < 10.0  # soon, and not when it gives up
    assert heir.ask("counts")[1] > 0


def damage(path: Path) -> None:
    """Overwrite every page but the first: what is open finds it at the next look."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(os.urandom(size - 4096))


@pytest.mark.parametrize("loss", ["deleted", "damaged"])
def test_a_catalog_that_is_lost_under_processes_comes_back_in_all_of_them(
    start: Start, tmp_path: Path, loss: str
) -> None:
    processes = [start() for _ in range(3)]
    old = os.path.realpath(tmp_path / "catalog.sqlite")
    drawn = [process.ask("draw", number, 100, 300, 1.0) for number, process in enumerate(processes)]
    if loss == "deleted":
        (tmp_path / "catalog.sqlite").unlink()
    else:
        damage(Path(old))
    deadline = time.monotonic() + 20
    while True:
        assert time.monotonic() < deadline
        found = [process.ask("draw", 10 + n, 10, 10, 1.0) for n, process in enumerate(processes)]
        if not any(isinstance(one, str) for one in found):
            break
        time.sleep(0.05)
    assert os.path.realpath(tmp_path / "catalog.sqlite") != old
    # What they drew from the old one still counts, though no partial was on the disk.
    assert [process.ask("totals") for process in processes] == [[0, 330, 0]] * 3
    # What they know of the old one settles nothing here; the sweep will.
    processes[0].ask("settle", 0, drawn[0][2], 0)
    assert processes[1].ask("totals") == [0, 330, 0]
    processes[1].ask("settle", 0, processes[1].ask("generation", 0), 0)
    assert processes[2].ask("totals") == [0, 230, 0]
    assert checked(tmp_path)["reserved"] == 230
    assert sum(process.ask("rebuilds") for process in processes) in (1, 2)  # the first start's


def test_when_the_rebuilding_process_dies_another_takes_over(start: Start, tmp_path: Path) -> None:
    one = start()
    one.ask("put", 1, 100)
    one.signal(signal.SIGKILL)
    doomed = start(hang="rebuild", evictor=False)
    (tmp_path / "catalog.sqlite").unlink()
    assert doomed.answer() == "rebuilding"
    heir = Process(tmp_path, alone=False)
    try:
        refusal = heir.ask("draw", 1, 100, 100, 1.0)
        assert "usage is not known" in refusal
        doomed.signal(signal.SIGKILL)
        assert heir.ask("ready")
        assert heir.ask("draw", 1, 100, 100, 1.0)[0] == 100
    finally:
        heir.close()
    assert checked(tmp_path)["complete"] == 1
