"""Connections of one client address: counted over all workers, and limited."""

from __future__ import annotations

import os
import random
import socket as plain

import pytest

from streamcache.server import notices
from streamcache.server.addresses import AddressTable, shown
from streamcache.server.clock import Clock
from streamcache.server.roster import REFUSED_LINES
from tests.server.client import WAIT, Client, eventually, get

MANY = "refused, as limits.per_address are open"


@pytest.fixture(params=["fast", "slow"])
def path_taken(request: pytest.FixtureRequest) -> str:
    """Not over TLS: what is decided here knows nothing of it."""
    return request.param


class From(Client):
    """A client with an address of its own (all of 127/8 is this machine)."""

    def __init__(self, source: str, server: tuple[str, int]) -> None:
        from gevent import socket

        self.socket = socket.create_connection(server, WAIT, (source, 0))
        self.rest = b""


# -- the table


def test_what_enters_is_counted_until_it_leaves() -> None:
    row = AddressTable(1).row(0)
    one, other = row.place("192.0.2.1"), row.place("192.0.2.2")
    assert one is not None and other is not None and one != other
    for expected in (1, 2, 3):
        row.enter(one)
        assert row.count(one) == expected
    assert row.count(other) == 0
    row.leave(one)
    assert row.count(one) == 2


def test_workers_see_each_others_counts_and_a_dead_ones_go() -> None:
    table = AddressTable(3)
    rows = [table.row(index) for index in range(3)]
    place = rows[0].place("192.0.2.1")
    pid = os.fork()
    if pid == 0:
        table.row(1).enter(place)
        table.row(1).enter(place)
        os._exit(0)
    os.waitpid(pid, 0)
    rows[2].enter(place)
    assert [row.count(place) for row in rows] == [3, 3, 3]
    rows[1].clear()
    assert [row.count(place) for row in rows] == [1, 1, 1]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_who_counts_as_one_client(one: str, other: str, same: bool) -> None:
    row = AddressTable(1).row(0)
    assert (row.place(one) == row.place(other)) is same


@pytest.mark.parametrize("name", ["unix", "unknown", ""])
def test_who_has_no_address_is_not_counted(name: str) -> None:
    assert AddressTable(1).row(0).place(name) is None


def test_the_network_is_named_where_that_is_what_counts() -> None:
    assert shown("192.0.2.1") == "192.0.2.1"
    assert shown("2001:db8::1:2:3:4") == "2001:db8::/64"


def test_ten_thousand_addresses_do_not_fill_it() -> None:
    row = AddressTable(2).row(0)
    rng = random.Random(1)
    places = [row.place(f"10.{rng.randrange(256)}.{n >> 8}.{n & 255}") for n in range(10_000)]
    for place in places:
        row.enter(place)
    assert max(row.count(place) for place in places) <= 5
    for place in places:
        row.leave(place)
    assert all(row.count(place) == 0 for place in places)


# -- the limit


def test_one_too_many_of_an_address_is_429_and_others_are_served(site, caplog) -> None:
    here = site(limits={"per_address": 3})
    guests = [From("127.0.0.2", here.server.address) for _ in range(3)]
    for guest in guests:
        assert guest.ask("/a.bin").status == 200
    for _ in range(5):
        with From("127.0.0.2", here.server.address) as refused:
            answer = refused.response()
            assert (answer.status, answer.body) == (429, b"429 Too Many Requests\n")
            assert answer.fields["retry-after"] == "1"
            assert answer.fields["connection"] == "close"
            assert refused.until_closed() == b""
    assert here.cache.counters.connections_refused == 5
    with From("127.0.0.3", here.server.address) as other:
        assert other.ask("/a.bin").status == 200
    guests.pop().close()
    eventually(lambda: here.server.connections == 2)
    with From("127.0.0.2", here.server.address) as again:
        assert again.ask("/a.bin").status == 200
    for guest in guests:
        guest.close()
    assert caplog.text.count(MANY) == 1  # and not five times
    eventually(lambda: here.server.connections == 0)
    row = here.server._connections._addresses
    assert row.count(row.place("127.0.0.2")) == 0


@pytest.mark.parametrize("limit", ["per_address", "connections"])
def test_a_refused_connection_has_a_line_in_the_access_log(site, tmp_path, limit: str) -> None:
    path = tmp_path / "log"
    here = site(limits={limit: 1}, log={"access": os.fspath(path)})
    status = {"per_address": 429, "connections": 503}[limit]
    with From("127.0.0.2", here.server.address) as guest:
        assert guest.ask("/a.bin").status == 200
        with From("127.0.0.2", here.server.address) as refused:
            answer = refused.response()
            assert answer.status == status
    here.server.stop(timeout=0)
    _, line = path.read_text().splitlines()
    assert line.startswith("127.0.0.2 - - [")
    assert line.endswith(f'] "-" {status} {len(answer.body)} "-" "-" - 0.000 "-" done 0 0 0.000')


