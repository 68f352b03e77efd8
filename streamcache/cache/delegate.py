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
from streamcache.cache.reopening import Reopening
from streamcache.cache.resources import Resources
from streamcache.cache.session import CopySession
from streamcache.cache.workers import is_there
from streamcache.errors import CacheError, Closed, SourceChanged, SourceTimeout, StreamCacheError
from streamcache.source.base import Change, Fingerprint, SourceFile, Version
from streamcache.source.feed import Piece
from streamcache.stats import Counters

_FIRST_BYTES = 64 * 1024  # in the first: it should come at once
_CHECKED_BYTES = 1024 * 1024  # that are compared with their digests together


class CacheStatus(enum.Enum):
    """How a request was answered."""

    HIT = "hit"  # the object was there
    STALE = "stale"  # that, or a running copy, but the source could not be asked
    COLLAPSED = "collapsed"  # joined a running copy
    MISS = "miss"  # started one
    BYPASS = "bypass"  # straight from the source


class Delegate(Protocol):
    """An open version of a file."""

    version: Version
    status: CacheStatus
    from_cache: int  # bytes delivered that were in the cache when they were due
    from_source: int  # bytes delivered that had to come from the source first

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

    def failed(self, error: Exception) -> None:
        """What ``ready`` gave cannot be read: from now on it reads past the cache, if it can.

        Switches. Raises ``error`` if there is no other way, SourceError or SourceChanged.
        """
        ...

    def close(self) -> None:
        """Give the lease back. Idempotent; never blocks, does not switch."""
        ...


class _Counted:
    """What the delegates share: version, status, and the count of what they deliver."""

    def __init__(
        self, version: Version, status: CacheStatus, counters: Counters, *, counted: bool = True
    ) -> None:
        """``counted`` False: it goes on for another one, whose request it is."""
        self.version = version
        self.status = status
        self.from_cache = self.from_source = 0
        self._counters = counters
        if counted:
            counters.request(status.value)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.version.size

    def sent(self, ready: Ready, count: int) -> None:
        """Count delivered bytes, by status and by where they came from."""
        fetched = min(count, ready.fetched)
        self.from_source += fetched
        self.from_cache += count - fetched
        self._counters.delivered(self.status.value, count)
        self._counters.bytes_from_cache += count - fetched


Instead = Callable[[Exception], Delegate]
"""Opens the same version past the cache, where it cannot be read. Switches; raises as ``find``."""


class _Replaceable(_Counted):
    """What reads from the cache's disk, or past it when that cannot be read."""

    _instead: Instead | None = None
    _other: Delegate | None = None

    def failed(self, error: Exception) -> None:
        """Go on past the cache. Switches."""
        if self._other is not None or self._instead is None:
            raise error
        self._other = self._instead(error)

    def _close_other(self) -> None:
        if self._other is not None:
            self._other.close()


class CachedFileDelegate(_Replaceable):
    """Reads an object. Nothing here touches the source or switches, as long as it can be read."""

    def __init__(
        self,
        handle: ObjectHandle,
        status: CacheStatus,
        counters: Counters,
        release: Callable[[ObjectHandle], None],
        instead: Instead | None = None,
    ) -> None:
        """Takes over the lease on ``handle``."""
        super().__init__(handle.version, status, counters)
        self._handle: ObjectHandle | None = handle
        self._release = release
        self._instead = instead

    def ready(self, offset: int, stop: int) -> Ready:
        """All of it."""
        if self._handle is None:
            raise Closed("the delegate is closed")
        if self._other is not None:
            return self._other.ready(offset, stop)
        stop = min(stop, self.size)
        unchecked = self._handle.unchecked
        if unchecked is not None:
            stop = min(stop, offset - offset % _CHECKED_BYTES + _CHECKED_BYTES)
            try:
                wrong = unchecked.find_wrong(offset, stop)
                if wrong is not None:
                    raise CacheError(f"block {wrong} is not what was written")
            except (OSError, CacheError) as error:
                self.failed(error)
                return self.ready(offset, stop)
            if self._handle is None:
                raise Closed("the delegate is closed")
        return Ready(self._handle.fd, offset, stop - offset, seen=self._handle.seen)

    def close(self) -> None:
        """Release the object. Idempotent."""
        self._close_other()
        handle, self._handle = self._handle, None
        if handle is not None:
            self._release(handle)


