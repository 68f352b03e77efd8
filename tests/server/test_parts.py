"""Addresses, the clock, and when it is set."""

from __future__ import annotations

import types

import pytest

from streamcache.server import ticker
from streamcache.server.address import Address, peer_name
from streamcache.server.clock import Clock


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        (("127.0.0.1", 80), Address("127.0.0.1", 80), "http://127.0.0.1:80/"),
        ("127.0.0.1:80", Address("127.0.0.1", 80), "http://127.0.0.1:80/"),
        ("[::1]:80", Address("::1", 80), "http://[::1]:80/"),
        (("[::1]", 80), Address("::1", 80), "http://[::1]:80/"),
        ("localhost:0", Address("localhost", 0), "http://localhost:0/"),
        ("unix:/run/s", Address(path="/run/s"), "unix:/run/s"),
    ],
)
def test_addresses_are_read_and_written(text, address, url):
    assert Address.parse(text) == address
    assert address.url == url


@pytest.mark.parametrize(
    "text", ["80", "host", "host:", "host:x", "::1:80", "h:65536", "unix:", "h:²"]
)
def test_odd_addresses_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Address.parse(text)


@pytest.mark.parametrize(
    ("peer", "name"),
    [(("10.0.0.1", 5), "10.0.0.1"), (("::1", 5, 0, 0), "::1"), ("", "unix"), (b"\0x", "unix")],
)
def test_clients_have_names(peer, name):
    assert peer_name(peer) == name


def test_the_clock_is_rebuilt_once_a_second_in_english():
    clock = Clock()
    clock.update(784111777.9)
    date, stamp = clock.date, clock.stamp
    assert date == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert stamp == "06/Nov/1994:08:49:37 +0000"
    assert clock.second == 784111777
    clock.update(784111777.1)
    assert clock.date is date  # the same second


class Loop:
    """A loop whose timers are fired by hand."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.due = None
        self.open = 0

    def timer(self, delay, *, ref):
        assert not ref, "it would keep the hub alive"
        self.delay = delay
        self.open += 1
        return self

    def start(self, due):
        self.due = due

    def stop(self):
        self.due = None

    def close(self):
        self.open -= 1


def test_the_clock_is_set_as_each_second_begins(monkeypatch):
    """Lines and heads said the second before for up to half a second."""
    loop, now, said = Loop(), [100.25], []
    monkeypatch.setattr(ticker, "time", types.SimpleNamespace(time=lambda: now[0]))
    seconds = ticker.Seconds(types.SimpleNamespace(loop=loop), said.append)
    seconds.start()
    for moment in (100.9995, 101.0015, 107.5, 50.125):  # early; in time; held up; set back
        assert 0.0 < now[0] + loop.delay - (int(now[0]) + 1) < 0.01
        now[0] = moment
        loop.due()
        assert (said[-1], loop.open) == (moment, 1)
    seconds.stop()
    seconds.stop()
    assert (loop.due, loop.open) == (None, 0)
