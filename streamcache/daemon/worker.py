"""A process that serves: open the cache, listen, say so, wait, drain.

Main greenlet, with those that publish counts and answer the admin listener and, in a worker of
several, the hub's callback that hears the supervisor. ``alone.py`` runs this in the daemon itself
when there is one worker, ``supervisor.py`` in a forked process each.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import gevent
from gevent.event import Event

from streamcache.admin.board import Slot
from streamcache.admin.peers import Peers
from streamcache.admin.publishing import Publishing
from streamcache.admin.site import answering
from streamcache.admin.sockets import Sockets
from streamcache.admin.subject import Subject
from streamcache.config import Config, of_mapping
from streamcache.daemon import logs
from streamcache.daemon.line import Line
from streamcache.daemon.parts import CachePart, Parts, ServerPart
from streamcache.daemon.signals import STOPPING, Signals
from streamcache.errors import (
    CacheError,
    CacheForeign,
    CacheInUse,
    ConfigError,
    SourceError,
    StreamCacheError,
)
from streamcache.settings import Settings

log = logging.getLogger(__name__)

COLLECTED: Final = 10_000  # new objects that a worker's young generation may have (Python: 700)
ORPHAN_DRAIN: Final = 5.0  # s that running responses get when the supervisor is gone
ORPHAN_END: Final = 25.0  # s until an orphan ends whatever still hangs


@dataclass(frozen=True, slots=True)
class Serving:
    """A cache and a server that accepts, and what can be done to them meanwhile."""

    cache: CachePart
    server: ServerPart

    def reconfigure(self, config: Config) -> None:
        """Take what can change from ``config``, all of it at once. Switches. Raises ConfigError."""
        self.server.reconfigure(config)  # reads files, and may fail
        self.cache.reconfigure(config)
        logs.reconfigure(config.log)

    def reopen_logs(self) -> None:
        """Take what the names of the log files stand for now. Does not switch."""
        self.server.reopen_logs()


@contextmanager
def serving(
    settings: Settings,
    parts: Parts,
    listener: socket.socket,
    slot: Slot,
    signals: Signals,
    admin: Sockets | None,
    *,
    orphaned: Event | None = None,
    drain: Callable[[], object] | None = None,
) -> Iterator[Serving]:
    """Open the cache and accept; in the end drain, and close it. Switches.

    ``drain``: ends the whole server, if that is not the same as telling ``signals`` to stop.
    Raises ConfigError for whatever a setting can mend, before it yields.
    """
    with ExitStack() as stack:
        hub: Any = gevent.get_hub()
        hub.print_exception = logs.uncaught
        stack.callback(delattr, hub, "print_exception")
        cache = parts.cache(settings.config)
        try:
            cache.start()
        except (CacheError, OSError) as error:
            raise cannot_start(settings, error) from error
        stack.callback(cache.close)
        server = parts.server(listener, cache, slot.addresses)
        server.start()
        publishing = Publishing(slot, cache, server)
        stack.enter_context(publishing.running())
        if admin is not None:
            subject = Subject(
                name=slot.worker,
                cache=cache,
                server=server,
                board=slot.board,
                publishing=publishing,
                peers=Peers(admin, slot.worker),
                draining_since=lambda: signals.stopping_since,
                drain=drain or partial(signals.stop, "the admin listener was asked to"),
            )
            stack.enter_context(answering(admin, subject))
        stack.callback(_drain, cache, server, orphaned)
        _collect_seldom()
        yield Serving(cache, server)


def _collect_seldom() -> None:
    """Look for cycles of garbage less often, and not in what is there for good.

    Those who connect are objects and no garbage: of 1,000 at once 5 % of the time was spent on
    looking through them again and again.
    """
    gc.collect()  # what is garbage by now would be kept for good
    gc.freeze()
    gc.set_threshold(COLLECTED, *gc.get_threshold()[1:])


def cannot_start(settings: Settings, error: CacheError | OSError) -> ConfigError:
    """The one line about a cache that does not open."""
    if isinstance(error, SourceError):
        return ConfigError(f"{settings.where('source', 'path')}: {error}; allowed: a directory")
    where = settings.where("cache", "dir")
    if isinstance(error, CacheInUse | CacheForeign):  # say what is allowed
        return ConfigError(f"{where}: {error}")
    return ConfigError(f"{where}: {error}; allowed: a writable directory on a local disk")


def _drain(cache: CachePart, server: ServerPart, orphaned: Event | None) -> None:
    timeout = cache.config.server.drain_timeout
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
    admin: Sockets | None,
) -> int:
    """The life of one worker of several; its exit code. Signals are blocked when it begins.

    ``line`` leads to the supervisor. It hears {"ready": ...}, {"error": ..., "code": ...},
    {"reloaded": ...} or {"wish": "drain"} from here, and we hear {"order": ...}, or its end.
    """
    signals = Signals()
    orphaned = Event()
    watcher = gevent.get_hub().loop.io(line.fileno(), 1)
    inbox = _Inbox(line, watcher, signals, orphaned)
    watcher.start(inbox.heard)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    try:
        wish = partial(line.tell, wish="drain")
        with serving(
            settings, parts, listener, slot, signals, admin, orphaned=orphaned, drain=wish
        ) as this:
            if not signals.stopping:
                line.tell(ready=True, size=this.cache.config.cache.size)
                inbox.serves(this)
                signals.wait()
    except ConfigError as error:
        line.tell(error=str(error), code=2)
        return 2
    except (StreamCacheError, OSError) as error:
        log.debug("failed", exc_info=True)
        line.tell(error=str(error), code=1)
        return 1
    log.info("stopped")
    return 0


class _Inbox:
    """What the supervisor says. Called by the hub."""

    def __init__(self, line: Line, watcher: Any, signals: Signals, orphaned: Event) -> None:
        self._serving: Serving | None = None  # None: not yet
        self._line, self._watcher = line, watcher
        self._signals, self._orphaned = signals, orphaned
        self._wanted: tuple[int, Config] | None = None  # what to reload, once it serves
        self._reopen = False  # the log, once it serves: it may have been opened before that
        self._reloading: gevent.Greenlet[..., None] | None = None

    def serves(self, serving: Serving) -> None:
        """Whose orders these are."""
        self._serving = serving
        if self._reopen:
            serving.reopen_logs()
        self._reload()

    def heard(self) -> None:
        """Do what was ordered; when the supervisor is gone, end."""
        for message in self._line.hear():
            self._obey(message)
        if not self._line.ended:
            return
        self._watcher.stop()
        log.error("the supervisor is gone, ending")
        self._orphaned.set()
        self._signals.stop("no supervisor")
        gevent.spawn_later(ORPHAN_END, os._exit, 1)

    def _obey(self, message: dict[str, Any]) -> None:
        match message["order"]:
            case "drain":
                if message["retired"]:
                    logs.retire()
                self._signals.stop("the supervisor says so")
            case "reopen":
                self._reopen = self._serving is None
                if self._serving is not None:
                    self._serving.reopen_logs()
            case "reload":
                self._wanted = message["number"], of_mapping(message["config"])
                self._reload()

    def _reload(self) -> None:
        if self._serving is not None and self._wanted is not None and not self._reloading:
            self._reloading = gevent.spawn(self._do_reload, self._serving)

    def _do_reload(self, serving: Serving) -> None:
        """Greenlet: one reload after the other, the last one wins."""
        while self._wanted is not None:
            (number, wanted), self._wanted = self._wanted, None
            problem = ""
            try:
                serving.reconfigure(wanted)
            except Exception as error:
                log.debug("not reloaded", exc_info=True)
                problem = str(error) or type(error).__name__
            self._line.tell(reloaded=not problem, number=number, problem=problem)
        self._reloading = None
