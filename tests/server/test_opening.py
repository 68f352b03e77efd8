"""What a connection begins with: a PROXY header, a TLS handshake (``test_tls.py``), silence."""

from __future__ import annotations

import struct
from contextlib import suppress

import gevent
import pytest

from tests.server.client import eventually, get
from tests.server.conftest import PLAIN

PROXY = {"proxy_protocol": True, "trusted_proxies": "127.0.0.1"}


def v2(command: int = 0x21, source: bytes = b"\xc0\x00\x02\x07") -> bytes:
    body = struct.pack("!4s4sHH", source, b"\x7f\0\0\1", 1000, 80) if command == 0x21 else b""
    family = 0x11 if command == 0x21 else 0
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, family, len(body)) + body


V1 = b"PROXY TCP4 192.0.2.7 127.0.0.1 1000 80\r\n"


@PLAIN
@pytest.mark.parametrize("header", [V1, v2()])
@pytest.mark.parametrize("cut", [0, 1, 20, 1000])
def test_a_proxy_header_names_the_client(site, header: bytes, cut: int, path_taken: str) -> None:
    here = site(access={**PROXY, "networks": "allow 192.0.2.0/24"})
    client = here.client()
    data = header + get("/a.bin")
    client.send(data[:cut])
    gevent.sleep(0.01)  # so that it comes in two pieces; right either way
    client.send(data[cut:])
    assert client.response().body == here.contents["/a.bin"]
    assert client.ask("/one.bin").status == 200
    assert here.cache.clients == ["192.0.2.7"] * 2
    assert bool(here.fast) == (path_taken == "fast")


@PLAIN
def test_a_client_behind_a_proxy_header_is_held_to_the_rules(site) -> None:
    here = site(access={**PROXY, "networks": "allow 192.0.2.0/24"})
    client = here.client()
    client.send(V1.replace(b"192.0.2.7", b"198.51.100.1") + get("/a.bin"))
    assert client.response().status == 403
    client = here.client()
    client.send(b"PROXY UNKNOWN\r\n" + get("/a.bin"))
    assert client.response().status == 403
    client = here.client()
    client.send(v2(0x20) + get("/a.bin"))  # LOCAL: the proxy, which is not allowed
    assert client.response().status == 403
    assert here.fast == 0


@PLAIN
@pytest.mark.parametrize("data", [get("/a.bin"), b"PROXY TCP9 x\r\n", b"PROXY " + b"x" * 200])
def test_what_is_no_proxy_header_gets_no_answer(site, data: bytes) -> None:
    client = site(access=PROXY).client()
    client.send(data)
    with suppress(ConnectionResetError):  # closed with bytes unread
        assert client.until_closed() == b""


@PLAIN
def test_a_peer_that_is_no_proxy_is_closed(site) -> None:
    here = site(access={**PROXY, "trusted_proxies": "192.0.2.1"})
    client = here.client()
    with suppress(ConnectionResetError):
        assert client.until_closed() == b""
    assert here.cache.counters.connections_refused == 1


@PLAIN
def test_a_proxy_header_that_never_ends(site) -> None:
    client = site(access=PROXY, limits={"head_timeout": 0.05}).client()
    client.send(V1[:10])
    assert client.until_closed() == b""
    silent = site(access=PROXY, limits={"head_timeout": 0.05}).client()
    assert silent.until_closed() == b""


@PLAIN
def test_bytes_do_not_extend_the_deadline_of_a_proxy_header(site) -> None:
    here = site(access=PROXY, limits={"head_timeout": 0.3})
    client = here.client()

    def trickle() -> None:
        for byte in V1[:-1]:
            client.send(bytes([byte]))
            gevent.sleep(0.05)

    trickling = gevent.spawn(trickle)
    assert client.until_closed() == b""
    assert not trickling.ready()
    trickling.kill()


@PLAIN
def test_behind_a_proxy_header_a_client_has_the_time_of_an_idle_one(site) -> None:
    here = site(access=PROXY, limits={"head_timeout": 0.05})
    client = here.client()
    eventually(lambda: here.phases() == ["HEAD"])
    client.send(V1)
    eventually(lambda: here.phases() == ["IDLE"])
    gevent.sleep(0.2)
    assert client.ask("/a.bin").body == here.contents["/a.bin"]


@PLAIN
@pytest.mark.parametrize(
    ("data", "level", "said"),
    [
        (b"", "WARNING", "closed without a PROXY header client=127.0.0.1"),
        (V1[:10], "WARNING", "closed without a PROXY header client=127.0.0.1"),
        (get("/a.bin"), "WARNING", "closed without a PROXY header client=127.0.0.1"),
        (V1, "INFO", "closed, as it asked for nothing client=192.0.2.7"),
    ],
)
def test_who_does_not_come_to_a_request_is_named(site, data, level, said, caplog) -> None:
    caplog.set_level("INFO", "streamcache.server.notices")
    here = site(access=PROXY, limits={"head_timeout": 0.1, "keepalive_timeout": 0.1})
    client = here.client()
    client.send(data)
    with suppress(ConnectionResetError):  # closed with bytes unread
        assert client.until_closed() == b""
    eventually(lambda: here.server.connections == 0)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [(level, said)]


@PLAIN
@pytest.mark.parametrize("data", [b"", V1[:10]])
def test_a_proxy_that_looks_in_and_resets_is_no_news(site, data: bytes, caplog) -> None:
    """As their health checks do."""
    caplog.set_level("INFO", "streamcache.server.notices")
    here = site(access=PROXY)
    client = here.client()
    client.send(data)
    eventually(lambda: here.server.connections == 1)
    client.reset()
    eventually(lambda: here.server.connections == 0)
    assert caplog.text == ""


def test_a_client_that_says_nothing_more_after_its_handshake_asked_for_nothing(
    site, caplog
) -> None:
    caplog.set_level("INFO", "streamcache.server.notices")
    here = site(limits={"keepalive_timeout": 0.1})
    assert here.client().until_closed() == b""
    assert [each.getMessage() for each in caplog.records] == [
        "closed, as it asked for nothing client=127.0.0.1"
    ]


def test_nothing_is_kept_of_a_beginning_that_is_over(site) -> None:
    here = site()
    client = here.client()
    eventually(lambda: here.phases() == ["IDLE"])
    (connection,) = here.server._connections
    assert repr(connection._opening) == "<Opening due=REQUEST>"
    client.send(b"G")
    eventually(lambda: here.phases() == ["HEAD"])
    assert connection._opening is None
    client.send(get("/a.bin")[1:])
    assert client.response().body == here.contents["/a.bin"]
