"""Whether the workers' hubs turn: each writes on the board once a second, and the supervisor looks.

A hub that does not turn serves nobody, though the process lives: a call that blocks, a loop without
an end, a disk that hangs under a file that is read in the hub. That is said after ``SILENT``
seconds; after ``server.worker_timeout`` the worker is killed, and has a successor. While one is
silent, the service manager's watchdog is not fed: it steps in if killing does not help.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final

from streamcache.admin.board import Board
from streamcache.daemon.place import Place

log = logging.getLogger(__name__)

EVERY: Final = 1.0  # s between two looks
SILENT: Final = 10.0  # s without a sign of life that are worth a line
_LATE: Final = 5.0  # s without a look: it was us who were stopped, and perhaps all

monotonic = time.monotonic


class Pulse:
    """Looks at all places of a supervisor."""

    def __init__(self, board: Board, places: Sequence[Place], every: float = EVERY) -> None:
        """``every``: s between looks, at most a second."""
        self._every = min(EVERY, every)
        self._board = board
        self._places = places
        self._turns = [0] * len(places)
        self._since = [0.0] * len(places)  # monotonic s of the last sign of life
        self._said = [False] * len(places)
        self.due = monotonic() + self._every  # s of ``time.monotonic``

    def look(self, timeout: float) -> list[Place]:
        """Look now; the places whose hub has been silent for ``timeout`` s (0: for ever)."""
        now = monotonic()
        if now - self.due > _LATE:
            self._since = [now] * len(self._places)
        self.due = now + self._every
        hung = []
        for place, turn in zip(self._places, self._board.turns(), strict=True):
            silent = self._look_at(place, turn, now)
            if timeout and silent >= timeout:
                hung.append(place)
        return hung

    @property
    def is_well(self) -> bool:
        """Whether every worker that serves gave a sign of life lately."""
        return not any(self._said)

    def _look_at(self, place: Place, turn: int, now: float) -> float:
        """How long (s) it has been silent; 0 for who does not serve (yet)."""
        index = place.index
        if not place.accepts or turn != self._turns[index]:
            if self._said[index] and place.accepts:
                log.warning("hub turns again worker=%s pid=%d", place.name, place.pid)
            self._turns[index], self._since[index], self._said[index] = turn, now, False
            return 0.0
        silent = now - self._since[index]
        if silent >= SILENT and not self._said[index]:
            self._said[index] = True
            log.error("hub hangs worker=%s pid=%d silent=%.0f", place.name, place.pid, silent)
        return silent