class TempFileDelegate(_Replaceable):
    """Reads a copy under way; what is not yet there is delegated to the session."""

    def __init__(
        self,
        session: CopySession,
        status: CacheStatus,
        counters: Counters,
        instead: Instead | None = None,
        client: str = "",
    ) -> None:
        """Takes a lease on the session."""
        super().__init__(session.version, status, counters)
        self._instead = instead
        self._session = session
        self._reader = session.inc_ref(client)
        self._open = True

    def ready(self, offset: int, stop: int) -> Ready:
        """What is present from ``offset`` on; else wait for it. Switches."""
        if not self._open:
            raise Closed("the delegate is closed")
        if self._other is not None:
            return self._other.ready(offset, stop)
        return self._session.read(self._reader, offset, min(stop, self.size))

    def close(self) -> None:
        """Leave the session. Idempotent."""
        self._close_other()
        if self._open:
            self._open = False
            self._session.dec_ref(self._reader)


class DirectFileDelegate(_Counted):
    """Reads the source, and keeps nothing: too large for the cache, or still being written.

    A file that grows is served up to the size it had when it was opened; any other change ends
    the response. (An append cannot be told from a rewrite that also grows.) A reader that reads on
    has one piece read ahead, so it is not bound by latency; it holds two pieces at most (I16).
    """

    def __init__(self, file: SourceFile, resources: Resources, *, counted: bool = True) -> None:
        """Owns ``file`` from now on."""
        super().__init__(file.version, CacheStatus.BYPASS, resources.counters, counted=counted)
        self._r = resources
        self._file = file
        self._seen = file.fingerprint
        self._reopening = Reopening(resources.source, resources.meta, file)
        self._expected = -1
        self._ahead: _DirectRead | None = None
        self._reading = 0  # reads under way: one that timed out may still be
        self._open = True

    def ready(self, offset: int, stop: int) -> Ready:
        """Read from the source. Switches."""
        if not self._open:
            raise Closed("the delegate is closed")
        first, self._file.ahead = self._file.ahead, None
        if first is not None and 0 <= (skip := offset - first.offset) < len(first.data):
            data = first.data[skip : skip + stop - offset]
            self._expected = offset + len(data)
            return Ready(-1, offset, len(data), data, fetched=len(data))
        seek = offset != self._expected
        read = self._take_ahead(offset, stop)
        if read is None:
            length = min(stop - offset, _FIRST_BYTES if seek else DELIVERED_BYTES)
            read = self._demand(Piece(offset, length), seek=seek)
        after = offset + read.piece.length
        if not seek and after < stop:
            length = min(stop - after, DELIVERED_BYTES)
            self._ahead = self._demand(Piece(after, length), seek=False)
        try:
            data = self._answer(read)
        except BaseException:
            self._drop_ahead()
            raise
        self._expected = after
        return Ready(-1, offset, len(data), data, fetched=len(data))

    def failed(self, error: Exception) -> None:
        """There is no other way than to the source."""
        raise error

    def close(self) -> None:
        """Close the source file, in a worker. Idempotent."""
        if self._open:
            self._open = False
            self._drop_ahead()
            self._close_unless_read()

    def _demand(self, piece: Piece, *, seek: bool) -> _DirectRead:
        read = _DirectRead(self._file, piece, self)
        self._r.scheduler.demand(read, piece.offset, seek=seek)
        return read

    def _take_ahead(self, offset: int, stop: int) -> _DirectRead | None:
        """What was read ahead, if it is what is wanted now."""
        read = self._ahead
        if read is None:
            return None
        if read.piece.offset != offset or offset + read.piece.length > stop:
            self._drop_ahead()
            return None
        self._ahead = None
        return read

    def _drop_ahead(self) -> None:
        read, self._ahead = self._ahead, None
        if read is not None:
            self._give_up(read)

    def _give_up(self, read: _DirectRead) -> None:
        read.wanted = False
        self._r.scheduler.withdraw(read)

    def _answer(self, read: _DirectRead) -> memoryview:
        timeout = self._r.config.source.timeout
        try:
            there = is_there(read.result, timeout)
        finally:
            self._give_up(read)
        if not there:
            raise SourceTimeout(f"/{self._file.path}: no bytes within {timeout} s")
        data = read.result.get()
        assert data is not None  # arrived() was called, or an exception set
        return data

    # -- what its reads tell

    def started(self) -> Fingerprint | None:
        """A worker begins: the descriptor is its own now (I4). What the file was last.

        None: it is closed, so nothing begins.
        """
        if not self._open:
            return None
        self._reading += 1
        return self._seen

    def done(self) -> None:
        """It has come back."""
        self._reading -= 1
        if not self._open:
            self._close_unless_read()

    def is_changed(self, before: Fingerprint, now: Fingerprint) -> bool:
        """Whether the bytes that were read between these two looks are of another version.

        Two reads may be under way, so the looks do not come in their order: each is compared with
        the one before its own read, and with the newest.
        """
        changes = (before.compare(now), self._seen.compare_any(now))
        if Change.REWRITTEN in changes:
            return True
        self._seen = self._seen.newer(now)
        return False

    def second_try(self, read: _DirectRead, error: StreamCacheError) -> None:
        """Its first failed. Switches; raises SourceChanged."""
        now = self._reopening.prepare(error, self._seen)
        if now is not None and self.is_changed(self._seen, now):
            raise SourceChanged(f"/{self._file.path}: replaced at the source")
        self._r.scheduler.demand(read, read.piece.offset, seek=False)

    def _close_unless_read(self) -> None:
        if not self._reading:
            self._r.meta.post(self._file.close)


