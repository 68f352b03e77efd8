"""The end of a connection: what the client still sends is read and thrown away for a while.

A socket that is closed while bytes arrive answers with a reset, which takes our last bytes with it
if the client has not read them yet (RFC 9112 9.6). Hub; nothing here switches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamcache.server.transport import Transport

TIME: Final = 2.0  # s a client may go on sending after our last byte
TIME_DRAINING: Final = 0.5  # s the same while the server drains: it must come to an end
SIZE: Final = 16 * 1024 * 1024  # bytes that are read for it
DISCARD: Final = 64 * 1024  # bytes of one recv


class Lingering:
    """Reads on over a transport that nobody watches any more; the deadline is its owner's."""

    __slots__ = ("_left", "_over", "_transport")

    def __init__(self, transport: Transport, over: Callable[[], None]) -> None:
        """End our side; ``over`` is called when the client has ended its own, or sent too much.

        OSError: the client has left already.
        """
        transport.shutdown_write()
        self._transport = transport
        self._over = over
        self._left = SIZE
        transport.watch(self._readable)

    def _readable(self) -> None:
        try:
            data = self._transport.recv(DISCARD)
        except OSError:
            self._over()
            return
        if data is None:
            return
        self._left -= len(data)
        if not data or self._left < 0:
            self._over()
