"""A rate that several copies share."""

from __future__ import annotations

import time

import gevent
import pytest

from streamcache.cache.pace import Pace
from tests.system.site import eventually


def test_without_a_rate_all_may_be_read_at_once() -> None:
    assert all(Pace(0).allows(pytest.fail) for _ in range(100))


def test_over_time_no_more_is_allowed_than_the_rate() -> None:
    pace, taken, turns = Pace(1_000_000), 0, []
    begun = time.monotonic()
    while time.monotonic() < begun + 0.5:
        if pace.allows(lambda: turns.append(1)):
            pace.charge(10_000)
            taken += 10_000
        else:
            before = len(turns)
            eventually(lambda before=before: len(turns) > before)
    lasted = time.monotonic() - begun
    assert taken <= 1_000_000 * (lasted + 0.1) + 10_000
    assert taken >= 100_000  # and it goes on
    pace.close()


def test_each_that_was_held_back_is_told_once() -> None:
    told: list[str] = []

    def first() -> None:
        told.append("first")

    def second() -> None:
        told.append("second")

    pace = Pace(1000)
    assert pace.allows(first)
    pace.charge(150)
    assert not any([pace.allows(first), pace.allows(second), pace.allows(first)])
    eventually(lambda: told)
    assert told == ["first", "second"]
    pace.close()


def test_what_is_closed_holds_nobody_back() -> None:
    told: list[int] = []
    pace = Pace(1)
    pace.charge(100)
    assert not pace.allows(lambda: told.append(1))
    pace.close()
    assert told == [1]
    assert pace.allows(pytest.fail)
    gevent.sleep(0)


def test_what_is_not_read_after_all_is_given_back() -> None:
    pace = Pace(1000)
    pace.charge(100_000)
    pace.charge(-100_000)
    assert pace.allows(pytest.fail)
    pace.close()
