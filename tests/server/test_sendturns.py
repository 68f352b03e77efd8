"""Who has had its turn goes on when the hub has looked at everybody else, and not before."""

from __future__ import annotations

import socket

import gevent
import pytest
from gevent import get_hub

from streamcache.server import sendturns as sendturns_module
from streamcache.server.sendturns import SendTurns
from streamcache.server.transport import READ, SocketTransport
from tests.server.client import WAIT, eventually, get
from tests.server.conftest import PLAIN


@pytest.fixture
def turns():
    made = SendTurns(get_hub())
    yield made
    made.close()


def test_a_socket_that_is_ready_comes_before_the_next_turn(turns):
    here, there = socket.socketpair()
    seen = []
    with here, there:
        watcher = get_hub().loop.io(here.fileno(), READ)
        watcher.start(lambda: seen.append(here.recv(10)))
        for number in range(3):
            there.send(b"%d" % number)
            turns.pass_on()
            assert seen[-1] == b"%d" % number
        watcher.stop()
        watcher.close()


def test_all_have_a_turn_before_anybody_has_a_second_one(turns):
    order = []

    def endless(name):
        for _ in range(3):
            order.append(name)
            turns.pass_on()

    gevent.joinall([gevent.spawn(endless, name) for name in "abc"], timeout=WAIT, raise_error=True)
    assert order == list("abcabcabc")


@pytest.fixture
def hub_turns():
    """A list that gets "hub" whenever the hub looks at its sockets: one is always ready."""
    noted = []
    here, there = socket.socketpair()
    watcher = get_hub().loop.io(here.fileno(), READ)
    watcher.start(lambda: noted.append("hub"))
    there.send(b"never read")
    yield noted
    watcher.stop()
    watcher.close()
    here.close()
    there.close()


def download(turns, noted, name):
    turns.pass_on()
    noted.append(name)


@pytest.mark.parametrize(
    ("elapsed", "expected"),
    [
        (0.0, ["hub", "a", "b", "c"]),
        (sendturns_module.TOGETHER * 2, ["hub", "a", "hub", "b", "hub", "c"]),
    ],
)
def test_they_go_together_only_as_long_as_the_others_can_wait(
    turns, hub_turns, monkeypatch, elapsed, expected
):
    monkeypatch.setattr(sendturns_module, "wall_clock", lambda: get_hub().loop.now() + elapsed)
    running = [gevent.spawn(download, turns, hub_turns, name) for name in "abc"]
    gevent.joinall(running, timeout=WAIT, raise_error=True)
    assert hub_turns[: len(expected)] == expected


def test_who_finds_room_takes_a_turn_at_once_unless_others_wait_or_it_is_late(
    turns, hub_turns, monkeypatch
):
    late = 0.0
    monkeypatch.setattr(sendturns_module, "wall_clock", lambda: get_hub().loop.now() + late)
    turns.take()
    assert hub_turns == []  # it did not switch
    waits = gevent.spawn(download, turns, hub_turns, "first")
    gevent.sleep(0)
    turns.take()
    assert hub_turns[:2] == ["hub", "first"]
    waits.join(WAIT)
    hub_turns.clear()
    late = sendturns_module.TOGETHER * 2
    turns.take()
    assert "hub" in hub_turns


def test_one_that_is_stopped_while_it_waits_is_not_woken_later(turns):
    woken = []

    def stopped():
        try:
            turns.pass_on()
        except gevent.GreenletExit:
            gevent.sleep(0.02)  # who goes on with it now would end this wait
            woken.append("stopped")

    running = [
        gevent.spawn(download, turns, woken, "a"),
        gevent.spawn(stopped),
        gevent.spawn(download, turns, woken, "b"),
    ]
    gevent.sleep(0)  # all three wait for their turn
    running[1].kill(block=False)
    running[0].join(WAIT)
    running[2].join(WAIT)
    assert woken == ["a", "b"]
    gevent.joinall(running, timeout=WAIT)
    assert woken == ["a", "b", "stopped"]


@pytest.mark.parametrize("how", ["the client resets", "the server stops"])
def test_one_that_is_cut_while_it_waits_holds_nobody_up(site, monkeypatch, how):
    held, go_on = True, SendTurns._next
    monkeypatch.setattr(SocketTransport, "turn", 64 * 1024)
    monkeypatch.setattr(SendTurns, "_next", lambda turns: None if held else go_on(turns))
    here = site()
    turns = here.server._service.turns
    clients = [here.client() for _ in range(3)]
    for client in clients:
        client.send(get("/big.bin"))
    eventually(lambda: len(turns._waiting) == 3)
    if how == "the server stops":
        here.server.stop(timeout=0)
        assert (len(turns._waiting), here.server.connections) == (0, 0)
    else:
        clients[0].reset()
        eventually(lambda: here.server.connections == 2)
        assert len(turns._waiting) == 2
        held = False
        get_hub().loop.run_callback(lambda: turns._next())
        for client in clients[1:]:
            assert client.response().body == here.contents["/big.bin"]
    assert all(each.closed.wait(WAIT) for each in here.cache.delegates)


@PLAIN
def test_a_small_answer_leaves_between_two_turns_of_a_large_one(site, monkeypatch):
    """Also if the socket of the large one never has to be waited for."""
    sent = []
    sendfile, send = SocketTransport.sendfile, SocketTransport.send

    def noted(transport, *args):
        count = sendfile(transport, *args)
        sent.append(("large", count or 0))
        return count

    def noted_small(transport, data, **more):
        if b"Content-Length: 1000\r\n" in bytes(data):
            sent.append(("small", len(data)))
        return send(transport, data, **more)

    monkeypatch.setattr(SocketTransport, "turn", 16 * 1024)
    monkeypatch.setattr(SocketTransport, "sendfile", noted)
    monkeypatch.setattr(SocketTransport, "send", noted_small)
    here = site()
    large, small = here.client(), here.client()
    assert small.ask("/a.bin").status == 200
    sent.clear()
    large.send(get("/big.bin", f"Range: bytes=0-{64 * 1024 * 16 - 1}"))
    small.send(get("/a.bin"))
    assert small.response().body == here.contents["/a.bin"]
    large.head()
    assert large.body(64 * 1024 * 16) == here.contents["/big.bin"][: 64 * 1024 * 16]
    before = [count for who, count in sent[: [who for who, _ in sent].index("small")]]
    assert len(before) <= 3  # the fast path's window, and a turn or two, of 64
    assert sum(before[1:]) <= 3 * 16 * 1024
