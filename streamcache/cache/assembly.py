"""What a started cache is made of, how that is put together, and in which order it is opened.

Hub's thread. Everything that a ``StreamCache`` does is one of these parts' work.
"""

from __future__ import annotations

import logging
import os
import resource

from streamcache.cache.checking import CheckedObjects
from streamcache.cache.digests import digest_of_copies
from streamcache.cache.evictor import Evictor
from streamcache.cache.freshness import Freshness
from streamcache.cache.headroom import Headroom
from streamcache.cache.health import Health
from streamcache.cache.ledger import Ledger
from streamcache.cache.locks import KeyLocks
from streamcache.cache.objects import Objects
from streamcache.cache.operations import Operations
from streamcache.cache.probepool import ProbePool
from streamcache.cache.provider import Provider
from streamcache.cache.recovery import Recovery
from streamcache.cache.removal import Removal
from streamcache.cache.resources import Resources
from streamcache.cache.space import Space
from streamcache.cache.store import Renewed, Store
from streamcache.cache.workers import WorkerPool
from streamcache.config import Config, changed
from streamcache.config.source import SourceConfig
from streamcache.errors import CacheError, ConfigError
from streamcache.source.breaker import Breaker
from streamcache.source.filesystem import FileSystemSource
from streamcache.source.scheduler import Scheduler
from streamcache.stats import Counters

_JOIN = 1.0  # s that close() waits for worker threads; one that hangs at the source stays behind

log = logging.getLogger(__name__)


class Assembly:
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
        self.digest = None if cache.checksum == "off" else digest_of_copies()
        self.store = Store(cache.dir, self.digest)
        self.reads = WorkerPool("source", size=source.workers)
        self.meta = WorkerPool("meta", size=source.meta_workers)
        self.probe = ProbePool("probe")
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
            raise _unusable(self.store.root, error) from error
        if expected != seen:
            log.error(
                "source is not mounted; if it moved, remove the file source=%r expected=%r file=%r",
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
            trash_files=self.store.objects.trash,
        )
        if not self.space.size:
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
            self._why_no_copies,
        )
        self.evictor.start()
        self.health.start()

    def _why_no_copies(self) -> str:
        """What keeps all files from being copied now, in words; "": nothing."""
        if self.breaker.is_open:
            return "the source does not answer"
        if self.health.degraded:
            return "the disk of the cache fails"
        return "" if self.space.known else "what is in the cache is being counted"

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
                log.warning("threads left behind pool=%r", pool)
        self.keys.use(-1)
        self.store.close()


def _unusable(root: str, error: OSError) -> CacheError:
    """Names the file that is in the way, if it is not the directory itself."""
    file = "" if error.filename in (None, root) else f"{error.filename!r}: "
    return CacheError(f"cache directory {root!r}: {file}{error.strerror}")


def _open_source(config: SourceConfig) -> FileSystemSource:
    """Worker thread. Raises ConfigError."""
    if not os.path.isdir(config.path):
        raise ConfigError(f"source.path = {config.path!r}: a directory is needed")
    return FileSystemSource(config.path, id=config.id, identity=config.identity)
