"""How fast several copies together may read from the source. Hub's thread; one timer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import gevent

_BURST: Final = 0.1  # s of the rate that may come at once, when nothing was read before


class Pace:
    """A rate in bytes a second; 0: none. For what nobody waits for: it is not asked of readers."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._next = 0.0  # monotonic s
        self._waiting: list[Callable[[], object]] = []
        self._timer: gevent.Greenlet[..., None] | None = None

    def __repr__(self) -> str:
        return f"<Pace {self.rate} B/s waiting={len(self._waiting)}>"

    def allows(self, again: Callable[[], object]) -> bool:
        """Whether some may be read now; else ``again`` is called when it is worth asking.

        Does not switch.
        """
        now = time.monotonic()
        if not self.rate or self._next <= now:
            return True
        self._waiting.append(again)
        if self._timer is None:
            self._timer = gevent.spawn_later(self._next - now, self._go_on)
        return False

    def charge(self, count: int) -> None:
        """So many bytes are read; fewer than none: they are not, after all."""
        if self.rate:
            self._next = max(self._next, time.monotonic() - _BURST) + count / self.rate

    def close(self) -> None:
        """Nobody is called any more, and nothing is held back. Does not switch."""
        self.rate = 0
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.kill(block=False)
        self._go_on()

    def _go_on(self) -> None:
        """Greenlet: those that were held back ask again."""
        self._timer = None
        waiting, self._waiting = self._waiting, []
        for again in dict.fromkeys(waiting):
            again()
