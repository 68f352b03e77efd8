"""A probe that never returns takes a thread, and not the next probe's."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import gevent
import pytest

from streamcache.cache.probepool import MOST, ProbePool
from tests.server.client import eventually

SHORT = 0.02  # s
LONG = 20.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def pool(gate: threading.Event) -> Iterator[ProbePool]:
    made = ProbePool("probe")
    yield made
    gate.set()
    made.close()
    assert made.join(LONG)


def give_up(pool: ProbePool, gate: threading.Event) -> None:
    """One more that hangs, although it had its time."""
    hanging = pool.stuck(SHORT)
    with pytest.raises(TimeoutError):
        pool.run(gate.wait, timeout=SHORT)
    eventually(lambda: pool.stuck(SHORT) == hanging + 1)


def test_a_probe_that_hangs_holds_up_no_later_one(pool: ProbePool, gate: threading.Event) -> None:
    def answers() -> bool:
        try:
            return pool.run(lambda: "well", timeout=SHORT) == "well"
        except TimeoutError:  # a busy machine
            return False

    give_up(pool, gate)
    eventually(answers)
    assert pool.pending == 1


def test_while_a_probe_may_be_answered_there_is_no_other(
    pool: ProbePool, gate: threading.Event
) -> None:
    first = gevent.spawn(pool.run, gate.wait, timeout=LONG)
    eventually(lambda: pool.pending == 1)
    asked: list[int] = []
    with pytest.raises(TimeoutError, match="under way"):
        pool.run(lambda: asked.append(1), timeout=LONG)
    gate.set()
    assert first.get(timeout=LONG)
    pool.run(lambda: asked.append(2), timeout=LONG)
    assert asked == [2] and pool.threads == 1


def test_there_are_few_threads_and_one_that_comes_back_is_used_again(
    pool: ProbePool, gate: threading.Event
) -> None:
    for _ in range(MOST):
        give_up(pool, gate)
    with pytest.raises(TimeoutError, match="hang"):
        pool.run(lambda: "well", timeout=SHORT)
    assert pool.pending == pool.threads == MOST
    gate.set()
    eventually(lambda: not pool.pending)
    assert pool.run(lambda: "well", timeout=LONG) == "well"
    assert pool.threads == MOST


def test_what_comes_when_it_was_given_up_is_discarded(
    pool: ProbePool, gate: threading.Event
) -> None:
    discarded: list[bool] = []
    with pytest.raises(TimeoutError):
        pool.run(gate.wait, timeout=SHORT, discard=discarded.append)
    gate.set()
    eventually(lambda: discarded == [True])
