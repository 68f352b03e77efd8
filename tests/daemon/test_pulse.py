"""A hub that hangs is noticed, and what follows from that."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from streamcache.admin.board import Board
from streamcache.daemon import pulse
from streamcache.daemon.place import Place
from streamcache.daemon.pulse import Pulse
from streamcache.stats import Statistics
from tests.daemon.manager import Manager
from tests.daemon.running import Running

Start = Callable[..., Running]


class Clock:
    """Stands for ``monotonic``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(pulse, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Workers:
    """Two that write on a board."""

    def __init__(self) -> None:
        self.board = Board(2)
        self.places = [Place(0, pid=1001, accepts=True), Place(1, pid=1002, accepts=True)]
        self.slots = [self.board.slot(index) for index in range(2)]

    def beat(self, *indexes: int) -> None:
        for index in indexes:
            self.slots[index].publish(Statistics(), 0)


def hung(watch: Pulse, clock: Clock, workers: Workers, seconds: int, *beating: int) -> list[str]:
    """Who hung in this time, looked at each second."""
    found: list[str] = []
    for _ in range(seconds):
        clock.now += 1
        workers.beat(*beating)
        found = [place.name for place in watch.look(60.0)]
    return found


def test_who_writes_is_well(clock: Clock) -> None:
    workers = Workers()
    watch = Pulse(workers.board, workers.places)
    assert hung(watch, clock, workers, 200, 0, 1) == []
    assert watch.is_well


def test_who_does_not_is_said_then_reported(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    workers = Workers()
    watch = Pulse(workers.board, workers.places)
    hung(watch, clock, workers, 3, 0, 1)
    with caplog.at_level(logging.WARNING):
        assert hung(watch, clock, workers, 9, 0) == []
        assert watch.is_well
        assert hung(watch, clock, workers, 2, 0) == []
        assert not watch.is_well
        assert caplog.messages == ["hub hangs worker=w2 pid=1002 silent=10"]
        assert hung(watch, clock, workers, 50, 0) == ["w2"]
        assert len(caplog.messages) == 1
        assert hung(watch, clock, workers, 1, 0, 1) == []
    assert watch.is_well
    assert caplog.messages[1:] == ["hub turns again worker=w2 pid=1002"]


def test_one_that_starts_has_time(clock: Clock) -> None:
    workers = Workers()
    workers.places[1].accepts = False
    watch = Pulse(workers.board, workers.places)
    assert hung(watch, clock, workers, 200, 0) == []
    assert watch.is_well


def test_when_all_were_stopped_nobody_is_to_blame(clock: Clock) -> None:
    """SIGSTOP, a frozen control group: the supervisor had no time to look."""
    workers = Workers()
    watch = Pulse(workers.board, workers.places)
    hung(watch, clock, workers, 3, 0, 1)
    clock.now += 1000
    assert watch.look(60.0) == []
    assert watch.is_well
    assert hung(watch, clock, workers, 61, 0) == ["w2"]


def test_a_worker_whose_hub_hangs_is_killed_and_has_a_successor(
    start: Start, tmp_path: Path
) -> None:
    daemon = start(
        fake="hung-hub@w1",
        FAKE_GATE=str(tmp_path / "gate"),
        workers=2,
        STREAMCACHE_SERVER_WORKER_TIMEOUT="3s",
        TEMPO_SILENT="2",
        TEMPO_DELAY="0.01",
    )
    daemon.ready_line()
    daemon.signal(signal.SIGUSR1)
    daemon.wait_for("hub hangs worker=w1")
    daemon.wait_for("killed worker=w1")
    daemon.wait_for("died worker=w1")
    daemon.wait_for_next("started worker=w1")
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_the_watchdog_is_fed_while_all_hubs_turn_and_only_then(
    start: Start, tmp_path: Path, workers: int
) -> None:
    gate = tmp_path / "gate"
    with Manager(tmp_path) as manager:
        daemon = start(
            fake="hung-hub",
            workers=workers,
            FAKE_GATE=str(gate),
            TEMPO_SILENT="2",
            WATCHDOG_USEC="600000",
            **manager.environment,
        )
        for _ in range(3):
            manager.until("WATCHDOG")
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for("hub hangs worker=w" if workers > 1 else "fake: server.reopen_logs")
        assert manager.is_silent(1.0)
        gate.touch()
        manager.until("WATCHDOG")  # the hubs turn again
        daemon.signal(signal.SIGTERM)
        assert daemon.end()[0] == 0
