"""What the status says of several workers, whichever of them answers."""

from __future__ import annotations

import json
import time
import types
from typing import Any, NamedTuple

import pytest

from streamcache.admin import status as status_module
from streamcache.admin.answers import Question
from streamcache.admin.board import Board
from streamcache.admin.publishing import latest
from streamcache.admin.status import LATE, Status, state_of
from streamcache.admin.subject import Subject
from streamcache.config import Config
from streamcache.stats import Statistics

WELL = Statistics()
FAILING = Statistics(disk_normal=False, disk_reason="EIO", disk_stuck=1)


class Cache(NamedTuple):
    told: Statistics
    config: Config = Config()
    operations: Any = None

    def statistics(self) -> Statistics:
        return self.told


class Server(NamedTuple):
    url: str = "http://127.0.0.1:1/"
    connections: int = 0


def disk(name: str, now: Statistics, *published: Statistics) -> dict[str, Any]:
    """What this worker answers, of which that is true now, when those stand on the board."""
    board = Board(len(published))
    for index, each in enumerate(published):
        board.slot(index).publish(each, 0)
    subject = Subject(
        name=name,
        cache=Cache(now),
        server=Server(),
        board=board,
        publishing=None,
        peers=None,
        draining_since=lambda: None,
        drain=lambda: None,
    )
    answer = Status(subject).status(Question("GET", "/api/status"))
    found: dict[str, Any] = json.loads(answer.body)["cache"]["disk"]
    return found


@pytest.mark.parametrize(
    ("name", "now", "published", "failing", "reason"),
    [
        ("w1", WELL, (WELL, WELL), [], ""),
        ("w1", WELL, (WELL, FAILING), ["w2"], ""),
        ("w2", FAILING, (WELL, FAILING), ["w2"], "EIO"),
        ("w1", FAILING, (FAILING, FAILING), ["w1", "w2"], "EIO"),
        ("w1", FAILING, (WELL, WELL), [], ""),  # since it wrote to the board
        ("w1", WELL, (FAILING, WELL), ["w1"], ""),
    ],
)
def test_who_writes_nothing_new_to_the_disk_is_named_and_all_of_it_fits_together(
    name: str,
    now: Statistics,
    published: tuple[Statistics, ...],
    failing: list[str],
    reason: str,
) -> None:
    assert disk(name, now, *published) == {
        "normal": not failing,
        "failing": failing,
        "reason": reason,
        "stuck": sum(each.disk_stuck for each in published),
    }


@pytest.mark.parametrize("step", [86_400.0, LATE + 1, -LATE - 1, -86_400.0])
def test_a_clock_that_steps_makes_no_worker_hang(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    board, real = Board(2), time.time
    board.slot(0).publish(Statistics(usage=1), 0)
    monkeypatch.setattr(time, "time", lambda: real() + step)
    before, dead = board.workers()
    assert abs(before.seen - real()) < 60
    assert state_of(before, draining=False) == "running"
    assert state_of(dead, draining=False) == "dead"
    board.slot(1).publish(Statistics(usage=2), 0)
    assert latest(board.workers()).usage == 2


def test_a_worker_that_wrote_long_ago_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    board, now = Board(1), time.monotonic()
    board.slot(0).publish(WELL, 0)
    found = []
    for passed in (LATE - 1, LATE + 60):
        clock = types.SimpleNamespace(monotonic=lambda passed=passed: now + passed)
        monkeypatch.setattr(status_module, "time", clock)
        found.append(state_of(board.workers()[0], draining=False))
    assert found == ["running", "hanging"]
