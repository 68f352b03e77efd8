"""Sending from a greenlet: whole pieces, in turns, with a deadline on progress.

Runs in the connection's greenlet. A client that drains fast never makes a send wait, so its
greenlet would own the hub: after ``Transport.turn`` bytes it lets the others run (p99 of small
requests beside 64 downloads without that: 8 to 90 ms; docs/performance.md), and then goes on
without asking whether there is room: the socket should be full when its client takes bytes.
"""

from __future__ import annotations

from typing import Final, Protocol

from streamcache.server.transport import Transport

UNKNOWN: Final = 1 << 62  # bytes: more than any socket holds
SMALL: Final = 64 * 1024  # bytes that a request counts at least: pipelined ones take turns too


class FileCut(Exception):
    """The file ended before the bytes that were said to be ready."""


class Waiting(Protocol):
    """Who minds the deadline while the writer waits."""

    def sending(self) -> None:
        """A wait for the client begins."""
        ...

    def resumed(self) -> None:
        """It is over: bytes can be sent."""
        ...


class Writer:
    """Sends over one transport; ``written`` counts every byte the kernel took."""

    __slots__ = ("_transport", "_turn", "_unsent", "_waiting", "turn", "written")

    def __init__(self, transport: Transport, waiting: Waiting) -> None:
        self._transport = transport
        self._waiting = waiting
        self.turn = transport.turn
        self._turn = 0
        self._unsent = UNKNOWN  # bytes the client had not acknowledged when last looked at
        self.written = 0

    def begun(self, count: int) -> None:
        """Count bytes that have left already, as a part of this turn."""
        self.written += count
        self._turn += count

    def send_now(self, data: bytes) -> bytes:
        """Send what the kernel takes at once and return the rest. Never switches; OSError."""
        count = self._transport.send(data) or 0
        self.written += count
        return data[count:]

    def send(self, data: bytes | memoryview, *, more: bool = False) -> None:
        """SWITCHES; send all of it. ``more`` follows at once. OSError when the client is gone."""
        while True:
            count = self._transport.send(data, more=more)
            if count is None:
                self._wait()
                continue
            self.written += count
            self._turn += count
            if count == len(data):
                return
            data = memoryview(data)[count:]

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """SWITCHES; send bytes of a file without reading them. Raises OSError, FileCut."""
        stop = offset + count
        while offset < stop:
            if self._turn >= self.turn:
                self._pass_turn()
            wanted = min(self.turn, stop - offset)
            taken = self._transport.sendfile(fd, offset, wanted)
            if taken is None:
                self._wait()
                continue
            if not taken:
                raise FileCut(f"file ends at {offset}, {stop - offset} bytes early")
            self.written += taken
            self._turn += taken
            offset += taken
            if taken < wanted and self._transport.fills:
                self._wait()

    def finish(self) -> None:
        """SWITCHES until the socket has all that was sent."""
        while not self._transport.push():
            self._wait()

    def end_of_response(self) -> None:
        """SWITCHES when this connection had its turn."""
        self._turn += SMALL
        if self._turn >= self.turn:
            self._pass_turn()

    def progresses(self) -> bool:
        """Asked now and then while it waits: whether that is no fault of the client's.

        A slow client takes bytes long before the kernel calls the socket writable again. Who has
        taken all of them is not what we wait for: our turn is.
        """
        unsent = self._transport.unsent()
        if unsent and unsent >= self._unsent:
            return False
        self._unsent = unsent
        return True

    def _wait(self) -> None:
        self._unsent = UNKNOWN
        self._waiting.sending()
        self._transport.wait_writable()
        self._waiting.resumed()
        self._turn = 0

    def _pass_turn(self) -> None:
        self._unsent = UNKNOWN
        self._waiting.sending()
        self._transport.pass_turn()
        self._waiting.resumed()
        self._turn = 0