def test_a_flood_of_refused_connections_is_no_flood_of_lines(site, tmp_path, monkeypatch) -> None:
    path = tmp_path / "log"
    here = site(limits={"per_address": 1}, log={"access": os.fspath(path)})
    monkeypatch.setattr(Clock, "update", lambda *_: None)  # a second that does not end
    with From("127.0.0.2", here.server.address) as guest:
        assert guest.ask("/a.bin").status == 200
        for _ in range(3 * REFUSED_LINES):
            with From("127.0.0.2", here.server.address) as refused:
                assert refused.response().status == 429
    assert here.cache.counters.connections_refused == 3 * REFUSED_LINES
    here.server.stop(timeout=0)
    assert path.read_text().count(" 429 ") == REFUSED_LINES


def test_refused_connections_that_stay_are_few(site) -> None:
    here = site(limits={"per_address": 1})
    clients = [From("127.0.0.2", here.server.address) for _ in range(100)]
    eventually(lambda: here.cache.counters.connections_refused == 99)
    assert here.server.connections <= 1 + 32
    assert clients[0].ask("/a.bin").status == 200
    for client in clients:
        client.close()


def test_trusted_proxies_and_unix_sockets_are_not_one_client(site, tmp_path) -> None:
    proxied = site(limits={"per_address": 1}, access={"trusted_proxies": "127.0.0.1"})
    for here in (proxied, site(f"unix:{tmp_path / 's'}", limits={"per_address": 1})):
        for client in [here.client() for _ in range(5)]:
            assert client.ask("/a.bin").status == 200
    with From("127.0.0.2", proxied.server.address) as one:
        assert one.ask("/a.bin").status == 200
        with From("127.0.0.2", proxied.server.address) as two:
            assert two.response().status == 429


def test_behind_the_proxy_protocol_its_clients_are_counted(site) -> None:
    access = {"proxy_protocol": True, "trusted_proxies": "127.0.0.1"}
    here = site(limits={"per_address": 2}, access=access)

    def client(address: str) -> Client:
        found = here.client()
        found.send(f"PROXY TCP4 {address} 127.0.0.1 1 2\r\n".encode() + get("/a.bin"))
        return found

    guests = [client("192.0.2.1"), client("192.0.2.1"), client("192.0.2.2")]
    assert [guest.response().status for guest in guests] == [200, 200, 200]
    refused = client("192.0.2.1")
    assert refused.response().status == 429
    guests[0].close()
    refused.close()
    eventually(lambda: here.server.connections == 2)
    assert client("192.0.2.1").response().status == 200


def test_ipv6_is_counted_by_network(site) -> None:
    try:
        here = site(("::1", 0), limits={"per_address": 1})
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert here.client().ask("/a.bin").status == 200
    assert here.client().response().status == 429


# -- what is said


def test_each_client_is_named_once_and_all_are_summed_up(caplog, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(notices, "monotonic", lambda: now[0])
    said = notices.Notices()
    for number in range(1000):
        said.add("refused", f"192.0.2.{number % 50}")
        said.tick(now[0])
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == notices.LINES
    assert lines[0] == "refused client=192.0.2.0"
    now[0] += notices.WINDOW
    said.tick(now[0])
    assert caplog.records[-1].getMessage() == "refused repeated=190 other_clients=800"
    said.add("refused", "192.0.2.0")
    assert caplog.records[-1].getMessage() == "refused client=192.0.2.0"
    said.close()
    assert len(caplog.records) == notices.LINES + 2  # what did not repeat is not summed up


def test_a_client_that_asks_for_nothing_is_said_once(site, caplog) -> None:
    caplog.set_level("INFO", "streamcache.server.notices")
    here = site(limits={"keepalive_timeout": 0.1})
    for client in [here.client() for _ in range(20)]:
        assert client.until_closed() == b""
    assert caplog.text.count("closed, as it asked for nothing client=127.0.0.1") == 1
    here.server.stop(timeout=0)
    assert "closed, as it asked for nothing repeated=19 other_clients=0" in caplog.text


def test_a_client_that_asked_is_let_go_in_silence(site, caplog) -> None:
    caplog.set_level("INFO", "streamcache.server.notices")
    client = site(limits={"keepalive_timeout": 0.1}).client()
    assert client.ask("/a.bin").status == 200
    assert client.until_closed() == b""
    assert caplog.text == ""


def test_the_listener_takes_both_kinds_of_addresses(site) -> None:
    """On [::] an IPv4 client is itself, and no network of all IPv4 clients."""
    listener = plain.socket(plain.AF_INET6)
    try:
        listener.setsockopt(plain.IPPROTO_IPV6, plain.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
    except OSError:
        listener.close()
        pytest.skip("no IPv6 on this machine")
    listener.listen()
    here = site(listener, limits={"per_address": 1})
    where = ("127.0.0.1", here.server.address[1])
    for source in ("127.0.0.2", "127.0.0.3"):
        client = From(source, where)
        assert client.ask("/a.bin").status == 200
        with From(source, where) as refused:
            assert refused.response().status == 429
        client.close()
