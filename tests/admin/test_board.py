"""The board: totals over processes, some of which died in the middle of a word."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Callable

import pytest

from streamcache.admin import board
from streamcache.admin.board import COUNTED, DISTRIBUTIONS, Board, Totals
from streamcache.cache.delegate import CacheStatus
from streamcache.stats import (
    STATUSES,
    STATUSES_OR_NONE,
    Counters,
    Responses,
    SessionStatistics,
    Statistics,
)

log = logging.getLogger(__name__)

COPY = SessionStatistics("/a", "copying", 10, 5, 1)


def in_child(run: Callable[[], object]) -> int:
    """Run this in a forked process; its exit code, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_it_has_a_place_for_everything_that_is_counted() -> None:
    assert tuple(status.value for status in CacheStatus) == STATUSES
    assert set(Counters().snapshot()) | {"source_openings", "disk_failures"} == {
        *("requests", "bytes", "responses"),
        *COUNTED,
        *DISTRIBUTIONS,
    }
    assert set(Counters().snapshot()) < {each.name for each in dataclasses.fields(Totals)}


def test_the_log_counts_stale_answers_as_hits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Totals(requests={"hit": 2, "stale": 3, "miss": 4}, bytes={"hit": 7}).say(log)
    assert caplog.messages == ["served requests=9 hits=5 bytes=7 from_source=0"]


def test_a_board_that_nobody_wrote_on_is_all_zeros() -> None:
    none = dict.fromkeys(STATUSES, 0)
    responses = dict.fromkeys(STATUSES_OR_NONE, Responses())
    assert Board(3).totals() == Totals(requests=none, bytes=none, responses=responses)


def test_totals_are_over_all_workers_and_seen_by_each() -> None:
    shared = Board(3)
    each = {name: number for number, name in enumerate(COUNTED, 1)}
    shown = Statistics(requests={"hit": 2, "miss": 1}, bytes={"hit": 2**40}, **each)

    def work(index: int) -> None:
        shared.slot(index).publish(dataclasses.replace(shown, sessions=(COPY,) * index), index)

    for index in range(3):
        assert in_child(lambda index=index: work(index)) == 0
    totals = shared.totals()
    assert totals.requests == {"hit": 6, "stale": 0, "collapsed": 0, "miss": 3, "bypass": 0}
    assert totals.bytes["hit"] == 3 * 2**40
    assert {name: getattr(totals, name) for name in COUNTED} == {
        name: 3 * number for name, number in each.items()
    }
    assert (totals.workers, totals.connections, totals.copies) == (3, 3, 3)
    assert in_child(lambda: os._exit(shared.totals() != totals)) == 0


def test_everything_that_counters_count_comes_out_where_it_belongs() -> None:
    counters = Counters()
    for number, cache in enumerate(STATUSES_OR_NONE, 1):
        for status in (200, 206, 304, 404, 503):
            counters.responded(
                cache, status, 10 * number, first_byte=0.02, seconds=4000.0, whole=status != 206
            )
    counters.responded("odd", 500, 0, first_byte=None, seconds=0.0, whole=True)
    counters.quick_hits, counters.quick_bytes, counters.quick_cuts = 5, 50, 1
    for histogram, seconds in (
        (counters.read_time, 0.3),
        (counters.delegated_wait, 0.007),
        (counters.evicted_age, 1e9),
    ):
        histogram.observe(seconds)
    shown = Statistics(**counters.snapshot())
    shared = Board(2)
    for index in range(2):
        shared.slot(index).publish(shown, 0)
    totals = shared.totals()
    miss = totals.responses["miss"]
    assert (miss.counts, miss.bytes, miss.cut) == ((4, 2, 2, 2), (160, 80, 80, 80), 2)
    assert miss.first_byte.counts[miss.first_byte.bounds.index(0.025)] == 10
    assert (miss.duration.count, miss.duration.seconds) == (10, 40_000.0)
    assert totals.responses["none"].counts == (4, 2, 2, 4)
    assert totals.responses["none"].first_byte.count == 10  # of one nothing had left
    hit = totals.responses["hit"]
    assert (hit.counts[0], hit.bytes[0], hit.cut) == (2 * (2 + 5), 2 * (20 + 50), 2 * (1 + 1))
    assert hit.first_byte.counts[0] == 2 * (5 - 1)
    assert hit.duration.counts[0] == 2 * 5
    assert (totals.requests["hit"], totals.bytes["hit"]) == (10, 100)
    assert totals.bytes_from_cache == 100
    assert totals.read_time.counts[totals.read_time.bounds.index(0.5)] == 2
    assert totals.delegated_wait.counts[1] == 2
    assert totals.evicted_age.counts[-1] == 2
    assert totals.evicted_age.seconds == 2e9


def test_a_successor_goes_on_with_the_counts_and_not_with_the_gauges() -> None:
    shared = Board(2)
    shared.slot(1).publish(Statistics(requests={"hit": 5}, sessions=(COPY,)), 7)
    shared.slot(1).vacate()
    totals = shared.totals()
    assert totals.requests["hit"] == 5
    assert (totals.workers, totals.connections, totals.copies) == (0, 0, 0)
    successor = shared.slot(1)
    for hits in (1, 2):
        successor.publish(Statistics(requests={"hit": hits}), 1)
        totals = shared.totals()
        assert (totals.requests["hit"], totals.workers, totals.connections) == (5 + hits, 1, 1)


class _Dying:
    """Memory that kills the process at the n-th word that is written."""

    def __init__(self, words: memoryview, writes: int) -> None:
        self._words, self._left = words, writes

    def __getitem__(self, key: int | slice) -> object:
        return self._words[key]

    def __setitem__(self, key: int, value: int) -> None:
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        self._words[key] = value


def test_a_worker_killed_at_any_word_leaves_the_old_or_the_new_numbers() -> None:
    old, new = (
        Statistics(requests={"hit": 1, "bypass": 1}),
        Statistics(requests={"hit": 9, "bypass": 9}),
    )
    numbers = board._NUMBERS
    for writes in (*range(0, numbers, 11), numbers - 1, numbers, numbers + 1):
        shared = Board(1)
        shared.slot(0).publish(old, 1)

        def work(shared: Board = shared, writes: int = writes) -> None:
            slot = shared.slot(0)
            slot._before = [0] * len(slot._before)
            slot._words = _Dying(slot._words, writes)
            slot.publish(new, 1)

        died = writes <= numbers
        assert in_child(work) == (-signal.SIGKILL if died else 0)
        found = shared.totals().requests
        wanted = 1 if died else 9
        assert (found["hit"], found["bypass"]) == (wanted, wanted)
        shared.slot(0).vacate()
        assert shared.totals().requests["hit"] == wanted


def test_what_is_read_while_it_is_written_is_of_one_moment() -> None:
    shared = Board(1)

    def write() -> None:
        slot = shared.slot(0)
        for number in range(4_000):
            slot.publish(Statistics(requests={"hit": number}, evictions=number), number)

    pid = os.fork()
    if pid == 0:
        try:
            write()
        finally:
            os._exit(0)
    seen = -1
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        totals = shared.totals()
        assert totals.requests["hit"] == totals.evictions == totals.connections >= seen
        seen = totals.evictions
    assert shared.totals().evictions == 3_999
