"""The daemon's life: check, open the cache, listen, say so, wait for a signal, drain.

Main greenlet only. The parts that do the work are imported when they are needed, so that
``--help``, ``--check`` and error messages come at once.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from streamcache.config import Config
from streamcache.daemon import checks, logs
from streamcache.daemon.announce import ready_line, report, say
from streamcache.daemon.paths import resolve
from streamcache.daemon.signals import StopSignals
from streamcache.errors import CacheError, CacheInUse, ConfigError, SourceError
from streamcache.settings import Settings

log = logging.getLogger(__name__)


class CachePart(Protocol):
    """What the daemon asks of a cache."""

    @property
    def config(self) -> Config:
        """The configuration; after ``start`` with the size that 0 stood for."""
        ...

    def start(self) -> None:
        """Open the directory; CacheInUse, CacheError, ConfigError."""
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

    def start(self) -> None:
        """Bind and accept; OSError."""
        ...

    def stop(self, timeout: float | None = None) -> None:
        """Drain, and cut off what is not done after ``timeout`` s."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Who makes cache and server: the real ones, or a test's."""

    cache: Callable[[Config], CachePart]
    server: Callable[[str, CachePart], ServerPart]  # of an address


def real_parts() -> Parts:
    """The cache and server of this package."""
    from streamcache.cache.streamcache import StreamCache
    from streamcache.server.server import StreamCacheServer

    def make_cache(config: Config) -> StreamCache:
        return StreamCache(config=config)

    def make_server(listen: str, cache: CachePart) -> StreamCacheServer:
        assert isinstance(cache, StreamCache)
        return StreamCacheServer(listen, cache)

    return Parts(make_cache, make_server)


def check(settings: Settings) -> None:
    """``--check``: print what would run, or raise ConfigError."""
    settings = resolve(settings)
    checks.check(settings)
    checks.check_owner(settings)
    checks.check_address(settings)
    say(report(settings))


def serve(settings: Settings, parts: Parts | None = None) -> None:
    """Serve until a signal comes, then drain. Switches.

    Raises ConfigError for whatever a setting can mend, before the ready line is printed.
    """
    settings = resolve(settings)
    logs.configure(settings.config.log.level)
    checks.check(settings)
    raise_file_limit()
    parts = parts or real_parts()
    with ExitStack() as stack:
        signals = StopSignals()
        stack.callback(signals.close)
        cache = parts.cache(settings.config)
        try:
            cache.start()
        except (CacheError, OSError) as error:
            raise cannot_start(settings, error) from error
        stack.callback(cache.close)
        server = parts.server(settings.config.server.listen, cache)
        try:
            server.start()
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno in _ADDRESS_ERRORS:
                raise checks.cannot_listen(settings, error) from error
            raise
        stack.callback(server.stop, timeout=settings.config.server.drain_timeout)
        if not signals.stopping:
            announce(server.url, cache.config)
            signals.wait()
    log.info("stopped")


def cannot_start(settings: Settings, error: CacheError | OSError) -> ConfigError:
    """The one line about a cache that does not open."""
    if isinstance(error, CacheInUse):
        return checks.in_use(settings, error)
    if isinstance(error, SourceError):
        return ConfigError(f"{settings.where('source', 'path')}: {error}; allowed: a directory")
    return ConfigError(
        f"{settings.where('cache', 'dir')}: {error}; allowed: a writable directory on a local disk"
    )


def announce(url: str, config: Config) -> None:
    """Print the ready line; a stdout that is closed is no reason not to serve."""
    line = ready_line(
        url, source=config.source.path, cache=config.cache.dir, size=config.cache.size
    )
    try:
        say(line)
    except (OSError, ValueError, AttributeError) as error:
        log.warning("ready, but stdout cannot be written: %s", error)
    log.info("serving url=%s size=%d", url, config.cache.size)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; the limit that then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warning("open files stay limited to %d: %s", soft, error)
            return soft
    return hard


_ADDRESS_ERRORS = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EACCES,
        errno.EPERM,
        errno.EAFNOSUPPORT,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EROFS,
        errno.ENAMETOOLONG,
    }
)
