"""The bytes of one client: non-blocking calls on a raw socket, and waits on persistent watchers.

Runs in the hub's thread. ``recv``, ``send`` and ``sendfile`` never switch and are called from the
hub as well as from the connection's greenlet; only the ``wait_*`` calls switch. gevent.socket is
not used: it makes a wait (and with a time-out a timer) per call, which costs a third of the
throughput of small hits (docs/performance.md).
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from typing import Any, Final, Protocol

from gevent.hub import Hub

from streamcache.server.sendturns import SendTurns

READ: Final = 1  # libev's event bits
WRITE: Final = 2

RECEIVE: Final = 16 * 1024  # bytes of one recv: holds nearly every head

# What sendfile reports about the file and not about the client.
FILE_ERRORS: Final = frozenset((errno.EIO, errno.EBADF, errno.EINVAL, errno.ESTALE, errno.ENXIO))


class Transport(Protocol):
    """What a connection needs of its socket: TCP or a Unix socket, plain or with TLS (``tls.py``).

    None from a call means "would block". Every call but ``close`` raises OSError once the peer
    has reset the connection.
    """

    @property
    def turn(self) -> int:
        """Bytes that one response may give it before others have their turn."""
        ...

    @property
    def fills(self) -> bool:
        """Whether ``sendfile`` takes all that there is room for: less than it was given is full."""
        ...

    @property
    def established(self) -> bool:
        """Whether bytes of a request may come, as nothing goes before them any more."""
        ...

    @property
    def holds(self) -> bool:
        """Whether bytes that were taken are still here, as the socket had no room for them."""
        ...

    def recv(self, size: int) -> bytes | None:
        """About ``size`` bytes at most, b"" after the peer's last one."""
        ...

    def send(self, data: bytes | memoryview, *, more: bool = False) -> int | None:
        """Bytes taken of ``data``; ``more``: further bytes follow at once, so do not push yet."""
        ...

    def sendfile(self, fd: int, offset: int, count: int) -> int | None:
        """Bytes taken of the file; 0 when the file ends at or before ``offset``."""
        ...

    def push(self) -> bool:
        """Give the socket what is still here; whether nothing is left."""
        ...

    def watch(self, callback: Callable[[], None]) -> None:
        """Have the hub call ``callback`` whenever there is something to read, until ``unwatch``."""
        ...

    def unwatch(self) -> None:
        """Stop calling back; idempotent."""
        ...

    def wait_readable(self) -> None:
        """SWITCHES until there is something to read; not while a watch is on."""
        ...

    def wait_writable(self) -> None:
        """SWITCHES until there is room in the socket, which was full just now, and its turn."""
        ...

    def pass_turn(self) -> None:
        """SWITCHES; let the hub look at all other sockets."""
        ...

    def unsent(self) -> int:
        """Bytes of those that our kernel took which the peer's has not yet acknowledged."""
        ...

    def broken(self) -> bool:
        """Whether the peer reset the connection, asked without reading or writing."""
        ...

    def shutdown_write(self) -> None:
        """Tell the peer that nothing more will come."""
        ...

    def close(self) -> None:
        """Close at once; idempotent, never switches."""
        ...


class SocketTransport:
    """``Transport`` over a socket without encryption."""

    # As much as nginx's: what fills the socket leaves it in the interrupts of the client's
    # acknowledgements, what is sent into an empty one is sent by us.
    turn: Final = 2 * 1024 * 1024

    established = True
    fills = True
    holds = False

    __slots__ = (
        "_closed",
        "_hub",
        "_reader",
        "_recv",
        "_send",
        "_socket",
        "_turns",
        "_writer",
        "fd",
    )

    def __init__(self, sock: _socket.socket, hub: Hub, turns: SendTurns) -> None:
        self._socket = sock
        self._recv = sock.recv  # bound once: these two run for every request
        self._send = sock.send
        self._hub = hub
        self._turns = turns
        self.fd = sock.fileno()
        self._closed = False
        self._reader = hub.loop.io(self.fd, READ)
        self._writer: Any = None  # made by the first wait: most connections never need it

    def __repr__(self) -> str:
        return f"<SocketTransport fd={-1 if self._closed else self.fd}>"

    def recv(self, size: int) -> bytes | None:
        """See ``Transport``."""
        try:
            return self._recv(size)
        except (BlockingIOError, InterruptedError):
            return None

    def send(self, data: bytes | memoryview, *, more: bool = False) -> int | None:
        """See ``Transport``."""
        try:
            return self._send(data, _socket.MSG_MORE if more else 0)
        except (BlockingIOError, InterruptedError):
            return None

    def sendfile(self, fd: int, offset: int, count: int) -> int | None:
        """See ``Transport``. Blocks the hub for pages that are not in the page cache."""
        try:
            return os.sendfile(self.fd, fd, offset, count)
        except (BlockingIOError, InterruptedError):
            return None

    def push(self) -> bool:
        """See ``Transport``."""
        return True

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Have the hub call ``callback`` in its next turn."""
        self._hub.loop.run_callback(callback)

    def watch(self, callback: Callable[[], None]) -> None:
        """See ``Transport``. Stopping and starting within one turn of the loop costs no call."""
        self._reader.start(callback)

    def unwatch(self) -> None:
        """See ``Transport``."""
        self._reader.stop()

    def wait_readable(self) -> None:
        """See ``Transport``."""
        self._hub.wait(self._reader)

    def wait_writable(self) -> None:
        """See ``Transport``."""
        if self._writer is None:
            self._writer = self._hub.loop.io(self.fd, WRITE)
        self._hub.wait(self._writer)
        self._turns.take()

    def pass_turn(self) -> None:
        """See ``Transport``."""
        self._turns.pass_on()

    def unsent(self) -> int:
        """See ``Transport``."""
        return int(struct.unpack("i", fcntl.ioctl(self.fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0])

    def broken(self) -> bool:
        """See ``Transport``."""
        return self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR) != 0

    def shutdown_write(self) -> None:
        """See ``Transport``."""
        self._socket.shutdown(_socket.SHUT_WR)

    def close(self) -> None:
        """See ``Transport``."""
        if self._closed:
            return
        self._closed = True
        self._reader.stop()
        self._reader.close()
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
        self._socket.close()
