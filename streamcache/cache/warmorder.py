"""A warm job as values: what is to be warmed, how far that is, and what could not be.

What is impossible is told when the order is made, before anything runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from streamcache.cache.selection import Selection

WarmState = Literal["running", "done", "full", "cancelled", "failed"]

AT_ONCE: Final = 2  # files that a job copies, if nobody says how many
MOST_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class WarmOrder:
    """What is to be warmed: files that a ``selection`` means at the source, or these ``paths``.

    ``max_bandwidth`` is bytes a second for the whole job, 0: no limit of its own; what viewers wait
    for is never held back. ``pin``: each file is pinned when it is there. ``dry_run``: only count,
    and see which of them the cache has. ``timeout``: s in which nothing comes and no file is found
    until the job is given up; 0: it waits, for its source say, as long as it takes.
    """

    selection: Selection | None = None
    paths: tuple[str, ...] = ()
    max_bandwidth: int = 0
    at_once: int = AT_ONCE
    pin: bool = False
    dry_run: bool = False
    timeout: float = 0.0

    def __post_init__(self) -> None:
        if (self.selection is None) == (not self.paths):
            raise ValueError("either a prefix or glob, or a list of paths is needed")
        for path in self.paths:
            Selection.of(path=path)
        if not 1 <= self.at_once <= MOST_AT_ONCE:
            raise ValueError(f"at_once {self.at_once} is not in 1 to {MOST_AT_ONCE}")
        if self.max_bandwidth < 0:
            raise ValueError(f"max_bandwidth {self.max_bandwidth} is below 0")
        if not 0 <= self.timeout < math.inf:
            raise ValueError(f"timeout {self.timeout} is not 0 or more seconds")

    def __str__(self) -> str:
        if self.selection is not None:
            return str(self.selection)
        return (
            f"{len(self.paths)} paths" if len(self.paths) > 1 else f"/{self.paths[0].lstrip('/')}"
        )


@dataclass(frozen=True, slots=True)
class WarmFailure:
    """A file or folder that could not be warmed, and why."""

    path: str
    error: str


@dataclass(frozen=True, slots=True)
class WarmStatus:
    """How far a job is. Bytes and files are those that are in the cache now, and before it began.

    ``files`` and ``bytes`` grow until ``walked``. "full": some were ``left_out`` for want of room.
    In a ``dry_run`` none is brought.
    """

    id: str
    state: WarmState
    what: str
    dry_run: bool
    files: int
    files_done: int
    bytes: int
    bytes_done: int
    waiting: str  # why nothing comes for a while, in words; "": it goes on
    rate: float  # bytes/s that are copied now
    remaining: float | None  # s; None: not known
    walked: bool
    left_out: int  # files
    failures: int
    failed: tuple[WarmFailure, ...]  # the first 1,000
    started: float  # s since the epoch
    ended: float | None
