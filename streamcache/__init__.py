"""streamcache: serve slow files over HTTP from a fast local cache, while they are being copied.

The public names are imported when they are first used (PEP 562): ``--help`` and the pure layers
need no gevent.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamcache.cache.delegate import CacheStatus
    from streamcache.cache.file import StreamFile
    from streamcache.cache.streamcache import StreamCache
    from streamcache.config import Config
    from streamcache.server.server import StreamCacheServer
    from streamcache.source.base import Version
    from streamcache.stats import Statistics

__version__ = "0.2.0"

__all__ = [
    "CacheStatus",
    "Config",
    "Statistics",
    "StreamCache",
    "StreamCacheServer",
    "StreamFile",
    "Version",
]

_HOMES = {
    "CacheStatus": "streamcache.cache.delegate",
    "Config": "streamcache.config",
    "Statistics": "streamcache.stats",
    "StreamCache": "streamcache.cache.streamcache",
    "StreamCacheServer": "streamcache.server.server",
    "StreamFile": "streamcache.cache.file",
    "Version": "streamcache.source.base",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