class _DirectRead:
    """One read past the cache, as a feed of the scheduler that has one piece."""

    def __init__(self, file: SourceFile, piece: Piece, owner: DirectFileDelegate) -> None:
        self.file = file
        self.piece = piece
        self.wanted = True
        self.before = file.fingerprint  # what the file was before the read
        self.result: AsyncResult[memoryview] = AsyncResult()
        self._owner = owner
        self._failed = False

    @property
    def seen(self) -> Fingerprint:
        """What the file was before the read."""
        return self.before

    @property
    def sink(self) -> None:
        """Nothing is kept."""

    def demanded(self, offset: int, length: int) -> Piece | None:
        before = self._owner.started() if self.wanted else None
        if before is None:
            return None
        self.before = before
        return self.piece

    def sequential(self, length: int) -> Piece | None:
        return None

    def arrived(self, piece: Piece, data: memoryview, now: Fingerprint) -> None:
        if len(data) < piece.length or self._owner.is_changed(self.before, now):
            path = self.file.path
            error = SourceChanged(f"/{path}: changed at the source while it was read")
            self.result.set_exception(error)
        elif self.wanted:
            # A copy: the buffer is used again as soon as this returns.
            self.result.set(memoryview(bytes(data)))
        self._owner.done()

    def failed(self, piece: Piece, error: StreamCacheError) -> None:
        """Once more, as a copy does."""
        try:
            if self._failed or not self.wanted:
                self.result.set_exception(error)
            else:
                self._failed = True
                self._owner.second_try(self, error)
        except SourceChanged as changed:
            self.result.set_exception(changed)
        finally:
            self._owner.done()
