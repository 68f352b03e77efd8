"""What the status says of several workers, whichever of them answers."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from streamcache.admin.answers import Question
from streamcache.admin.board import Board
from streamcache.admin.status import Status
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
