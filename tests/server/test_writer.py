"""Turns: a client that takes everything at once does not own the hub."""

from __future__ import annotations

import pytest

from streamcache.server.tls import TlsTransport
from streamcache.server.transport import SocketTransport
from streamcache.server.writer import SMALL, FileCut, Writer


class Greedy:
    """A transport that never blocks, and notes the bytes taken in each turn, and its calls."""

    turn = SocketTransport.turn
    fills = False

    def __init__(self, *, most: int = 1 << 30, file_size: int = 1 << 40) -> None:
        self.turns = [0]
        self.calls = []
        self.sent = b""
        self.blocked = False
        self._most = most
        self._file_size = file_size

    def send(self, data, *, more=False):
        return self._take(data[: self._most])

    def sendfile(self, fd, offset, count):
        self.calls.append("sendfile")
        return self._take(b"f" * min(count, self._most, self._file_size - offset))

    def _take(self, data):
        if self.blocked:
            return None
        self.turns[-1] += len(data)
        self.sent += bytes(data)
        return len(data)

    def wait_writable(self):
        self.calls.append("wait")
        self.blocked = False

    def pass_turn(self):
        self.calls.append("pass")
        self.turns.append(0)


class Waiting:
    def __init__(self):
        self.calls = []

    def sending(self):
        self.calls.append("sending")

    def resumed(self):
        self.calls.append("resumed")


@pytest.mark.parametrize("turn", [SocketTransport.turn, TlsTransport.turn])
def test_a_big_file_leaves_in_turns(turn):
    transport = Greedy()
    transport.turn = turn
    writer = Writer(transport, Waiting())
    writer.send_file(3, 0, 5 * turn)
    assert transport.turns == [turn] * 5
    assert "wait" not in transport.calls  # a socket that has never been full is not asked for room
    assert writer.written == 5 * turn


def test_what_takes_less_than_it_was_given_is_full_and_not_tried_again_at_once():
    transport, waiting = Greedy(most=600), Waiting()
    transport.fills = True
    Writer(transport, waiting).send_file(3, 0, 1000)
    assert transport.calls == ["sendfile", "wait", "sendfile"]
    assert waiting.calls == ["sending", "resumed"]


def test_tls_takes_less_also_when_there_is_room():
    transport = Greedy(most=600)
    transport.fills = TlsTransport.fills
    Writer(transport, Waiting()).send_file(3, 0, 1000)
    assert transport.calls == ["sendfile", "sendfile"]


def test_small_responses_take_turns_too():
    transport = Greedy()
    writer = Writer(transport, Waiting())
    for _ in range(2 * Greedy.turn // SMALL):
        writer.send(b"small")
        writer.end_of_response()
    assert len(transport.turns) >= 3


def test_short_sends_go_on_where_they_stopped():
    transport = Greedy(most=3)
    writer = Writer(transport, Waiting())
    writer.send(b"0123456789")
    assert (transport.sent, writer.written) == (b"0123456789", 10)


def test_a_blocked_send_waits_and_says_so():
    transport, waiting = Greedy(), Waiting()
    transport.blocked = True
    Writer(transport, waiting).send(b"abc")
    assert transport.sent == b"abc"
    assert waiting.calls == ["sending", "resumed"]


def test_sending_now_returns_the_rest_and_never_waits():
    transport, waiting = Greedy(most=2), Waiting()
    writer = Writer(transport, waiting)
    assert writer.send_now(b"abc") == b"c"
    transport.blocked = True
    assert writer.send_now(b"c") == b"c"
    assert (writer.written, waiting.calls) == (2, [])


def test_the_end_of_the_file_before_its_time_is_an_error():
    writer = Writer(Greedy(file_size=100), Waiting())
    with pytest.raises(FileCut, match="50 bytes early"):
        writer.send_file(3, 0, 150)
    assert writer.written == 100


def test_what_left_before_is_a_part_of_the_turn():
    transport = Greedy()
    writer = Writer(transport, Waiting())
    writer.begun(transport.turn - SMALL)
    writer.send_file(3, 0, SMALL)
    assert transport.turns == [SMALL]
    writer.send_file(3, SMALL, SMALL)
    assert transport.turns == [SMALL, SMALL]
    assert writer.written == transport.turn + SMALL


def test_a_client_that_takes_bytes_progresses_and_so_does_who_has_taken_all():
    transport = Greedy()
    transport.unsent = lambda: left.pop(0)
    writer = Writer(transport, Waiting())
    left = [500, 400, 400, 0, 0]
    assert [writer.progresses() for _ in range(5)] == [True, True, False, True, True]
    left = [900]  # in its next wait it is looked at anew
    transport.blocked = True
    writer.send(b"x")
    assert writer.progresses()
