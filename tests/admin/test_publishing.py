"""What a worker writes to the board, and what comes of it: the hub's lag, the last minutes."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest

from streamcache.admin import publishing
from streamcache.admin.board import Board
from streamcache.admin.publishing import Publishing
from streamcache.stats import SessionStatistics, Statistics


class Counting:
    """A cache and a server."""

    url = "http://127.0.0.1:1/"
    connections = 3

    def __init__(self) -> None:
        self.broken = False
        self.looks = 0

    def statistics(self) -> Statistics:
        if self.broken:
            raise OSError("no")
        self.looks += 1
        copy = SessionStatistics("a", "copying", 10**9, self.looks * 1000, 1)
        return Statistics(
            requests={"hit": self.looks - 1, "stale": 1}, bytes={"hit": 10}, sessions=(copy,)
        )


def published(board: Board, counting: Any) -> Publishing:
    return Publishing(board.slot(0), counting, counting)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "EVERY", 0.02)
    monkeypatch.setattr(publishing, "LOOK", 0.01)


def wait_for(condition: Any) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.01)


def test_counts_are_written_again_and_again_and_at_the_end() -> None:
    board, counting = Board(1), Counting()
    publishing_ = published(board, counting)
    with publishing_.running():
        assert board.totals().connections == 3  # at once
        wait_for(lambda: board.totals().requests["hit"] > 2)
        assert publishing_.rates.of("a") > 0
        counting.looks = 100
    assert board.totals().requests["hit"] == 100
    samples = publishing_.history
    assert [each.hits for each in samples] == sorted(each.hits for each in samples)
    assert samples[-1].hits == 101


def test_a_hub_that_was_held_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(1)
    with published(board, Counting()).running():
        wait_for(lambda: board.totals().hub_lag.count > 3)
        time.sleep(0.4)  # what must never be done
        gevent.sleep(0)
        wait_for(lambda: sum(board.totals().hub_lag.counts[7:]) > 0)  # above 0.25 s
    late = board.totals().hub_lag
    assert late.bounds[6] == 0.25
    assert late.seconds > 0.25


def test_what_cannot_be_counted_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    board, counting = Board(1), Counting()
    with published(board, counting).running():
        counting.broken = True
        wait_for(lambda: "counts are not published" in caplog.text)
        counting.broken = False
        before = board.totals().requests["hit"]
        wait_for(lambda: board.totals().requests["hit"] > before)
