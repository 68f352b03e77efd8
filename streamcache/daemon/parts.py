"""Who makes the cache and the server of a daemon's process: the real ones, or a test's."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from streamcache.config import Config
from streamcache.daemon import logs
from streamcache.server.addresses import AddressRow
from streamcache.stats import Statistics


class CachePart(Protocol):
    """What the daemon asks of a cache."""

    @property
    def config(self) -> Config:
        """The configuration; after ``start`` with the size that 0 stood for."""
        ...

    def start(self) -> None:
        """Open the directory; CacheInUse, CacheError, ConfigError."""
        ...

    def statistics(self) -> Statistics:
        """What this process counted."""
        ...

    def close(self) -> None:
        """Stop copies, keep partials."""
        ...


class ServerPart(Protocol):
    """What the daemon asks of a server."""

    @property
    def url(self) -> str:
        """Where it really listens."""
        ...

    @property
    def connections(self) -> int:
        """How many are open."""
        ...

    def start(self) -> None:
        """Bind, unless it was given a listener, and accept; OSError."""
        ...

    def stop(self, timeout: float | None = None) -> None:
        """Drain, and cut off what is not done after ``timeout`` s; a second call may hurry."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """How they are made; importing what they need makes no hub."""

    cache: Callable[[Config], CachePart]
    # Of an address; or of a socket that listens, which other processes accept from too.
    # The row: where its connections are counted by client.
    server: Callable[[str | socket.socket, CachePart, AddressRow], ServerPart]


def real_parts() -> Parts:
    """The cache and server of this package."""
    from streamcache.cache.streamcache import StreamCache
    from streamcache.server.server import StreamCacheServer

    def make_cache(config: Config) -> StreamCache:
        return StreamCache(config=config)

    def make_server(
        listen: str | socket.socket, cache: CachePart, addresses: AddressRow
    ) -> StreamCacheServer:
        assert isinstance(cache, StreamCache)
        if isinstance(listen, str):
            return StreamCacheServer(listen, cache, addresses=addresses, worker=logs.role())
        # One connection a turn: a worker that takes all that wait has them all.
        return StreamCacheServer(
            listen, cache, max_accept=1, addresses=addresses, worker=logs.role()
        )

    return Parts(make_cache, make_server)
