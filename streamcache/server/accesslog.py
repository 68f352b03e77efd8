"""The access log: one line per response, in the form and with the fields that ``[log]`` says. Hub.

What a line has is in ``logline.py``, which responses have one in ``logchoice.py``, how it is
written without holding the hub in ``linewriter.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamcache.config.log import LogConfig
from streamcache.server.clock import Clock
from streamcache.server.linewriter import STDERR, LineWriter, open_log
from streamcache.server.logchoice import Choice
from streamcache.server.logline import Served, form_of

OFF: Final = "off"


class AccessLog:
    """Takes what was served and writes it to a file, to stderr ("-") or nowhere ("off")."""

    def __init__(self, config: LogConfig, clock: Clock, worker: str = "", fd: int = -1) -> None:
        """Raises OSError. ``worker``: the name of this process, if it has one; ``fd``: the file, if
        ``open_file`` has opened it, owned from now on.
        """
        self._clock = clock
        self._form = form_of(config, worker)
        self._choice = Choice(config)
        self._writer = None if config.access == OFF else LineWriter(config.access, fd)
        self.enabled: Final = self._writer is not None  # whether anything is written at all
        # Whether every response is logged by the line that ``usual_line`` makes: then who makes
        # it itself may ``add`` it.
        self.usual: Final = self.enabled and self._form.usual and self._choice.everything
        self.add: Callable[[str], None] = _nothing if self._writer is None else self._writer.add

    def __repr__(self) -> str:
        return f"<AccessLog {self._writer or OFF}>"

    def served(self, response: Served) -> None:
        """Log it, if it is one of those that are."""
        if self.enabled and self._choice.takes(response):
            self.add(self._form.line(response, self._clock))

    def flush(self) -> None:
        """Have written what is held. Does not switch."""
        if self._writer is not None:
            self._writer.flush()

    def reopen(self) -> None:
        """Go on in the file that has the name now: the old one was renamed. Does not switch."""
        if self._writer is not None:
            self._writer.reopen()

    def close(self) -> None:
        """Write what is held; idempotent. Switches, for 2 s at most."""
        if self._writer is not None:
            self._writer.close()


def open_file(config: LogConfig) -> int:
    """A worker's part of opening the log: a descriptor, -1 when there is no file. OSError."""
    return -1 if config.access in (OFF, STDERR) else open_log(config.access)


def _nothing(_: str) -> None:
    """Where lines go that nobody wants."""
