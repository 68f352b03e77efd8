"""What the scheduler is fed by: whoever wants bytes of a file, and the pieces that are read of it.

Hub's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from streamcache.errors import StreamCacheError
from streamcache.source.base import Fingerprint, SourceFile


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step reads: bytes [offset, offset + length) of the source file."""

    offset: int
    length: int


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
