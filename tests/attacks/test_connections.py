"""Clients that hold connections, or let go of them at the wrong moment."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from tests.attacks.conftest import Battle, wait_until
from tests.certificates import Pair

Begin = Callable[..., Battle]

KiB, MiB = 1024, 1024 * 1024
SLACK = 6 * MiB  # of memory, whatever the attack: caches that fill once, the allocator
FEW = 20  # lines that are none of the access log: a few kinds of events, ten clients each


def test_ten_thousand_connections_that_say_nothing(battle: Begin) -> None:
    """As many as this machine lets a process have, if that is less."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = min(10_000, most - 500)
    print(f"silent connections: {count}")
    here = battle(connections=str(count + 200), keepalive_timeout="5m")
    with here.attack("silent", count):
        wait_until(lambda: here.descriptors >= here.before[1] + count, "all are accepted")
        assert here.descriptors <= here.before[1] + count + 10
        assert here.memory_grown() < count * 2 * KiB + SLACK
        here.assert_others_are_served()
        assert here.lines()[1] < FEW
    here.assert_nothing_is_left()


def test_silent_connections_are_closed_in_time_and_said_once(battle: Begin) -> None:
    here = battle(keepalive_timeout="1s")
    line = "closed, as it asked for nothing client=127.0.0.1"
    with here.attack("silent", 1000):  # connected, which the kernel does; not all are accepted yet
        wait_until(lambda: line in here.daemon.log, "the first are closed")
        here.assert_others_are_served()
        here.assert_nothing_is_left()  # though the attacker holds on
    assert here.daemon.log.count(line) == 1
    assert here.lines()[1] < FEW


def test_heads_that_do_not_end(battle: Begin) -> None:
    here = battle(head_timeout="1500ms")
    with here.attack("slow_heads", 1000):
        assert here.memory_grown() < 1000 * 8 * KiB + SLACK
        here.assert_others_are_served()
        here.assert_nothing_is_left()
    assert here.daemon.log.count('" 408 ') <= 1000  # one for each
    assert here.lines()[1] < FEW


def test_bodies_that_do_not_end(battle: Begin) -> None:
    here = battle(body_timeout="1500ms")
    with here.attack("slow_bodies", 500):
        assert here.memory_grown() < 500 * 24 * KiB + SLACK  # each has a greenlet
        here.assert_others_are_served()
        here.assert_nothing_is_left()
    assert here.daemon.log.count(" 408 ") <= 500
    assert here.lines()[1] < FEW


def test_windows_of_zero(battle: Begin) -> None:
    """Each holds a greenlet and no buffer, and the file is open once."""
    here = battle(send_timeout="2s")
    began = time.monotonic()
    with here.attack("zero_windows", 300):
        wait_until(lambda: here.descriptors >= here.before[1] + 300, "all are accepted")
        assert here.descriptors <= here.before[1] + 2 * 300 + 10
        assert here.memory_grown() < 300 * 32 * KiB + SLACK
        here.assert_others_are_served()
        here.assert_nothing_is_left()
        assert time.monotonic() - began >= 2  # they were not simply cut
    assert here.daemon.log.count(" cut") <= 300
    assert here.lines()[1] < FEW


def test_half_closed_connections(battle: Begin) -> None:
    here = battle(send_timeout="1500ms")
    with here.attack("half_closed", 300):
        assert here.memory_grown() < 300 * 32 * KiB + SLACK
        here.assert_others_are_served()
        here.assert_nothing_is_left()
    assert here.lines()[1] < FEW


def test_a_reset_behind_each_byte_of_an_answer(battle: Begin) -> None:
    here = battle()
    with here.attack("resets", 700):  # a whole head, and more
        here.assert_others_are_served()
        assert here.memory_grown() < SLACK
    here.assert_nothing_is_left()
    assert here.lines()[1] < FEW
    assert "Traceback" not in here.daemon.log


def test_handshakes_that_are_none(battle: Begin, pair: Pair) -> None:
    here = battle(pair, head_timeout="1s")
    with here.attack("handshakes", 100):
        here.assert_others_are_served()
        assert here.memory_grown() < SLACK
    here.assert_nothing_is_left()
    assert 1 <= here.daemon.log.count("closed without a TLS handshake client=") <= 3
    assert here.lines()[1] < FEW
    assert "Traceback" not in here.daemon.log


def test_more_connections_of_one_address_than_it_may_have(battle: Begin) -> None:
    """They are refused, by 429 while there is room to say so; the others are let in."""
    here = battle(per_address="40")
    with here.attack("silent", 2000):
        wait_until(lambda: here.descriptors <= here.before[1] + 40 + 5, "the rest is refused")
        assert here.memory_grown() < SLACK
    assert here.daemon.log.count("refused, as limits.per_address are open client=") == 1
    here.assert_nothing_is_left()
