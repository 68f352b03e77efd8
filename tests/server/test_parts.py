"""Addresses and the clock."""

from __future__ import annotations

import pytest

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
