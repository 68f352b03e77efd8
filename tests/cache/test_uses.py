"""What counts as a use: a client that comes back soon is counted once."""

from __future__ import annotations

import pytest

from streamcache.cache import uses as uses_module
from streamcache.cache.uses import Uses


def test_a_client_counts_once_within_the_time() -> None:
    uses = Uses(600)
    assert uses.counts("a", "film", 1000.0)
    assert not any(uses.counts("a", "film", 1000.0 + second) for second in range(600))
    assert uses.counts("a", "film", 1600.0), "from the last that counted, not from the last"
    assert not uses.counts("a", "film", 2199.9)


def test_others_and_other_files_count_by_themselves() -> None:
    uses = Uses(600)
    pairs = [("a", "film"), ("b", "film"), ("a", "book"), ("a", 1), ("a", 2)]
    assert all(uses.counts(*pair, 0.0) for pair in pairs)
    assert not any(uses.counts(*pair, 1.0) for pair in pairs)


def test_another_time_counts_at_once() -> None:
    uses = Uses(600)
    uses.counts("a", "film", 0.0)
    uses.interval = 10
    assert uses.counts("a", "film", 10.0)
    uses.interval = 0
    assert uses.counts("a", "film", 10.0), "each one"


def test_the_oldest_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses_module, "_REMEMBERED", 100)
    uses = Uses(600)
    assert all(uses.counts(f"{number}", "film", float(number)) for number in range(100))
    assert not uses.counts("0", "film", 100.0)
    assert uses.counts("100", "film", 100.0), "a tenth goes for it"
    assert repr(uses) == "<Uses interval=600 remembered=91>"
    assert not uses.counts("10", "film", 101.0)
    assert uses.counts("9", "film", 101.0)


def test_who_came_back_is_not_among_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses_module, "_REMEMBERED", 10)
    uses = Uses(5)
    for number in range(9):
        uses.counts(f"{number}", "film", 0.0)
    assert uses.counts("0", "film", 5.0)
    uses.counts("9", "film", 5.0)
    uses.counts("10", "film", 5.0)
    assert not uses.counts("0", "film", 6.0)
