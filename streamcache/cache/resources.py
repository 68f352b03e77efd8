"""What every session of a cache shares."""

from __future__ import annotations

from dataclasses import dataclass

from streamcache.cache.health import Health
from streamcache.cache.locks import KeyLocks
from streamcache.cache.objects import Objects
from streamcache.cache.space import Space
from streamcache.cache.store import Store
from streamcache.cache.workers import WorkerPool
from streamcache.config import Config
from streamcache.source.base import Source
from streamcache.source.scheduler import Scheduler
from streamcache.stats import Counters


@dataclass(slots=True)
class Resources:
    """The source with its scheduler, the cache directory with its account, and the threads."""

    config: Config  # replaced as a whole by a reload
    counters: Counters
    source: Source
    scheduler: Scheduler
    store: Store
    space: Space
    objects: Objects
    keys: KeyLocks
    health: Health  # of the disk that the cache directory is on
    disk: WorkerPool  # reads and writes the cache
    meta: WorkerPool  # opens, stats and closes at the source
