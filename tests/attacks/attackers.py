"""``python -m tests.attacks.attackers KIND PORT COUNT``: an attack on a server of this machine.

Says "ready" once it is at its worst and goes on until it is ended. It has a process of its own, so
that its sockets and its work are not those of who measures.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

PACE = 0.01  # s between two steps of an attack that goes on

BIG = b"GET /big.bin HTTP/1.1\r\nHost: h\r\n\r\n"
BOMBS = (
    b"GET /" + b"a" * 2_000_000,
    b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 2_000_000,
    b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(50_000)),
    b"\r\n" * 500_000,
    b"GET /small.bin HTTP/1.1\r\nHost: h\r\nRange: bytes=" + b"0-0," * 7_000 + b"1-1\r\n\r\n",
    b"GET /small.bin HTTP/1.1\r\nHost: h\r\nIf-None-Match: " + b'"x", ' * 5_000 + b'"y"\r\n\r\n',
    b"GET /small.bin HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: " + b"1.1.1.1," * 3_500 + b"\r\n\r\n",
    b"GET /" + b"%2e%2e/" * 1_100 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /" + b"a/../" * 1_600 + b"small.bin HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"e" * 2_000_000,
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 300_000,
    b"GET /small.bin HTTP/1.1\r\nHost: h\r\n\r\n" * 20_000,  # a pipeline whose answers nobody reads
)


class Attack:
    def __init__(self, port: int, count: int) -> None:
        self.port = port
        self.count = count

    def connect(self, *, receive: int = 0) -> socket.socket:
        found = socket.socket()
        if receive:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        found.settimeout(20)
        found.connect(("127.0.0.1", self.port))
        return found

    def crowd(self, first: bytes = b"", *, receive: int = 0) -> list[socket.socket]:
        """All connections, each of which said ``first``."""
        found = []
        for _ in range(self.count):
            found.append(self.connect(receive=receive))
            if first:
                found[-1].sendall(first)
        return found

    # -- each is at its worst when it yields, and does more whenever it is resumed

    def silent(self) -> Iterator[None]:
        """Connections that say nothing."""
        crowd = self.crowd()
        while True:
            yield
            time.sleep(len(crowd) and 0.1)

    def slow_heads(self) -> Iterator[None]:
        """A byte of a head now and then."""
        return self._dribble(b"GET /small.bin HTTP/1.1\r\nX: ")

    def slow_bodies(self) -> Iterator[None]:
        """A byte of a body now and then."""
        return self._dribble(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")

    def zero_windows(self) -> Iterator[None]:
        """A big answer of which nothing is read."""
        crowd = self.crowd(BIG, receive=2048)
        while True:
            yield
            time.sleep(len(crowd) and 0.1)

    def half_closed(self) -> Iterator[None]:
        """A big answer for who has closed its side, and reads nothing."""
        crowd = self.crowd(BIG, receive=2048)
        for each in crowd:
            each.shutdown(socket.SHUT_WR)
        while True:
            yield
            time.sleep(0.1)

    def resets(self) -> Iterator[None]:
        """A reset behind each byte of an answer, of the head and of the body."""
        for bytes_read in itertools.cycle(range(self.count)):
            with contextlib.suppress(OSError):
                client = self.connect()
                client.sendall(b"GET /small.bin HTTP/1.1\r\nHost: h\r\n\r\n" + BIG)
                if bytes_read:
                    client.recv(bytes_read, socket.MSG_WAITALL)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            if bytes_read % 20 == 19 or bytes_read == self.count - 1:
                yield

    def bombs(self) -> Iterator[None]:
        """Heads and bodies that are as large, or as dear, as somebody could think of."""
        ready = False
        for number in itertools.cycle(range(len(BOMBS))):
            with contextlib.suppress(OSError), self.connect() as client:
                client.settimeout(0.05)
                client.sendall(BOMBS[number])
            if ready := ready or number == len(BOMBS) - 1:
                yield

    def handshakes(self) -> Iterator[None]:
        """TLS that is begun and left, or is none."""
        hello = bytes.fromhex("16030100310100002d0303") + bytes(32) + bytes.fromhex("000002130101")
        for number in itertools.count():
            with contextlib.suppress(OSError):
                client = self.connect()
                client.sendall((hello, b"\x16\x03\x01\xff\xff" + bytes(70_000), BIG)[number % 3])
                if number % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            if number % self.count == self.count - 1:
                yield

    def _dribble(self, first: bytes) -> Iterator[None]:
        crowd = self.crowd(first)
        while True:
            yield
            time.sleep(0.2)
            for each in crowd:
                with contextlib.suppress(OSError):
                    each.send(b"x", socket.MSG_DONTWAIT)


def main(kind: str, port: str, count: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack: Callable[[], Iterator[None]] = getattr(Attack(int(port), int(count)), kind)
    for step, _ in enumerate(attack()):
        if not step:
            print("ready", flush=True)
        time.sleep(PACE)


if __name__ == "__main__":
    main(*sys.argv[1:])
