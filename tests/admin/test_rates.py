"""How fast copies are."""

from __future__ import annotations

import pytest

from streamcache.admin.rates import Rates
from streamcache.stats import SessionStatistics


def copy(present: int, path: str = "a", resumed: int = 0) -> SessionStatistics:
    return SessionStatistics(path, "copying", 1000, present, 1, resumed)


def test_a_rate_is_the_average_of_the_last_seconds() -> None:
    rates = Rates()
    assert rates.of("a") == 0
    rates.look(100.0, [copy(0)])
    assert rates.of("a") == 0
    rates.look(101.0, [copy(50), copy(7, "b")])
    assert (rates.of("a"), rates.of("b")) == (50, 0)
    for second in range(102, 120):
        rates.look(second, [copy(50)])
    assert rates.of("a") == 0


def test_what_an_earlier_copy_left_is_no_rate() -> None:
    rates = Rates()
    rates.look(100.0, [copy(0)])  # its partial is not open yet
    rates.look(101.0, [copy(500, resumed=490)])
    assert rates.of("a") == 10


def test_what_is_over_is_forgotten_and_another_version_begins_anew() -> None:
    rates = Rates()
    rates.look(1.0, [copy(900)])
    rates.look(2.0, [copy(10)])
    assert rates.of("a") == 0
    rates.look(4.0, [copy(30)])
    assert rates.of("a") == pytest.approx(10)
    rates.look(5.0, [])
    rates.look(6.0, [copy(500)])
    assert rates.of("a") == 0
