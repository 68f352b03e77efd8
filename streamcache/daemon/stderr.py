"""Descriptor 2, written without ever waiting for who reads it.

Any thread, and the supervisor too: no hub, no thread of its own. A pipe or terminal that nobody
reads would stop the hub at the first line that finds it full. So lines go there through an open
file description of our own that does not block, or past blocking to a socket (that of journald).
A file takes what it is given, as fast as its disk.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable
from typing import Final

_END: Final = b"\n"


class Stderr:
    """Takes whole lines. What finds no room is lost, and the next line says how many were."""

    def __init__(self) -> None:
        self.lost = 0  # lines, since that was last said
        self._torn = False  # the last thing that was written has no end
        self._lock = threading.Lock()
        self._let_go: Callable[[], None] | None = None  # of a descriptor of our own
        self._send: Callable[[bytes], int] | None = None

    def open(self) -> None:
        """Find out what descriptor 2 is; once more if it has become something else."""
        self.close()
        try:
            fd = sys.__stderr__.fileno() if sys.__stderr__ is not None else -1
            mode = os.fstat(fd).st_mode
        except (OSError, ValueError):
            return  # closed: there is nowhere to write
        self._send = lambda data: os.write(fd, data)
        # A file would lose its offset; and what cannot be opened (the terminal of who was
        # somebody else before) is written as it is.
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(mode):
                peer = socket.socket(fileno=os.dup(fd))
                self._let_go = peer.close
                self._send = lambda data: peer.send(data, socket.MSG_DONTWAIT)
            elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                own = os.open(f"/proc/self/fd/{fd}", flags)
                self._let_go = lambda: os.close(own)
                self._send = lambda data: os.write(own, data)

    def close(self) -> None:
        """Write no more; idempotent."""
        let_go, self._let_go, self._send = self._let_go, None, None
        if let_go is not None:
            let_go()

    def write(self, line: str) -> None:
        """Write one line, with its end. Never raises, and waits for no reader."""
        with self._lock:
            said, self.lost = self.lost, 0
            if said and not self._put(f"log lines lost={said}\n".encode()):
                self.lost = said + 1
            elif not self._put(line.encode("utf-8", "backslashreplace")):
                self.lost = 1

    def _put(self, data: bytes) -> bool:
        """Whether all of it was taken."""
        if self._torn:
            data = _END + data
        while data and self._send is not None:
            try:
                count = self._send(data)
            except OSError:  # full, or gone
                return False
            self._torn = count < len(data) and data[count - 1 : count] != _END
            data = data[count:]
        return True
