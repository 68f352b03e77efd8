"""What the server needs of a cache: ``StreamCache`` has it, and so has the tests' fake.

Into a greenlet that waits in ``find``, ``open`` or ``Delegate.ready`` the server may throw
``Interrupted`` (no ``Exception``), as a ``gevent.Timeout`` could be: the client has left, or the
server stops. Then nothing may be left behind.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from streamcache.cache.delegate import CacheStatus, Delegate
from streamcache.cache.objects import ObjectHandle
from streamcache.config import Config
from streamcache.source.base import Version
from streamcache.stats import Counters


class Found(Protocol):
    """One version of a path that is fresh, or stale because its source is down."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since the epoch."""
        ...

    @property
    def version(self) -> Version:
        """Its id is the entity tag."""
        ...

    @property
    def status(self) -> CacheStatus:
        """What ``open`` would give."""
        ...

    def open(self, client: str = "") -> Delegate:
        """SWITCHES; starts or joins a copy. The delegate outlives this value."""
        ...

    def keep(self, client: str = "") -> bool:
        """All of an empty file is answered: have it in the cache. Whether a copy begins.

        Switches, but not for the source.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


class Backend(Protocol):
    """A cache."""

    @property
    def config(self) -> Config:
        """The options that it runs with."""
        ...

    @property
    def counters(self) -> Counters:
        """Plain mutable counts."""
        ...

    def find(self, path: str, *, ahead: int | None = None) -> Found:
        """SWITCHES; ``ahead``: where the answer will begin, if it has a body.

        Raises NotFound, AccessDenied, SourceUnavailable or Closed. A server that stops throws
        ``Interrupted`` into this too, and into ``Found.open``.
        """
        ...

    def peek(self, path: str, last: ObjectHandle | None = None) -> ObjectHandle | None:
        """What ``find`` and ``open`` would read from, if that needs no wait; else None.

        Never switches, counts nothing. ``last`` is what it gave for this path the last time.
        """
        ...

    def delivered(self, hot: ObjectHandle, client: str, count: int, now: float) -> None:
        """A whole response of ``count`` bytes was read from it at ``now`` (monotonic s): a hit, and
        a use.
        """
        ...

    def take(self, hot: ObjectHandle, client: str, path: str) -> Delegate:
        """The delegate that ``open`` would give for the path that ``peek`` was asked for, in the
        same turn: a hit, and a use.
        """
        ...

    def prefetch(self, fd: int, offset: int, count: int) -> bool:
        """SWITCHES until these bytes are in the page cache; whether they were there already.

        OSError (TimeoutError), Closed.
        """
        ...
