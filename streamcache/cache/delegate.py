"""The open handles that responses read from: one version for their whole life (I8).

``CachedFileDelegate`` reads an object, ``TempFileDelegate`` a copy under way,
``DirectFileDelegate`` the source. Hub's thread; one greenlet each.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from gevent.event import AsyncResult

from streamcache.cache.objects import ObjectHandle
from streamcache.cache.reading import DELIVERED_BYTES, Ready
from streamcache.cache.resources import Resources
from streamcache.cache.session import CopySession
from streamcache.errors import Closed, SourceChanged, SourceTimeout, StreamCacheError
from streamcache.source.base import Change, Fingerprint, SourceFile, Version
from streamcache.source.scheduler import Piece
from streamcache.stats import Counters

_FIRST_BYTES = 64 * 1024  # in the first: it should come at once


class CacheStatus(enum.Enum):
    """How a request was answered."""

    HIT = "hit"  # the object was there
    STALE = "stale"  # the same, but the source could not be asked
    COLLAPSED = "collapsed"  # joined a running copy
    MISS = "miss"  # started one
    BYPASS = "bypass"  # straight from the source


class Delegate(Protocol):
    """An open version of a file."""

    version: Version
    status: CacheStatus

    @property
    def size(self) -> int:
        """Bytes, for the whole life of the delegate."""
        ...

    def ready(self, offset: int, stop: int) -> Ready:
        """Bytes from ``offset`` on, at least one, at most up to ``stop``. Switches until there are.

        ``offset < stop <= size``. Raises SourceError, SourceChanged or Closed.
        """
        ...

    def sent(self, ready: Ready, count: int) -> None:
        """Count ``count`` bytes of it as delivered."""
        ...

    def close(self) -> None:
        """Give the lease back. Idempotent; never blocks, does not switch."""
        ...


class _Counted:
    """What the delegates share: version, status, and the count of what they deliver."""

    def __init__(self, version: Version, status: CacheStatus, counters: Counters) -> None:
        self.version = version
        self.status = status
        self._counters = counters
        counters.request(status.value)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.version.size

    def sent(self, ready: Ready, count: int) -> None:
        """Count delivered bytes, by status and by where they came from."""
        self._counters.delivered(self.status.value, count)
        if ready.fd >= 0:
            self._counters.bytes_from_cache += count


class CachedFileDelegate(_Counted):
    """Reads an object. Nothing here touches the source or switches."""

    def __init__(
        self,
        handle: ObjectHandle,
        status: CacheStatus,
        counters: Counters,
        release: Callable[[ObjectHandle], None],
    ) -> None:
        """Takes over the lease on ``handle``."""
        super().__init__(handle.version, status, counters)
        self._handle: ObjectHandle | None = handle
        self._release = release

    def ready(self, offset: int, stop: int) -> Ready:
        """All of it."""
        if self._handle is None:
            raise Closed("the delegate is closed")
        return Ready(self._handle.fd, offset, min(stop, self.size) - offset)

    def close(self) -> None:
        """Release the object. Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._release(handle)


class TempFileDelegate(_Counted):
    """Reads a copy under way; what is not yet there is delegated to the session."""

    def __init__(self, session: CopySession, status: CacheStatus, counters: Counters) -> None:
        """Takes a lease on the session."""
        super().__init__(session.version, status, counters)
        self._session = session
        self._reader = session.inc_ref()
        self._open = True

    def ready(self, offset: int, stop: int) -> Ready:
        """What is present from ``offset`` on; else wait for it. Switches."""
        if not self._open:
            raise Closed("the delegate is closed")
        return self._session.read(self._reader, offset, min(stop, self.size))

    def close(self) -> None:
        """Leave the session. Idempotent."""
        if self._open:
            self._open = False
            self._session.dec_ref(self._reader)


class DirectFileDelegate(_Counted):
    """Reads the source, and keeps nothing: too large for the cache, or still being written.

    A file that grows is served up to the size it had when it was opened; any other change ends
    the response. (An append cannot be told from a rewrite that also grows.)
    """

    def __init__(self, file: SourceFile, resources: Resources, counters: Counters) -> None:
        """Owns ``file`` from now on."""
        super().__init__(file.version, CacheStatus.BYPASS, counters)
        self._r = resources
        self._file = file
        self._seen = file.fingerprint
        self._expected = -1
        self._reading = 0  # reads under way: one that timed out may still be
        self._open = True

    def ready(self, offset: int, stop: int) -> Ready:
        """Read from the source. Switches."""
        if not self._open:
            raise Closed("the delegate is closed")
        ahead, self._file.ahead = self._file.ahead, None
        if ahead is not None and 0 <= (skip := offset - ahead.offset) < len(ahead.data):
            data = ahead.data[skip : skip + stop - offset]
            self._expected = offset + len(data)
            return Ready(-1, offset, len(data), data)
        seek = offset != self._expected
        length = min(stop - offset, _FIRST_BYTES if seek else DELIVERED_BYTES)
        read = _DirectRead(self._file, Piece(offset, length))
        self._reading += 1
        try:
            data, now = self._answer(read, seek=seek)
        finally:
            # While the worker reads, the descriptor is its own (I4): it is closed afterwards.
            if read.result.ready() or not read.started:
                self._done_reading()
            else:
                read.result.rawlink(lambda _: self._done_reading())
        if len(data) < length or not self._still(now):
            raise SourceChanged("the file changed at the source while it was read")
        self._expected = offset + length
        return Ready(-1, offset, length, data)

    def close(self) -> None:
        """Close the source file, in a worker. Idempotent."""
        if self._open:
            self._open = False
            if not self._reading:
                self._r.meta.post(self._file.close)

    def _answer(self, read: _DirectRead, *, seek: bool) -> tuple[memoryview, Fingerprint]:
        timeout = self._r.config.source.timeout
        self._r.scheduler.demand(read, read.piece.offset, seek=seek)
        try:
            read.result.wait(timeout=timeout)
        finally:
            read.wanted = False
        if not read.result.ready():
            raise SourceTimeout(f"no bytes from the source within {timeout} s")
        answer = read.result.get()
        assert answer is not None  # arrived() was called, or an exception set
        return answer

    def _done_reading(self) -> None:
        self._reading -= 1
        if not self._open and not self._reading:
            self._r.meta.post(self._file.close)

    def _still(self, now: Fingerprint) -> bool:
        change = self._seen.compare(now)
        if change is not Change.REWRITTEN:
            self._seen = now
        return change is not Change.REWRITTEN


class _DirectRead:
    """One read past the cache, as a feed of the scheduler that has one piece."""

    def __init__(self, file: SourceFile, piece: Piece) -> None:
        self.file = file
        self.piece = piece
        self.wanted = True
        self.started = False
        self.result: AsyncResult[tuple[memoryview, Fingerprint]] = AsyncResult()

    def demanded(self, offset: int, length: int) -> Piece | None:
        if not self.wanted:
            return None
        self.started = True
        return self.piece

    def sequential(self, length: int) -> Piece | None:
        return None

    def arrived(self, piece: Piece, data: memoryview, now: Fingerprint) -> None:
        # A copy: the buffer is used again as soon as this returns.
        self.result.set((memoryview(bytes(data)), now))

    def failed(self, piece: Piece, error: StreamCacheError) -> None:
        self.result.set_exception(error)
