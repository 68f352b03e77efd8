"""``StreamCache``: one source behind one cache directory. The library's front door."""

from __future__ import annotations

import logging
import os
import resource
from types import TracebackType
from typing import Self

import gevent
from gevent.lock import Semaphore

from streamcache.cache.checking import CheckedObjects
from streamcache.cache.delegate import Delegate
from streamcache.cache.digests import digest
from streamcache.cache.evictor import Evictor
from streamcache.cache.file import StreamFile
from streamcache.cache.found import Found
from streamcache.cache.freshness import Freshness
from streamcache.cache.headroom import Headroom
from streamcache.cache.health import Health
from streamcache.cache.ledger import Ledger
from streamcache.cache.locks import KeyLocks
from streamcache.cache.objects import ObjectHandle, Objects
from streamcache.cache.operations import Operations
from streamcache.cache.provider import Provider
from streamcache.cache.recovery import Recovery
from streamcache.cache.removal import Removal
from streamcache.cache.resources import Resources
from streamcache.cache.space import Space
from streamcache.cache.store import Renewed, Store
from streamcache.cache.workers import WorkerPool
from streamcache.config import Config, change, changed
from streamcache.config.source import SourceConfig
from streamcache.errors import CacheError, Closed, ConfigError, StreamCacheError
from streamcache.source.breaker import Breaker
from streamcache.source.filesystem import FileSystemSource
from streamcache.source.scheduler import Scheduler
from streamcache.stats import Counters, SessionStatistics, Statistics
from streamcache.units import parse_size

