"""The line between processes: whole messages, and the end."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from streamcache.daemon.line import Line


@pytest.fixture
def pair() -> Iterator[tuple[Line, Line]]:
    ours, theirs = Line.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_come_whole_and_in_order(pair: tuple[Line, Line]) -> None:
    ours, theirs = pair
    path = os.fsdecode(b"/caf\xe9\n")
    assert ours.tell(order="reload", path=path)
    assert ours.tell(order="drain", many="x" * 50_000)
    assert theirs.hear() == [
        {"order": "reload", "path": path},
        {"order": "drain", "many": "x" * 50_000},
    ]
    assert theirs.hear() == []
    assert not theirs.ended


def test_the_last_words_of_the_dead_are_heard_before_the_end(pair: tuple[Line, Line]) -> None:
    ours, theirs = pair
    theirs.tell(error="no disk", code=1)
    theirs.close()
    assert select.select([ours], [], [], 5)[0] == [ours]
    assert ours.hear() == [{"error": "no disk", "code": 1}]
    assert ours.ended
    assert not ours.tell(order="drain")


def test_who_does_not_listen_holds_nobody_up(pair: tuple[Line, Line]) -> None:
    ours, theirs = pair
    told = 0
    while ours.tell(order="x" * 10_000):
        told += 1
        assert told < 1000
    assert [len(message["order"]) for message in theirs.hear()] == [10_000] * told
