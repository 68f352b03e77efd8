"""TLS over a socket: OpenSSL between two buffers, which non-blocking calls fill and empty.

Hub and the connection's greenlet, as for any transport; nothing here switches but the waits of the
socket beneath. Not ``ssl.SSLSocket``: there a write that would block has to be repeated with the
same bytes, the bytes behind a PROXY header could not be given to it, and ``gevent.monkey`` puts
another class in its place.

``sendfile`` cannot encrypt (the kernel could, but Python 3.11 has no way to ask it to): the window
of the file, which is in the page cache by then (``pages.py``), is read into one buffer that all
connections share, and leaves in records of 16 KiB. One record, or what is left of it, may wait
here for the socket (``holds``).

A handshake runs in the hub: 0.4 ms with an EC key, 0.7 ms with RSA of 2048 bits.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable
from typing import Final

from streamcache.server.transport import SocketTransport

RECORD: Final = 16 * 1024  # bytes of a file in one record; more is no quicker, and stays allocated
READ: Final = 128 * 1024  # bytes of a file that are read, encrypted and sent in one call
# Bytes of TLS's own (key updates) that a client may leave lying: it makes us write and reads none.
_MOST_HELD: Final = 64 * 1024

_window = memoryview(bytearray(READ))  # what was read is encrypted before anything else can run


class TlsTransport:
    """``Transport`` with encryption, over one without."""

    turn: Final = 512 * 1024  # each byte costs us its encryption, however full the socket is
    fills = False

    __slots__ = (
        "_callback",
        "_closing",
        "_context",
        "_ended",
        "_held",
        "_incoming",
        "_object",
        "_outgoing",
        "_socket",
        "fd",
    )

    def __init__(self, socket: SocketTransport, context: ssl.SSLContext, received: bytes) -> None:
        """``received``: what has been read from the socket already."""
        self._socket = socket
        self._context = context
        self.fd = socket.fd
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._incoming.write(received)
        self._object: ssl.SSLObject | None = None  # a client that says nothing needs none
        self._callback: Callable[[], None] | None = None  # while a watch is on
        self._held = b""  # encrypted, and not yet taken by the socket
        self._ended = False  # the client will send no more
        self._closing = False  # we have said that we will send no more

    def __repr__(self) -> str:
        version = None if self._object is None else self._object.version()
        return f"<TlsTransport {version or 'handshake'} {self._socket!r}>"

    @property
    def established(self) -> bool:
        """See ``Transport``: the handshake is over."""
        return self._object is not None and self._object.version() is not None

    @property
    def holds(self) -> bool:
        """See ``Transport``."""
        return bool(self._held)

    def recv(self, size: int) -> bytes | None:
        """See ``Transport``; a record more than ``size`` at most, as no byte is left behind.

        Bytes that stayed in OpenSSL would wake nobody. Before the first of them come those of the
        handshake, which are answered here.
        """
        if self._ended:
            return b""
        data = self._socket.recv(size)
        if self._closing:
            return data  # to be thrown away, so not worth being decrypted
        if data:
            self._incoming.write(data)
        elif data is not None:
            self._incoming.write_eof()
        if not (self._incoming.pending or self._incoming.eof):
            return None
        return self._decrypt()

    def send(self, data: bytes | memoryview, *, more: bool = False) -> int | None:
        """See ``Transport``; what is taken may be held for a while: ``push``."""
        if self._held and not self.push():
            return None
        taken, view = 0, memoryview(data)
        while taken < len(view):
            taken += self._encrypt(view[taken : taken + RECORD])
            if not self._empty(more=more or taken < len(view)):
                break
        return taken

    def sendfile(self, fd: int, offset: int, count: int) -> int | None:
        """See ``Transport``. Blocks the hub for pages that are not in the page cache."""
        if self._held and not self.push():
            return None
        found = os.preadv(fd, (_window[: min(count, READ)],), offset)
        return self.send(_window[:found]) if found else 0

    def push(self) -> bool:
        """See ``Transport``."""
        return self._empty(more=False)

    def watch(self, callback: Callable[[], None]) -> None:
        """See ``Transport``."""
        self._callback = callback
        self._socket.watch(callback)

    def unwatch(self) -> None:
        """See ``Transport``."""
        self._callback = None
        self._socket.unwatch()

    def wait_readable(self) -> None:
        """See ``Transport``. ``recv`` leaves nothing in OpenSSL, so the socket knows."""
        self._socket.wait_readable()

    def wait_writable(self) -> None:
        """See ``Transport``."""
        self._socket.wait_writable()

    def pass_turn(self) -> None:
        """See ``Transport``."""
        self._socket.pass_turn()

    def unsent(self) -> int:
        """See ``Transport``."""
        return self._socket.unsent()

    def broken(self) -> bool:
        """See ``Transport``."""
        return self._socket.broken()

    def shutdown_write(self) -> None:
        """See ``Transport``."""
        self._notify()
        self._closing = True
        self._socket.shutdown_write()

    def close(self) -> None:
        """See ``Transport``. The client is told (RFC 9112 9.8), if there is room to tell it."""
        if not self._closing:
            self._closing = True
            with contextlib.suppress(OSError):
                self._notify()
        self._callback = None
        self._socket.close()

    # -- between OpenSSL and the socket

    def _decrypt(self) -> bytes | None:
        """All bytes of whole records; None: there are none, b"": there will be none."""
        tls = self._object
        if tls is None:
            tls = self._object = self._context.wrap_bio(
                self._incoming, self._outgoing, server_side=True
            )
        found = b""
        try:
            while piece := tls.read(RECORD):
                found += piece
            self._ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self._ended = True
        except ssl.SSLError as error:
            with contextlib.suppress(OSError):
                self._empty(more=False)  # the alert that says why
            raise _aborted(error) from error
        self._empty(more=False)
        if len(self._held) > _MOST_HELD:
            raise ConnectionAbortedError("TLS: the client takes no answers")
        if found and self._ended:
            self._socket.call_soon(self._again)  # the socket may never be readable again
        return found or (b"" if self._ended else None)

    def _again(self) -> None:
        if self._callback is not None:
            self._callback()

    def _encrypt(self, data: memoryview) -> int:
        assert self._object is not None  # nothing is sent before a request was read
        try:
            return self._object.write(data)
        except ssl.SSLError as error:
            raise _aborted(error) from error

    def _empty(self, *, more: bool) -> bool:
        """Give the socket what OpenSSL has written; whether it took all."""
        data = self._held + self._outgoing.read() if self._held else self._outgoing.read()
        if data:
            count = self._socket.send(data, more=more) or 0
            self._held = data[count:]
        return not self._held

    def _notify(self) -> None:
        """Say that nothing more will come."""
        if self._object is None:
            return
        with contextlib.suppress(ssl.SSLError):  # it would like an answer, and we do not wait
            self._object.unwrap()
        self._empty(more=False)


def _aborted(error: ssl.SSLError) -> ConnectionAbortedError:
    """Without OpenSSL's own codes, which look like those of the system."""
    reason = (error.reason or "error").lower().replace("_", " ")
    return ConnectionAbortedError(f"TLS: {reason}")
