"""Every wait for a client has a deadline (I17)."""

from __future__ import annotations

import time

import gevent
import pytest

from streamcache.server.sendturns import SendTurns
from streamcache.server.tls import TlsTransport
from streamcache.server.transport import SocketTransport
from tests.server.client import WAIT, eventually, get
from tests.server.conftest import BIG, PLAIN

SHORT = 0.1


def test_a_head_that_does_not_end_is_408(site):
    client = site(limits={"head_timeout": SHORT}).client()
    client.send(b"GET /a.bin HTTP/1.1\r\n")
    answer = client.response()
    assert (answer.status, answer.fields["connection"]) == (408, "close")


@pytest.mark.parametrize(
    "data",
    [
        b"HEAD /a.bin HTTP/1.1\r\n",
        b"\r\nHEAD /a.b",
        get("/a.bin", "Content-Length: 10", method="HEAD") + b"hello",
        get("/a.bin", "Transfer-Encoding: chunked", method="HEAD") + b"5\r\nhel",
    ],
)
def test_408_has_no_body_for_head(site, data):
    client = site(limits={"head_timeout": SHORT, "body_timeout": SHORT}).client()
    client.send(data)
    assert client.response("HEAD").status == 408
    assert client.until_closed() == b""


def test_bytes_do_not_extend_the_deadline_of_a_head(site):
    client = site(limits={"head_timeout": 0.3}).client()
    client.send(b"GET /a.bin HTTP/1.1\r\n")
    started = time.monotonic()

    def trickle():
        while True:
            client.send(b"X: y\r\n")
            gevent.sleep(0.02)

    trickling = gevent.spawn(trickle)
    assert client.response().status == 408
    trickling.kill()
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("before", ["a request", "nothing", "half a head"])
def test_what_was_sent_in_time_is_answered_although_the_hub_was_held(site, before):
    """As when this process is stopped, or the machine: it comes back after the deadline."""
    here = site(limits={"keepalive_timeout": 0.6, "head_timeout": 0.6})
    client = here.client()
    request = get("/a.bin")
    if before == "a request":
        client.ask("/a.bin")
    elif before == "half a head":
        client.send(request[:20])
        request = request[20:]
    eventually(lambda: here.phases() == ["HEAD" if before == "half a head" else "IDLE"])
    client.send(request)  # the server has had no turn for it
    time.sleep(1.0)
    assert client.response().status == 200
    assert client.until_closed() == b"", "deadlines hold again"


@pytest.mark.parametrize("how", ["pass_on", "take"])
def test_who_has_taken_everything_and_waits_for_a_turn_is_not_cut(site, monkeypatch, how):
    """It is not the client then that is waited for."""
    waits = []

    def wait_long(turns):
        if not waits:
            waits.append(how)
            gevent.sleep(5 * SHORT)

    for transport in (SocketTransport, TlsTransport):
        monkeypatch.setattr(transport, "turn", 64 * 1024 if how == "pass_on" else 1 << 40)
    monkeypatch.setattr(SendTurns, how, wait_long)
    here = site(limits={"send_timeout": SHORT})
    client = here.client(receive_buffer=65536)  # it must wait for room, and then comes to "take"
    client.send(get("/big.bin"))
    client.head()
    assert client.body(BIG) == here.contents["/big.bin"]
    assert waits


def test_an_idle_connection_is_closed_without_a_word(site):
    here = site(limits={"keepalive_timeout": SHORT})
    client = here.client()
    assert client.ask("/a.bin").status == 200
    assert client.until_closed() == b""


def test_a_connection_that_never_asks_is_closed_without_a_word(site):
    assert site(limits={"keepalive_timeout": SHORT}).client().until_closed() == b""


def test_a_body_that_does_not_end_is_408(site):
    client = site(limits={"body_timeout": SHORT}).client()
    client.send(get("/a.bin", "Content-Length: 10") + b"hello")
    answer = client.response()
    assert (answer.status, answer.fields["connection"]) == (408, "close")


def test_a_client_that_takes_nothing_is_cut(site):
    here = site(limits={"send_timeout": SHORT})
    client = here.client(receive_buffer=4096)
    client.send(get("/big.bin"))
    assert client.head().status == 200
    assert here.cache.delegates[0].closed.wait(WAIT)
    eventually(lambda: here.server.connections == 0)


@PLAIN
def test_a_slow_client_that_takes_bytes_is_not_cut(site, tmp_path, monkeypatch):
    """The kernel calls a socket writable late: when much of its buffer is free."""
    waits = []
    wait = SocketTransport.wait_writable

    def timed(transport):
        began = time.monotonic()
        wait(transport)
        waits.append(time.monotonic() - began)

    monkeypatch.setattr(SocketTransport, "wait_writable", timed)
    # A Unix socket: writable when three quarters are free, and no window that moves in steps.
    here = site(f"unix:{tmp_path / 's'}", limits={"send_timeout": 0.4})
    here.cache.step = 16 * 1024
    client = here.client()
    client.send(get("/big.bin"))
    client.head()
    with gevent.Timeout(20):
        while not waits or max(waits) < 0.8:
            client.socket.recv(4096)
            gevent.sleep(0.025)
    assert here.server.connections == 1  # in spite of one wait of twice the time-out


def test_a_wait_for_the_source_is_not_the_clients_fault(site):
    here = site(limits={"send_timeout": SHORT, "keepalive_timeout": SHORT, "head_timeout": SHORT})
    gate = here.cache.gate("/a.bin")
    client = here.client()
    client.send(get("/a.bin"))
    gevent.sleep(4 * SHORT)
    gate.release(1000)
    assert client.response().body == here.contents["/a.bin"]
