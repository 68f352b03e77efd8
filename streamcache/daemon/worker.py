"""A process that serves: open the cache, listen, say so, wait, drain.

Main greenlet, with those that publish counts and answer the admin listener and, in a worker of
several, the hub's callback that hears the supervisor. ``serve.py`` runs this in the daemon itself
when there is one worker, ``supervisor.py`` in a forked process each.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import gevent
from gevent.event import Event

from streamcache.admin.board import Slot
from streamcache.admin.peers import Peers
from streamcache.admin.publishing import Publishing
from streamcache.admin.site import answering
from streamcache.admin.sockets import Sockets, open_sockets
from streamcache.admin.subject import Subject
from streamcache.config import Config
from streamcache.daemon import checks
from streamcache.daemon.line import Line
from streamcache.daemon.parts import Parts, ServerPart
from streamcache.daemon.signals import STOPPING, StopSignals
from streamcache.errors import CacheError, CacheInUse, ConfigError, SourceError, StreamCacheError
from streamcache.server.address import Address
from streamcache.settings import Settings

log = logging.getLogger(__name__)

ORPHAN_DRAIN: Final = 5.0  # s that running responses get when the supervisor is gone
ORPHAN_END: Final = 25.0  # s until an orphan ends whatever still hangs

Ready = Callable[[str, Config], None]  # told the URL, and the config with its real size

_ADDRESS_ERRORS: Final = frozenset(
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


def run(
    settings: Settings,
    parts: Parts,
    listen: str | socket.socket,
    slot: Slot,
    signals: StopSignals,
    ready: Ready,
    orphaned: Event | None = None,
    *,
    admin: Sockets | None = None,
    drain: Callable[[], object] | None = None,
) -> None:
    """Serve until ``signals`` says stop, then drain. Switches.

    ``admin`` and ``drain``, which ends the whole server, are the supervisor's, if there is one.

    Raises ConfigError for whatever a setting can mend, before ``ready`` is called.
    """
    with ExitStack() as stack:
        cache = parts.cache(settings.config)
        try:
            cache.start()
        except (CacheError, OSError) as error:
            raise cannot_start(settings, error) from error
        stack.callback(cache.close)
        server = parts.server(listen, cache, slot.addresses)
        try:
            server.start()
        except OSError as error:
            if is_address_error(error):
                raise checks.cannot_listen(settings, error) from error
            raise
        publishing = Publishing(slot, cache, server)
        stack.enter_context(publishing.running())
        if drain is None:  # no supervisor
            drain = partial(signals.stop, "the admin listener was asked to")
            admin = open_sockets(settings, Address.read(server.url))
            if admin is not None:
                stack.enter_context(admin)
        if admin is not None:
            subject = Subject(
                name=slot.worker,
                cache=cache,
                server=server,
                board=slot.board,
                publishing=publishing,
                peers=Peers(admin, slot.worker),
                draining=lambda: signals.stopping,
                drain=drain,
            )
            stack.enter_context(answering(admin, subject))
        stack.callback(_drain, server, settings.config.server.drain_timeout, orphaned)
        if not signals.stopping:
            ready(server.url, cache.config)
            signals.wait()


def is_address_error(error: OSError) -> bool:
    """Whether another address would do."""
    return isinstance(error, socket.gaierror) or error.errno in _ADDRESS_ERRORS


def cannot_start(settings: Settings, error: CacheError | OSError) -> ConfigError:
    """The one line about a cache that does not open."""
    if isinstance(error, SourceError):
        return ConfigError(f"{settings.where('source', 'path')}: {error}; allowed: a directory")
    where = settings.where("cache", "dir")
    if isinstance(error, CacheInUse):  # says what those who share it allow
        return ConfigError(f"{where}: {error}")
    return ConfigError(f"{where}: {error}; allowed: a writable directory on a local disk")


def _drain(server: ServerPart, timeout: float, orphaned: Event | None) -> None:
    if orphaned is None:
        server.stop(timeout=timeout)
        return
    hurry = gevent.spawn(_hurry, server, timeout, orphaned)
    try:
        server.stop(timeout=timeout)
    finally:
        hurry.kill()


def _hurry(server: ServerPart, timeout: float, orphaned: Event) -> None:
    orphaned.wait()
    server.stop(timeout=min(timeout, ORPHAN_DRAIN))


# -- in a process of its own


def main(
    settings: Settings,
    parts: Parts,
    listener: socket.socket,
    slot: Slot,
    line: Line,
    admin: Sockets | None = None,
) -> int:
    """The life of one worker of several; its exit code. Signals are blocked when it begins.

    ``line`` leads to the supervisor. It hears {"ready": ...}, {"error": ..., "code": ...} or
    {"wish": "drain"} from here, and we hear {"order": "drain"}, or its end.
    """
    signals = StopSignals()
    orphaned = Event()
    watcher = gevent.get_hub().loop.io(line.fileno(), 1)
    watcher.start(_heard, line, watcher, signals, orphaned)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def ready(_: str, config: Config) -> None:
        line.tell(ready=True, size=config.cache.size)

    try:
        wish = partial(line.tell, wish="drain")
        run(settings, parts, listener, slot, signals, ready, orphaned, admin=admin, drain=wish)
    except ConfigError as error:
        line.tell(error=str(error), code=2)
        return 2
    except (StreamCacheError, OSError) as error:
        log.debug("failed", exc_info=True)
        line.tell(error=str(error), code=1)
        return 1
    log.info("stopped")
    return 0


def _heard(line: Line, watcher: Any, signals: StopSignals, orphaned: Event) -> None:
    for _ in line.hear():
        signals.stop("the supervisor says so")
    if not line.ended:
        return
    watcher.stop()
    log.error("the supervisor is gone, ending")
    orphaned.set()
    signals.stop("no supervisor")
    gevent.spawn_later(ORPHAN_END, os._exit, 1)
