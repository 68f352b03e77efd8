"""``StreamCache``: one source behind one cache directory. The library's front door."""

from __future__ import annotations

import errno
import logging
import os
from typing import Self

import gevent
from gevent.lock import Semaphore

from streamcache.cache.assembly import Assembly
from streamcache.cache.delegate import Delegate
from streamcache.cache.file import StreamFile
from streamcache.cache.found import Found
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.operations import Operations
from streamcache.config import Config, change, changed
from streamcache.errors import Closed, ConfigError, StreamCacheError
from streamcache.stats import Counters, SessionStatistics, Statistics
from streamcache.units import parse_size

_PIECE = 1024 * 1024  # bytes of one read ahead
_AHEAD = 4  # times as much that the disk is told of, before it is wanted
_PREFETCH_WAIT = 10.0  # s: longer than any disk takes that is alive

# Where all workers read ahead to at once: nobody looks at it.
_thrown_away = memoryview(bytearray(_PIECE))

log = logging.getLogger(__name__)


class StreamCache:
    """A cache; used by the greenlets of one thread's hub, the one of its first use."""

    def __init__(
        self,
        source: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_size: str | int | None = None,
        *,
        config: Config | None = None,
    ) -> None:
        """``source`` and ``cache_dir`` are directories, ``cache_size`` bytes or "50GB".

        They stand for the same options of ``config``, which has the others. Nothing is touched
        before ``start``, or the first use. Raises ConfigError.
        """
        config = config or Config()
        if source is not None:
            config = changed(config, "source", path=os.fspath(source))
        if cache_dir is not None:
            config = changed(config, "cache", dir=os.fspath(cache_dir))
        if cache_size is not None:
            try:
                size = parse_size(cache_size) if isinstance(cache_size, str) else cache_size
            except ValueError as error:
                raise ConfigError(f"cache_size = {cache_size!r}: {error}") from error
            config = changed(config, "cache", size=size)
        if not config.source.path:
            raise ConfigError("source.path: name the directory that is to be served")
        if not config.cache.dir:
            raise ConfigError("cache.dir: name a directory on a fast local disk")
        self.config = config
        self.counters = Counters()
        self._hub: object = None
        self._pid = 0
        self._closed = False
        self._parts: Assembly | None = None
        self._starting = Semaphore()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._parts else "not started"
        return f"<StreamCache {self.config.source.path!r} {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Open the cache directory and take up what is in it. Idempotent. Switches.

        Afterwards ``config.cache.size`` is what 0 stood for. Raises ConfigError, CacheInUse,
        CacheError.
        """
        if self._closed:
            raise Closed("the cache is closed")
        hub = gevent.get_hub()
        if self._hub is None:
            self._hub, self._pid = hub, os.getpid()
        elif self._hub is not hub or self._pid != os.getpid():
            raise RuntimeError(
                "a StreamCache belongs to the hub (thread, process) of its first use"
            )
        with self._starting:  # a second one waits for the first
            if self._parts is None:
                self._open_parts()

    def _open_parts(self) -> None:
        parts = Assembly(self.config, self.counters)
        try:
            parts.open()
            if self._closed:
                raise Closed("the cache was closed while it started")
        except BaseException:
            parts.close(timeout=0)
            raise
        self._parts, self.config = parts, parts.config

    def find(self, path: str, *, ahead: int | None = None) -> Found:
        """The version of ``path`` ("/a/b.mp4") that is served now. Switches.

        ``ahead``: the offset where the caller will read next, if it will. While the source does not
        answer it is the last that is known, and ``Found.open`` fails if the cache lacks its bytes.
        Raises NotFound, AccessDenied, SourceTimeout, SourceBusy, SourceUnavailable or Closed.
        """
        return self._started.provider.find(path, ahead=ahead)

    def peek(self, path: str, last: ObjectHandle | None = None) -> ObjectHandle | None:
        """See ``Provider.peek``; for a server in this hub. Does not switch."""
        return None if self._parts is None else self._parts.provider.peek(path, last)

    def delivered(self, hot: ObjectHandle, client: str, count: int, now: float) -> None:
        """See ``Provider.delivered``, of what ``peek`` gave. Does not switch."""
        assert self._parts is not None
        self._parts.provider.delivered(hot, client, count, now)

    def take(self, hot: ObjectHandle, client: str, path: str) -> Delegate:
        """See ``Provider.take``, of what ``peek`` gave. Does not switch."""
        assert self._parts is not None
        return self._parts.provider.take(hot, client, path)

    def prefetch(self, fd: int, offset: int, count: int) -> bool:
        """Have these bytes of a file in the page cache; whether they were there already.

        Switches. Raises OSError, Closed. ``fd`` may be closed meanwhile.
        """
        parts = self._parts
        if parts is None:
            raise Closed("the cache is closed")
        own = os.dup(fd)  # it belongs to the worker until it returns (I4)
        try:
            return parts.disk.call(_read_through, own, offset, count, timeout=_PREFETCH_WAIT)
        except StreamCacheError:  # it was not begun
            os.close(own)
            raise

    def open(self, path: str) -> StreamFile:
        """A file-like object of one version; the copy begins, or is joined. Switches. Raises as
        ``find``, and SourceChanged.
        """
        parts = self._started
        with parts.provider.find(path, ahead=0) as found:
            return StreamFile(found.open("local"), parts.disk.call, path)

    def reconfigure(self, config: Config) -> tuple[str, ...]:
        """Take what can change while it runs from ``config``; all at once, as it does not switch.

        The names of options that differ and need a restart ("cache.size"). Those of [server],
        [access], [limits] and [log] are not looked at. Raises ConfigError, and changes nothing,
        when old and new do not go together.
        """
        new = change(self.config, config, ("source", "cache", "copy"))
        self.config = new.config
        if self._parts is not None:
            self._parts.reconfigure(new.config)
        return new.restart

    @property
    def operations(self) -> Operations:
        """What an operator does: look at entries, purge, pin, warm. Switches when it starts."""
        return self._started.operations

    def statistics(self) -> Statistics:
        """A snapshot of counters, usage and live copies."""
        counters = self.counters.snapshot()
        parts = self._parts
        if parts is None:
            return Statistics(**counters)
        return Statistics(
            **counters,
            source_answers=not parts.breaker.is_open,
            source_openings=parts.breaker.openings,
            source_stuck=parts.stuck(),
            disk_normal=not parts.health.degraded,
            disk_reason=parts.health.reason,
            disk_failures=parts.health.failures,
            disk_stuck=parts.health.stuck(),
            usage=parts.space.used,
            reserved=parts.space.reserved,
            limit=parts.space.limit,
            objects=parts.ledger.objects,
            sessions=tuple(
                SessionStatistics(
                    path=session.path,
                    state=session.state.value,
                    size=session.version.size,
                    present=session.map.present_bytes,
                    readers=len(session.readers),
                    resumed=session.resumed,
                )
                for session in parts.provider.copies.sessions.values()
            ),
        )

    def close(self, timeout: float = 10.0) -> None:
        """End copies (their partials stay) and give everything back. Idempotent. Switches.

        In a forked child it does nothing: threads, locks and copies are its parent's.
        """
        self._closed = True
        if self._pid not in (0, os.getpid()):
            return
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.close(timeout=timeout)

    @property
    def _started(self) -> Assembly:
        self.start()
        if self._parts is None:
            raise Closed("the cache is closed")
        return self._parts


def _read_through(fd: int, offset: int, count: int) -> bool:
    """Worker thread: read bytes for their being in the page cache, and close ``fd``.

    Whether all of them were there already.
    """
    there, flags = True, os.RWF_NOWAIT
    try:
        stop = offset + count
        while offset < stop:
            try:
                read = os.preadv(fd, (_thrown_away[: stop - offset],), offset, flags)
            except OSError as error:
                if not flags or error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                    raise
                there, flags = False, 0
                # All of it at once, and what comes next while this is sent.
                for begin in range(offset, stop + _AHEAD * count, count):
                    os.posix_fadvise(fd, begin, count, os.POSIX_FADV_WILLNEED)
                continue
            if not read:
                break
            offset += read
        return there
    finally:
        os.close(fd)
