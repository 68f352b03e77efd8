"""streamcache: serve slow files over HTTP from a fast local cache, while they are being copied."""

from streamcache.cache.delegate import CacheStatus
from streamcache.cache.file import StreamFile
from streamcache.cache.streamcache import StreamCache
from streamcache.config import Config
from streamcache.server.server import StreamCacheServer
from streamcache.source.base import Version
from streamcache.stats import Statistics

__all__ = [
    "CacheStatus",
    "Config",
    "Statistics",
    "StreamCache",
    "StreamCacheServer",
    "StreamFile",
    "Version",
]

__version__ = "0.1.0"
