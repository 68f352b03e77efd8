"""Files that compete get equal shares, whoever came first."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streamcache.source.turns import Turns


def test_the_one_that_got_least_is_next() -> None:
    turns: Turns[str] = Turns()
    turns.give("a", 100)
    turns.add("a", "a1")
    turns.add("b", "b1")
    assert turns.first == 0
    assert turns.pop() == "b1"
    turns.give("b", 300)
    turns.add("b", "b2")
    assert [turns.pop(), turns.pop()] == ["a1", "b2"]


def test_of_one_file_the_longest_wait_is_first() -> None:
    turns: Turns[int] = Turns()
    for number in range(5):
        turns.add("a", number)
    assert [turns.pop() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_who_comes_later_catches_up_on_nothing() -> None:
    turns: Turns[str] = Turns()
    for _ in range(10):
        turns.add("old", "old")
        turns.pop()
        turns.give("old", 1000)
    served = Counter[str]()
    for name in ("old", "new"):
        turns.add(name, name)
    for _ in range(20):
        name = turns.pop()
        served[name] += 1
        turns.give(name, 1000)
        turns.add(name, name)
    assert abs(served["old"] - served["new"]) <= 1


def test_when_cleared_all_are_equal() -> None:
    turns: Turns[str] = Turns()
    turns.give("a", 1 << 30)
    turns.clear()
    turns.add("a", "a")
    turns.add("b", "b")
    assert [turns.pop(), turns.pop()] == ["a", "b"]


def test_files_that_were_read_long_ago_are_forgotten() -> None:
    turns: Turns[int] = Turns()
    for file in range(10_000):
        for each in (-1, file):  # one always competes
            turns.add(each, each)
            turns.give(turns.pop(), 1000)
    assert len(turns._shares) < 3000


@given(lengths=st.lists(st.integers(1, 1000), min_size=2, max_size=12))
def test_shares_in_bytes_differ_by_no_more_than_one_step(lengths: list[int]) -> None:
    """Each file always waits, with steps of its own size."""
    turns: Turns[int] = Turns()
    given_to = Counter[int]()
    for file in range(len(lengths)):
        turns.add(file, file)
    for _ in range(300):
        file = turns.pop()
        turns.give(file, lengths[file])
        given_to[file] += lengths[file]
        turns.add(file, file)
        shares = [given_to[each] for each in range(len(lengths))]
        assert max(shares) - min(shares) <= 2 * max(lengths)
