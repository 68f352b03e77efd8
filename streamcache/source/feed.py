"""What the scheduler is fed by: whoever wants bytes of a file, and the pieces that are read of it.

Hub's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from streamcache.errors import StreamCacheError
from streamcache.source.base import Fingerprint, SourceFile


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step reads: bytes [offset, offset + length) of the source file."""

    offset: int
    length: int


class Copied:
    """What became of a piece that one worker reads and writes; the worker fills it in."""

    __slots__ = (
        "error",
        "length",
        "look_time",
        "marked",
        "now",
        "read",
        "reading",
        "since",
        "writing",
    )

    def __init__(self, piece: Piece) -> None:
        self.length = piece.length  # bytes to copy; fewer than the piece when that takes too long
        self.read = 0  # bytes; fewer than those: the file is shorter, or the sink has failed
        self.error: Exception | None = None  # the sink's
        self.reading = self.writing = 0.0  # s spent with the source, and with the sink
        self.since = 0.0  # monotonic s: since when the sink has it; 0: it does not
        self.marked = False  # the sink knows that they are of the version that is copied
        self.now: Fingerprint | None = None  # what the file is after; None: the sink has failed
        self.look_time = 0.0  # s that it took to say so


@dataclass(frozen=True, slots=True)
class Sink:
    """Where the worker that reads a piece writes it.

    ``put(offset, data)`` and ``mark(offset, length)`` run in that worker and may raise:
    whole blocks of data, the file's last one perhaps shorter, and that all of these bytes are
    written and of the version that is copied.

    ``stored(piece, copied)`` and ``stalled(piece)`` run in the hub: what became of it, in the
    step's greenlet, where it may switch; and that a write takes longer than ``patience`` s, but has
    not ended, where it may not. ``stored``, or the feed's ``failed``, follows that in any case.
    """

    put: Callable[[int, memoryview], None]
    mark: Callable[[int, int], None]
    stored: Callable[[Piece, Copied], None]
    stalled: Callable[[Piece], None]
    patience: float  # s that a write may take until somebody else is asked for its bytes


class Feed(Protocol):
    """Somebody who wants a file's bytes: a session, or a reader that bypasses the cache."""

    @property
    def file(self) -> SourceFile:
        """What to read from; stays open until every step has come back."""
        ...

    @property
    def seen(self) -> Fingerprint:
        """What the file was at the last look."""
        ...

    @property
    def sink(self) -> Sink | None:
        """Where what is copied next may be written at once; None: ``arrived`` gets the bytes."""
        ...

    def demanded(self, offset: int, length: int) -> Piece | None:
        """Claim what a waiting reader needs at ``offset``; None: no longer wanted."""
        ...

    def sequential(self, length: int) -> Piece | None:
        """Claim what to copy next without being asked; None: nothing for now."""
        ...

    def arrived(self, piece: Piece, data: memoryview, now: Fingerprint) -> None:
        """The bytes (fewer than asked for: the file is shorter) and what the file is after.

        Runs in the step's greenlet and may switch; ``data`` is good until it returns.
        """
        ...

    def failed(self, piece: Piece, error: StreamCacheError) -> None:
        """The step could not read."""
        ...
