"""Who makes the cache and the server of a daemon's process: the real ones, or a test's."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from streamcache.admin import subject
from streamcache.config import Config
from streamcache.daemon import logs
from streamcache.server.addresses import AddressRow


class CachePart(subject.Cache, Protocol):
    """What the daemon asks of a cache; after ``start`` ``config`` has the size that 0 stood for."""

    def start(self) -> None:
        """Open the directory; CacheInUse, CacheError, ConfigError."""
        ...

    def reconfigure(self, config: Config) -> tuple[str, ...]:
        """Take what can change; options that need a restart. Does not switch. ConfigError."""
        ...

    def close(self) -> None:
        """Stop copies, keep partials."""
        ...


class ServerPart(subject.Server, Protocol):
    """What the daemon asks of a server."""

    def start(self) -> None:
        """Accept; OSError."""
        ...

    def reconfigure(self, config: Config) -> tuple[str, ...]:
        """Take what can change; options that need a restart. Switches. ConfigError."""
        ...

    def reopen_logs(self) -> None:
        """Take what the names of its log files stand for now. Does not switch."""
        ...

    def stop(self, timeout: float | None = None) -> None:
        """Drain, and cut off what is not done after ``timeout`` s; a second call may hurry."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """How they are made; importing what they need makes no hub."""

    cache: Callable[[Config], CachePart]
    # Of a socket that listens, which other processes may accept from too. The row: where its
    # connections are counted by client.
    server: Callable[[socket.socket, CachePart, AddressRow], ServerPart]


def real_parts() -> Parts:
    """The cache and server of this package."""
    from streamcache.cache.streamcache import StreamCache
    from streamcache.server.acceptor import ACCEPTS_PER_TURN
    from streamcache.server.server import StreamCacheServer

    def make_cache(config: Config) -> StreamCache:
        return StreamCache(config=config)

    def make_server(
        listener: socket.socket, cache: CachePart, addresses: AddressRow
    ) -> StreamCacheServer:
        assert isinstance(cache, StreamCache)
        # One connection a turn where there are others: who takes all that wait has them all.
        most = ACCEPTS_PER_TURN if cache.config.server.workers == 1 else 1
        return StreamCacheServer(
            listener, cache, max_accept=most, addresses=addresses, worker=logs.role()
        )

    return Parts(make_cache, make_server)
