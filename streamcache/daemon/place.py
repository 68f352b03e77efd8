"""A place: where one worker after the other lives, and how long the next one has to wait.

Belongs to the supervisor, which has one thread and no hub.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final

from streamcache.daemon.line import Line

SHORTEST_DELAY: Final = 1.0  # s until a dead worker has a successor; twice that for the next one
LONGEST_DELAY: Final = 30.0  # s
LIVED: Final = 60.0  # s after which a death counts as the first

monotonic = time.monotonic


@dataclass(slots=True)
class Place:
    """Where one worker after the other lives."""

    index: int
    due: float = math.inf  # when the next one is forked; s of ``time.monotonic``
    pid: int = 0  # 0: nobody is here
    line: Line | None = None  # until its end was read
    accepts: bool = False
    reloading: int = 0  # the number of the reload that it was told of, until it answers; 0: none
    problem: str = ""  # why it could not start, in its own words
    code: int = 1  # the daemon's, for that
    born: float = 0.0
    delay: float = 0.0  # s; the last one

    @property
    def name(self) -> str:
        """As logs and ``ps`` show it: "w1"."""
        return f"w{self.index + 1}"

    def occupy(self, pid: int, line: Line) -> None:
        """A worker was born."""
        self.pid, self.line, self.born = pid, line, monotonic()
        self.accepts, self.problem, self.due = False, "", math.inf

    def vacate(self) -> float:
        """It is dead; how long it lived, in seconds."""
        if self.line is not None:
            self.line.close()
        self.pid, self.line, self.accepts, self.reloading = 0, None, False, 0
        return monotonic() - self.born

    def wait(self, *, lived: float = 0.0) -> None:
        """The next one is due after a delay, which grows while they die young."""
        if lived >= LIVED:
            self.delay = 0.0
        self.delay = min(LONGEST_DELAY, self.delay * 2 or SHORTEST_DELAY)
        self.due = monotonic() + self.delay
