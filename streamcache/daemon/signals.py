"""Signals of the daemon: the first one asks it to drain, the second one ends it.

Handlers run in a greenlet of the hub, never in the middle of other code.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event

log = logging.getLogger(__name__)

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Counts SIGTERM and SIGINT from the moment it is made."""

    def __init__(self, die: Callable[[int], object] = os._exit) -> None:
        self._die = die
        self._first = Event()
        self._watchers = [
            gevent.signal_handler(number, self._received, number) for number in _STOPPING
        ]

    def __repr__(self) -> str:
        return f"<StopSignals stopping={self.stopping}>"

    @property
    def stopping(self) -> bool:
        """Whether a signal came."""
        return self._first.is_set()

    def wait(self) -> None:
        """Wait for the first signal. Switches."""
        # Signal watchers do not keep a loop alive, a timer does: without one, gevent calls an
        # otherwise idle loop finished (LoopExit).
        while not self._first.wait(3600):
            pass

    def close(self) -> None:
        """Listen no more; the signals are ignored from here on."""
        for watcher in self._watchers:
            watcher.cancel()

    def _received(self, number: signal.Signals) -> None:
        if self.stopping:
            log.warning("second signal, ending at once signal=%s", number.name)
            sys.stderr.flush()
            # No way back through Python: a thread may hang in the source.
            self._die(128 + number)
            return
        log.info("draining signal=%s; a second signal ends at once", number.name)
        self._first.set()
