"""What the service manager is told: ready, reloading, stopping, alive (sd_notify(3)).

One datagram to the socket that $NOTIFY_SOCKET names, and nothing without it. Any process may hold
one of these; only the daemon's main process uses it, as systemd believes no other.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

log = logging.getLogger(__name__)

_WAIT: Final = 0.2  # s that a manager may take which has not read what it was told before
_LONGEST: Final = 200  # characters of a status


class Notifier:
    """Tells the service manager, if there is one, how it stands."""

    def __init__(self, environ: Mapping[str, str] = os.environ, pid: int | None = None) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name  # an abstract one
        self.watchdog = _watchdog(environ, os.getpid() if pid is None else pid)
        self._failing = False

    def __repr__(self) -> str:
        return f"<Notifier {self._address!r} watchdog={self.watchdog:g}>"

    def ready(self, status: str) -> None:
        """It serves, for the first time or again after a reload."""
        self._tell("READY=1", f"MAINPID={os.getpid()}", _status(status))

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it, whatever came of it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reloading")

    def stopping(self, status: str) -> None:
        """It drains."""
        self._tell("STOPPING=1", _status(status))

    def succeeded_by(self, pid: int) -> None:
        """Another process is the main one from now on."""
        self._tell(f"MAINPID={pid}")

    def alive(self) -> None:
        """Feed the watchdog, which wants it once in ``watchdog`` seconds (0: there is none)."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_WAIT)
                sender.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), self._address)
            self._failing = False
        except OSError as error:
            if not self._failing:
                log.warning("the service manager hears nothing error=%s", error)
            self._failing = True


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:_LONGEST]}"


def _watchdog(environ: Mapping[str, str], pid: int) -> float:
    """How often (s) it wants to hear that ``pid`` lives; 0: never (sd_watchdog_enabled(3))."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0.0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() else 0.0
