"""The daemon with one worker: its main process serves, and there is no supervisor.

Main greenlet, with those that signals start, one that feeds the service manager's watchdog, and one
that waits for a successor. A crash ends the daemon; a hub that hangs is for the service manager to
notice, which then hears nothing more.
"""

from __future__ import annotations

import logging

import gevent
from gevent.socket import wait_read

from streamcache.daemon import worker
from streamcache.daemon.board import Board
from streamcache.daemon.mainprocess import MainProcess
from streamcache.daemon.parts import Parts
from streamcache.daemon.signals import REOPEN, UPGRADE, Signals

log = logging.getLogger(__name__)


def serve_alone(main: MainProcess, parts: Parts) -> int:
    """Serve until a signal comes, then drain; the exit code. Switches. Raises ConfigError."""
    board = Board(1)
    alone = _Alone(main)
    signals = alone.signals
    try:
        listener = main.listener.socket
        with worker.serving(main.settings, parts, listener, board.slot(0)) as serving:
            if not signals.stopping:
                alone.serves(serving)
                signals.wait()
            main.stopping()
        alone.close()
    finally:
        signals.close()
    log.info("%s", board.totals())
    log.info("stopped")
    return 0


class _Alone:
    """What signals do, from the moment it is made."""

    def __init__(self, main: MainProcess) -> None:
        self._main = main
        self._serving: worker.Serving | None = None  # None: not yet
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self.signals = Signals({REOPEN: self._reopen_logs, UPGRADE: self._upgrade})

    def serves(self, serving: worker.Serving) -> None:
        """It accepts."""
        self._serving = serving
        self._main.found_size(serving.cache.config.cache.size)
        self._main.serves()
        if self._main.notifier.watchdog:
            self._greenlets.append(gevent.spawn(self._feed))

    def close(self) -> None:
        """Wait for nothing any more."""
        gevent.killall(self._greenlets)

    def _feed(self) -> None:
        """Greenlet: who is fed by it knows that the hub turns."""
        while True:
            self._main.notifier.alive()
            gevent.sleep(self._main.notifier.watchdog / 3)

    def _reopen_logs(self) -> None:
        if self._serving is not None:
            self._serving.reopen_logs()

    def _upgrade(self) -> None:
        if self._serving is None:
            log.warning("ignored: the daemon is not ready yet")
            return
        if self._main.start_successor():
            self._greenlets.append(gevent.spawn(self._wait_for_successor))

    def _wait_for_successor(self) -> None:
        """Greenlet."""
        while (successor := self._main.successor) is not None:
            with gevent.Timeout(1.0, False):
                wait_read(successor.fileno())
            if self._main.is_succeeded():
                self.signals.stop("another process serves now")
