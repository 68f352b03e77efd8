"""The daemon with one worker: its main process serves, and there is no supervisor.

Main greenlet, with those that signals start, one that feeds the service manager's watchdog, and one
that waits for a successor. A crash ends the daemon; a hub that hangs is for the service manager to
notice, which then hears nothing more.
"""

from __future__ import annotations

import contextlib
import logging

import gevent
from gevent.socket import wait_read

from streamcache.admin.board import Board
from streamcache.cache.workers import WorkerPool
from streamcache.daemon import worker
from streamcache.daemon.mainprocess import MainProcess
from streamcache.daemon.parts import Parts
from streamcache.daemon.signals import RELOAD, REOPEN, UPGRADE, Signals
from streamcache.errors import ConfigError, SourceBusy

log = logging.getLogger(__name__)


def serve_alone(main: MainProcess, parts: Parts) -> int:
    """Serve until a signal comes, then drain; the exit code. Switches. Raises ConfigError."""
    board = Board(1)
    alone = _Alone(main)
    signals = alone.signals
    try:
        listener = main.listener.socket
        with worker.serving(
            main.settings, parts, listener, board.slot(0), signals, main.admin
        ) as serving:
            if not signals.stopping:
                alone.serves(serving)
                signals.wait()
            alone.stopping()
        alone.close()
    finally:
        signals.close()
    board.totals().say(log)
    main.stopped()
    return 0


class _Alone:
    """What signals do, from the moment it is made."""

    def __init__(self, main: MainProcess) -> None:
        self._main = main
        self._serving: worker.Serving | None = None  # None: not yet
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._following: gevent.Greenlet[..., None] | None = None  # waits for a successor
        self._reload_wanted = False
        self._reloading = False
        self.signals = Signals(
            {RELOAD: self._reload, REOPEN: self._reopen_logs, UPGRADE: self._upgrade}
        )

    def serves(self, serving: worker.Serving) -> None:
        """It accepts."""
        self._serving = serving
        self._main.found_size(serving.cache.config.cache.size)
        self._main.serves()
        if self._main.notifier.watchdog:
            self._greenlets.append(gevent.spawn(self._feed))
        if self._reload_wanted:
            self._greenlets.append(gevent.spawn(self._reload))

    def stopping(self) -> None:
        """It drains. Switches."""
        if self._following is not None:
            self._following.kill()
        self._main.stopping()

    def close(self) -> None:
        """Wait for nothing any more."""
        gevent.killall(self._greenlets)

    def _feed(self) -> None:
        """Greenlet: who is fed by it knows that the hub turns."""
        while True:
            self._main.notifier.alive()
            gevent.sleep(self._main.notifier.watchdog / 3)

    def _reload(self) -> None:
        """One reload after the other; not before it serves. Switches."""
        self._main.ordered(RELOAD)
        self._reload_wanted = True
        if self._reloading or self._serving is None:
            return
        self._reloading = True
        try:
            while self._reload_wanted:
                self._reload_wanted = False
                self._do_reload(self._serving)
        finally:
            self._reloading = False

    def _do_reload(self, serving: worker.Serving) -> None:
        main = self._main
        main.notifier.reloading()
        reader = WorkerPool("settings", size=1)  # files may hang, and the hub must not
        try:
            reload = reader.call(main.read_again)
            serving.reconfigure(reload.settings.config)
        except (ConfigError, SourceBusy) as error:
            main.not_reloaded(error)
            return
        finally:
            reader.close()
        main.adopt(reload)
        main.reloaded(reload)

    def _reopen_logs(self) -> None:
        if self._serving is not None:
            self._serving.reopen_logs()
            self._main.ordered(REOPEN)

    def _upgrade(self) -> None:
        if self._serving is None:
            log.warning("upgrade not started reason=%s", "the daemon is not ready yet")
            return
        if self._main.start_successor():
            self._following = gevent.spawn(self._wait_for_successor)

    def _wait_for_successor(self) -> None:
        """Greenlet."""
        while (successor := self._main.successor) is not None:
            with contextlib.suppress(TimeoutError):
                wait_read(successor.fileno(), timeout=1.0)
            if self._main.is_succeeded():
                self.signals.stop("another process serves now")