_PIECE = 256 * 1024  # bytes of one read ahead
_PREFETCH_WAIT = 10.0  # s: longer than any disk takes that is alive
_JOIN = 1.0  # s that close() waits for worker threads; one that hangs at the source stays behind

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
        self._parts: _Parts | None = None
        self._starting = Semaphore()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._parts else "not started"
        return f"<StreamCache {self.config.source.path!r} {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
        parts = _Parts(self.config, self.counters)
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

        ``ahead``: the offset where the caller will read next, if it will. Raises NotFound,
        AccessDenied, SourceTimeout, SourceBusy, SourceUnavailable or Closed.
        """
        return self._started.provider.find(path, ahead=ahead)

    def peek(self, path: str, last: ObjectHandle | None = None) -> ObjectHandle | None:
        """See ``Provider.peek``; for a server in this hub. Does not switch."""
        return None if self._parts is None else self._parts.provider.peek(path, last)

    def delivered(self, hot: ObjectHandle, client: str, count: int) -> None:
        """See ``Provider.delivered``, of what ``peek`` gave. Does not switch."""
        assert self._parts is not None
        self._parts.provider.delivered(hot, client, count)

    def take(self, hot: ObjectHandle, client: str, path: str) -> Delegate:
        """See ``Provider.take``, of what ``peek`` gave. Does not switch."""
        assert self._parts is not None
        return self._parts.provider.take(hot, client, path)

    def prefetch(self, fd: int, offset: int, count: int) -> None:
        """Have these bytes of a file in the page cache. Switches. Raises OSError, Closed.

        ``fd`` may be closed meanwhile.
        """
        parts = self._parts
        if parts is None:
            raise Closed("the cache is closed")
        own = os.dup(fd)  # it belongs to the worker until it returns (I4)
        try:
            parts.disk.call(_read_through, own, offset, count, timeout=_PREFETCH_WAIT)
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
                )
                for session in parts.provider.sessions.values()
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
    def _started(self) -> _Parts:
        self.start()
        if self._parts is None:
            raise Closed("the cache is closed")
        return self._parts


def _open_source(config: SourceConfig) -> FileSystemSource:
    """Worker thread. Raises ConfigError."""
    if not os.path.isdir(config.path):
        raise ConfigError(f"source.path = {config.path!r}: a directory is needed")
    return FileSystemSource(config.path, id=config.id, identity=config.identity)


def _read_through(fd: int, offset: int, count: int) -> None:
    """Worker thread: read bytes for their being in the page cache, and close ``fd``."""
    try:
        buffer = (bytearray(min(count, _PIECE)),)
        stop = offset + count
        while offset < stop and (read := os.preadv(fd, buffer, offset)):
            offset += read
    finally:
        os.close(fd)


class _Parts:
    """What a started cache is made of, in the order in which it is opened."""

    source: FileSystemSource
    breaker: Breaker
    scheduler: Scheduler
    ledger: Ledger
    health: Health
    recovery: Recovery
    evictor: Evictor
    provider: Provider
    operations: Operations

    def __init__(self, config: Config, counters: Counters) -> None:
        self.config = config
        source, cache = config.source, config.cache
        self.digest = None if cache.checksum == "off" else digest()
        self.store = Store(cache.dir, self.digest)
        self.reads = WorkerPool("source", size=source.workers)
        self.meta = WorkerPool("meta", size=source.meta_workers)
        self.probe = WorkerPool("probe", size=1)
        self.disk = WorkerPool("disk", size=cache.workers)
        self.space = Space(
            cache.size,
            high=cache.high_watermark,
            low=cache.low_watermark,
            cleanup=cache.cleanup,
            max_file_size=cache.max_file_size,
        )
        self.keys = KeyLocks()
        self.counters = counters

    def open(self) -> None:
        """Take the directory, settle what dead processes left, start the Evictor. Switches."""
        self.source = self.meta.call(_open_source, self.config.source)
        try:
            alone = self.disk.call(self.store.prepare)
            self.keys.use(self.store.lock)
            seen = self.source.mount_point
            expected = self.disk.call(self.store.mount_point, self.source.id, seen)
        except OSError as error:
            raise CacheError(f"cache directory {self.store.root!r}: {error.strerror}") from error
        if expected != seen:
            log.error(
                "source is not mounted source=%r expected=%r; if it moved, remove %r",
                self.source.root,
                expected,
                os.path.join(self.store.root, "mounts"),
            )
            self.source.expect_mount(expected)
        self.ledger = Ledger.open(
            self.store,
            self.space,
            self.disk,
            self.config.cache,
            alone=alone,
            partials=self.store.partials.room,
            trash_files=self.store.trash,
        )
        if not self.ledger.size:
            self.ledger.look()
            self.ledger.agree((self.disk.call(self.store.free_bytes) + self.space.used) // 2)
        self.config = changed(self.config, "cache", size=self.space.limit)
        self.store.share()
        self.ledger.start()
        self._wire()
        if alone:
            try:
                self.recovery.sweep()
            except (OSError, CacheError) as error:  # the Evictor's rounds do it again
                log.warning("leftovers are not settled yet error=%s", error)
        log.info(
            "cache open dir=%r size=%d objects=%d alone=%s",
            self.store.root,
            self.space.limit,
            self.ledger.objects,
            alone,
        )

    def _wire(self) -> None:
        copy, cache = self.config.copy, self.config.cache
        self.breaker = Breaker(
            self.source.root,
            timeout=self.config.source.timeout,
            probe=self.source.probe,
            pool=self.probe,
            exhausted=self._no_thread_left,
        )
        self.scheduler = Scheduler(
            self.source,
            self.reads,
            self.counters,
            in_flight=copy.in_flight,
            step_time=copy.step_time,
            max_bandwidth=copy.max_bandwidth,
            breaker=self.breaker,
        )
        keep = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)
        self.health = Health(
            self.store,
            self.disk,
            headroom=Headroom(self.store, self.space, self.disk),
            catalog=self.ledger.pool,
            probe=self.ledger.probe,
            renewed=self._renewed,
        )
        self.ledger.tell(self.health)
        parts = (self.store, self.ledger, self.disk, self.health)
        if self.digest is not None and cache.checksum_on_read:
            objects: Objects = CheckedObjects(*parts, keep=keep, digest=self.digest)
        else:
            objects = Objects(*parts, keep=keep)
        self.recovery = Recovery(self.store, self.ledger, self.space, objects, self.keys, self.disk)
        self.evictor = Evictor(
            self.space,
            self.ledger,
            catalog_call=self.ledger.call,
            remove=self._evict,
            leased=objects.leased,
            drop_idle_partials=self.recovery.drop_oldest,
            interval=cache.evict_interval,
            lock=os.path.join(self.store.root, "evictor"),
            sweep=self.recovery.sweep,
            each_look=objects.let_go_of_removed,
            evicted=self.counters.evicted_age.observe,
        )
        self.space.on_fewer = objects.let_go_of_removed
        self.objects = objects
        resources = Resources(
            config=self.config,
            counters=self.counters,
            source=self.source,
            scheduler=self.scheduler,
            store=self.store,
            space=self.space,
            objects=objects,
            keys=self.keys,
            health=self.health,
            disk=self.disk,
            meta=self.meta,
        )
        freshness = Freshness(
            self.source, self.meta, self.config.source, self.counters, self.breaker
        )
        removal = Removal(resources, self.ledger)
        self.provider = Provider(resources, freshness, self.ledger, removal)
        self.operations = Operations(
            resources,
            self.ledger,
            freshness,
            removal,
            self.provider,
            lambda: self.space.known and not (self.breaker.is_open or self.health.degraded),
        )
        self.evictor.start()
        self.health.start()

    def _renewed(self, what: Renewed) -> None:
        """Some of the cache directory was removed, and made again."""
        if what.lock >= 0:
            self.store.take_lock(what.lock)
            self.keys.use(what.lock)
        if what.objects_lost:
            self.ledger.begin_anew()

    def reconfigure(self, config: Config) -> None:
        """Other options, of those that can change. Does not switch."""
        source, cache, copy = config.source, config.cache, config.copy
        self.config = config
        self.space.reconfigure(
            high=cache.high_watermark,
            low=cache.low_watermark,
            cleanup=cache.cleanup,
            max_file_size=cache.max_file_size,
        )
        self.ledger.reconfigure(cache)
        self.evictor.reconfigure(cache.evict_interval)
        self.breaker.reconfigure(source.timeout)
        self.provider.reconfigure(config)
        self.scheduler.reconfigure(
            in_flight=copy.in_flight, step_time=copy.step_time, max_bandwidth=copy.max_bandwidth
        )

    def stuck(self) -> int:
        """Threads whose call to the source should have come back."""
        age = self.config.source.timeout
        return sum(pool.stuck(age) for pool in (self.reads, self.meta, self.probe))

    def _no_thread_left(self) -> bool:
        """To ask the source with: all hang in it."""
        return self.meta.stuck(self.config.source.timeout) >= self.meta.size

    def _evict(self, names: list[str]) -> list[str]:
        gone = self.objects.evict(names)
        self.counters.evictions += len(gone)
        return gone

    def close(self, *, timeout: float) -> None:
        """In the opposite order; also what was opened only in part. Switches."""
        pools = [self.reads, self.meta, self.probe, self.disk]
        if hasattr(self, "provider"):
            self.breaker.stop()
            self.operations.close()
            if (prober := self.health.stop()) is not None:
                pools.append(prober)
            self.provider.close(timeout)
            self.evictor.stop(1.0 if self.health.degraded else 5.0)
            self.objects.close()
        if hasattr(self, "ledger"):
            self.ledger.close()
        for pool in pools:
            pool.close()
        for pool in pools:
            if not pool.join(_JOIN):
                log.warning("threads left behind %r", pool)
        self.keys.use(-1)
        self.store.close()
