"""A service manager as systemd is one for its notifications: the end of $NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import TracebackType

PATIENCE = 20.0  # s


class Manager:
    """Receives what a service says. ``abstract``: the socket has no file."""

    def __init__(self, directory: Path, *, abstract: bool = False) -> None:
        self.name = f"@streamcache-{os.getpid()}-{id(self)}" if abstract else f"{directory}/notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.name[1:] if abstract else self.name)
        self._socket.settimeout(PATIENCE)

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.name}

    def next(self) -> dict[str, str]:
        """The next message: variables and values."""
        text = self._socket.recv(65536).decode()
        return dict(line.split("=", 1) for line in text.splitlines())

    def until(self, variable: str) -> dict[str, str]:
        """The next message that has this variable; others are left out."""
        deadline = time.monotonic() + PATIENCE
        while variable not in (message := self.next()):
            assert time.monotonic() < deadline, f"never said {variable}"
        return message

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long; what waits already does not count."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(65536):
                pass
        except BlockingIOError:
            pass
        self._socket.settimeout(seconds)
        try:
            return not self._socket.recv(65536)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(PATIENCE)
