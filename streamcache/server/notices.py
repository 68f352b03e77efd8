"""What strangers do to us, in the log: a line each, and none repeated without bound.

Hub. Whoever can make the server write a line can make it write a million. So of each kind of
event the first ones are said, one line for each client; what repeats is counted, and a window
later one line sums it up. Most in a window: ``LINES`` and that one, for each kind.
"""

from __future__ import annotations

import logging
import time
from typing import Final

log = logging.getLogger(__name__)

WINDOW: Final = 60.0  # s
LINES: Final = 10  # of one kind in a window, each about another client

monotonic = time.monotonic


class _Window:
    """One kind of event since a moment."""

    __slots__ = ("began", "clients", "level", "others", "repeats")

    def __init__(self, level: int, now: float) -> None:
        self.level = level
        self.began = now
        self.clients: set[str] = set()  # that were named
        self.repeats = 0  # of these
        self.others = 0  # events of clients that were not named


class Notices:
    """Says what happens to a server's listener."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    def add(
        self, what: str, client: str, detail: str = "", *, level: int = logging.WARNING
    ) -> None:
        """One event; ``what`` is its kind, a fixed phrase, and ``detail`` none of the client's."""
        window = self._windows.get(what)
        if window is None:
            window = self._windows[what] = _Window(level, monotonic())
        if client in window.clients:
            window.repeats += 1
        elif len(window.clients) < LINES:
            window.clients.add(client)
            if detail:
                log.log(level, f"{what} client=%s reason=%s", client, detail)
            else:
                log.log(level, f"{what} client=%s", client)
        else:
            window.others += 1

    def tick(self, now: float) -> None:
        """Called now and then: sum up what is a window old."""
        for what, window in [*self._windows.items()]:
            if now - window.began >= WINDOW:
                self._end(what, window)

    def close(self) -> None:
        """Sum up what there is."""
        for what, window in [*self._windows.items()]:
            self._end(what, window)

    def _end(self, what: str, window: _Window) -> None:
        del self._windows[what]
        if window.repeats or window.others:
            form = f"{what} repeated=%d other_clients=%d"
            log.log(window.level, form, window.repeats, window.others)
