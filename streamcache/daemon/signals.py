"""Signals of a process that serves: the first one asks it to drain, the second one ends it.

Handlers run in a greenlet of the hub, never in the middle of other code.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import gevent
from gevent.event import Event

log = logging.getLogger(__name__)

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
RELOAD: Final = signal.SIGHUP
REOPEN: Final = signal.SIGUSR1
UPGRADE: Final = signal.SIGUSR2
ORDERS: Final = (RELOAD, REOPEN, UPGRADE)  # to the main process; workers ignore them


class Signals:
    """Counts SIGTERM and SIGINT from the moment it is made, and calls ``orders`` for others."""

    def __init__(self, orders: Mapping[signal.Signals, Callable[[], object]] | None = None) -> None:
        self._stopping = Event()
        self._since = 0.0
        self._signalled = False
        self._watchers = [
            gevent.signal_handler(number, self._received, number) for number in STOPPING
        ]
        for number, order in (orders or {}).items():
            self._watchers.append(
                gevent.signal_handler(number, partial(self._ordered, order), number)
            )

    def __repr__(self) -> str:
        return f"<Signals stopping={self.stopping}>"

    @property
    def stopping(self) -> bool:
        """Whether a signal came, or ``stop`` was called."""
        return self._stopping.is_set()

    @property
    def stopping_since(self) -> float | None:
        """When that was, in s since the epoch; None: not yet."""
        return self._since if self.stopping else None

    def wait(self) -> None:
        """Wait for that. Switches."""
        # Signal watchers do not keep a loop alive, a timer does: without one, gevent calls an
        # otherwise idle loop finished (LoopExit).
        while not self._stopping.wait(3600):
            pass

    def stop(self, why: str) -> None:
        """As a first signal; idempotent."""
        if not self.stopping:
            log.info("draining reason=%s", why)
            self._stop()

    def close(self) -> None:
        """Listen no more; the signals are ignored from here on."""
        for watcher in self._watchers:
            watcher.cancel()

    def _ordered(self, order: Callable[[], object], number: signal.Signals) -> None:
        if self.stopping:
            log.info("ignored signal=%s reason=%s", number.name, "draining")
            return
        log.info("received signal=%s", number.name)
        order()

    def _received(self, number: signal.Signals) -> None:
        # Not "stopping": Ctrl-C goes to the whole group of processes, so a worker hears of it
        # twice, from the terminal and from its supervisor.
        if self._signalled:
            log.warning("second signal, ending at once signal=%s", number.name)
            sys.stderr.flush()
            # No way back through Python: a thread may hang in the source.
            os._exit(128 + number)
        self._signalled = True
        if not self.stopping:
            log.info("draining, a second signal ends at once signal=%s", number.name)
            self._stop()

    def _stop(self) -> None:
        self._since = time.time()
        self._stopping.set()
