"""What each of several workers gets of the limits that a setting gives for the whole daemon.

Divided: threads, connections, and what copying takes from the source. Not divided: the cache's
size, which the directory itself keeps account of, and everything that is about one request, one
connection or one file.
"""

from __future__ import annotations

from typing import Final

from streamcache.config import TABLE, Config, changed

_FEWEST_THREADS: Final = 4  # of a pool: one call that hangs must not stop the rest
_FEWEST_IN_FLIGHT: Final = 2  # else each read of a lone copy costs the source's whole latency


def share_of(config: Config, workers: int) -> Config:
    """The configuration of one of ``workers`` processes; 0 means what it meant.

    Rounded up, so the sum may be larger than the setting by less than one for each worker, and
    larger still where a worker cannot do with less. Never more than the setting for one worker.
    """
    source, cache, copy = config.source, config.cache, config.copy
    config = changed(
        config,
        "source",
        workers=_part(source.workers, workers, _FEWEST_THREADS),
        meta_workers=_part(source.meta_workers, workers, _FEWEST_THREADS),
    )
    config = changed(config, "cache", workers=_part(cache.workers, workers, _FEWEST_THREADS))
    config = changed(
        config,
        "copy",
        in_flight=_part(copy.in_flight, workers, _FEWEST_IN_FLIGHT),
        max_idle=_part(copy.max_idle, workers),
        max_bandwidth=_part(
            copy.max_bandwidth, workers, int(TABLE["copy"]["max_bandwidth"].minimum)
        ),
    )
    return changed(config, "limits", connections=_part(config.limits.connections, workers))


def _part(whole: int, workers: int, fewest: int = 0) -> int:
    return max(-(-whole // workers), min(fewest, whole))
