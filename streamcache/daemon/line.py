"""A line between two processes of the daemon: messages both ways, and the news of a death.

A pair of sockets that keep messages apart (SOCK_SEQPACKET), each one JSON. Nothing here blocks, so
both the supervisor, which has no hub, and the hub of a worker can use it. When one of the two dies,
however it dies, the other one reads the end.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final, Self

_MOST: Final = 256 * 1024  # bytes of a message: more than the kernel takes


class Line:
    """One end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self.ended = False  # the other end is gone; all that it said was heard

    def __repr__(self) -> str:
        return f"<Line {self._socket.fileno()}{' ended' if self.ended else ''}>"

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Both ends; OSError when there is no descriptor to be had."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    @classmethod
    def inherited(cls, fd: int) -> Self:
        """The end that came with the descriptor ``fd``; OSError when that is none."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """The descriptor; -1 once it is closed."""
        return self._socket.fileno()

    def tell(self, **message: Any) -> bool:
        """Send a message, whole or not at all; False: nobody listens there any more."""
        try:
            self._socket.send(json.dumps(message).encode())
        except OSError:  # gone, or so stuck that it has not heard a hundred messages
            return False
        return True

    def hear(self) -> list[dict[str, Any]]:
        """The messages that have come since; afterwards ``ended`` is up to date."""
        messages: list[dict[str, Any]] = []
        while not self.ended:
            try:
                packet = self._socket.recv(_MOST)
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if packet:
                messages.append(json.loads(packet))
            else:
                self.ended = True
        return messages

    def close(self) -> None:
        """Let go of this end; idempotent."""
        self._socket.close()
