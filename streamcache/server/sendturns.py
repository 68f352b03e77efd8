"""Whose turn it is to send: those who have had theirs wait until the hub has looked at the others.

Hub's thread. Not ``gevent.sleep(0)``: the hub runs such callbacks again and again, for up to 5 ms,
before it looks at a socket. Not a wait for writability: the kernel reports that only when a third
of the send buffer is free, and a socket that is kept full is the cheap one (docs/performance.md).

What bounds the wait of everybody else is not the turn of one response but that of all of them: 64
downloads with 2 MiB each would hold the hub for 20 ms.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from gevent.hub import Hub
from greenlet import getcurrent, greenlet

TOGETHER: Final = 0.0005  # s of a turn of the hub after which no other response begins its own
LAST: Final = -2  # libev's lowest priority: else timers come before the sockets that are ready

wall_clock = time.time  # that of the loop's own clock


class SendTurns:
    """Those who wait for the hub's next turn; one timer for all of them."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._began = hub.loop.now  # when this turn of the hub did
        self._timer = hub.loop.timer(0.0, priority=LAST)
        self._waiting: OrderedDict[greenlet, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<SendTurns waiting={len(self._waiting)}>"

    def take(self) -> None:
        """SWITCHES if others wait already, or enough was sent in this turn of the hub."""
        if self._waiting or wall_clock() - self._began() > TOGETHER:
            self.pass_on()

    def pass_on(self) -> None:
        """SWITCHES; go on once the hub has served what was ready on all other sockets."""
        me = getcurrent()
        if not self._waiting:
            self._timer.start(self._next)
        self._waiting[me] = None
        try:
            self._hub.switch()
        except BaseException:  # thrown into it: nobody may switch to it later
            self._waiting.pop(me, None)
            raise

    def close(self) -> None:
        """Nobody waits any more; idempotent."""
        self._timer.stop()
        self._timer.close()

    def _next(self) -> None:
        """Let the first of them go on, and more as long as there is time."""
        try:
            for _ in range(len(self._waiting)):  # who waits again meanwhile has had a turn
                if not self._waiting:
                    break
                first, _ = self._waiting.popitem(last=False)
                first.switch()
                if wall_clock() - self._began() > TOGETHER:
                    break
        finally:
            if self._waiting:
                self._timer.start(self._next)
