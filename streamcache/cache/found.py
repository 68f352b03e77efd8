"""What a look for a path found: one version of it, before anybody reads.

Hub's thread. It holds what its ``open`` may need (an object, the open source file, the key's lock)
until it is closed, so it is for a moment only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from streamcache.cache.delegate import CacheStatus, Delegate
from streamcache.cache.freshness import Flight
from streamcache.cache.locks import KeyLock
from streamcache.cache.objects import ObjectHandle
from streamcache.source.base import Version

if TYPE_CHECKING:
    from streamcache.cache.opener import Opener


class Found:
    """One version of a path: fresh, or stale because the source cannot be asked."""

    def __init__(
        self,
        opener: Opener,
        path: str,
        version: Version,
        *,
        name: str,
        handle: ObjectHandle | None = None,
        flight: Flight | None = None,
        lock: KeyLock | None = None,
        stale: bool = False,
    ) -> None:
        """``name`` is its object's. Owns the lease on ``handle``, the hold on ``flight`` and
        ``lock``, the key's.

        Whoever keeps a ``Found`` open with a lock keeps other processes from copying the path.
        """
        self.path = path
        self.version = version
        self.name = name
        self.handle = handle
        self.flight = flight
        self.lock = lock
        self.stale = stale
        self.continues = False  # there may be a partial of it
        self._opener = opener

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes."""
        return self.version.size

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self.version.mtime_ns

    @property
    def status(self) -> CacheStatus:
        """What ``open`` would give; of an answer without bytes of the file, what it rests on."""
        if self.stale:
            return CacheStatus.STALE
        if self.handle is not None:
            return CacheStatus.HIT
        return self._opener.status_of(self)

    def open(self, client: str = "") -> Delegate:
        """The delegate, which outlives this value. Switches; starts or joins a copy.

        ``client`` is an address: its reads of one object count as one use for a while. Raises as
        ``find`` does, and SourceChanged when the path has another version by now.
        """
        return self._opener.open(self, client)

    def keep(self, client: str = "") -> bool:
        """An empty file is answered whole without ``open``: have it in the cache all the same.

        Whether a copy begins. It counts as a request and, if it is there, as a use by ``client``.
        Switches, for the cache's disk; what would have to wait for the source is done later.
        """
        return self._opener.keep(self, client)

    def close(self) -> None:
        """Give back what was not used. Idempotent; does not switch."""
        handle, self.handle = self.handle, None
        flight, self.flight = self.flight, None
        if self.lock is not None:
            self.lock.release()
        self._opener.give_back(handle, flight)
