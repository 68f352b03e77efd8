"""Copies that nobody reads any more: a few go on at once, the others pause and wait their turn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from gevent.event import Event as Flag

from streamcache.cache.session import CopySession
from streamcache.cache.states import Event, State
from streamcache.config.copy import CopyConfig

_QUEUED = 10_000  # paths of paused copies that are remembered

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """A copy that goes on, and how many want it to."""

    over: Flag = field(default_factory=Flag)  # it copies no more
    keepers: int = 0


class IdleFills:
    """Decides what a session does when its last reader has left (``copy.when_idle``)."""

    def __init__(
        self, config: CopyConfig, resume: Callable[[str], None], may_run: Callable[[], bool]
    ) -> None:
        """``resume(path)`` begins to take the copy up again, and ends with ``resumed(path)``; it
        does not switch. Nothing is taken up unless it ``may_run``, see ``go_on``.
        """
        self._config = config
        self._resuming: set[str] = set()
        self._resume = resume
        self._may_run = may_run
        self._running: set[CopySession] = set()
        self._paused: dict[str, None] = {}  # paths, the oldest first
        self._kept: dict[CopySession, _Kept] = {}  # they go on, whatever is configured
        self._stopped = False

    def __repr__(self) -> str:
        return f"<IdleFills running={len(self._running)} paused={len(self._paused)}>"

    def changed(self, session: CopySession) -> None:
        """Its state or its readers changed. Does not switch."""
        if session.state not in (State.NEW, State.COPYING) and session in self._kept:
            self._kept.pop(session).over.set()
        if session.state in (State.NEW, State.COPYING) and not session.readers:
            if session not in self._running and session not in self._kept:
                self._left(session)
        else:
            self._running.discard(session)
            self._next()

    def joined(self, session: CopySession) -> None:
        """Somebody reads it again."""
        self._running.discard(session)
        self._paused.pop(session.path, None)
        self._next()

    def reconfigure(self, config: CopyConfig) -> None:
        """Other options. Does not switch."""
        self._config = config
        self._next()

    def go_on(self) -> None:
        """They may run again. Does not switch."""
        self._next()

    def forget(self, is_meant: Callable[[str], bool]) -> None:
        """Paused copies of these paths are not taken up again."""
        for path in [path for path in self._paused if is_meant(path)]:
            del self._paused[path]

    def add(self, path: str) -> None:
        """Have this path copied when its turn comes, as if its copy had paused. Does not switch."""
        if path not in self._resuming:
            self._queue(path)
            self._next()

    def keep(self, session: CopySession) -> Flag:
        """It goes on although nobody reads it, beside the others, until all keepers ``release`` it.

        The event is set when it copies no more, however that came. Does not switch.
        """
        kept = self._kept.setdefault(session, _Kept())
        kept.keepers += 1
        self.joined(session)
        if session.state not in (State.NEW, State.COPYING):
            self._kept.pop(session).over.set()
        return kept.over

    def release(self, session: CopySession, *, stop: bool = False) -> None:
        """Keep it no longer: it is one of the others, or ends with ``stop``; unless somebody else
        keeps it. Does not switch.
        """
        kept = self._kept.get(session)
        if kept is None:
            return
        kept.keepers -= 1
        if kept.keepers:
            return
        del self._kept[session]
        if stop and not session.readers:
            session.handle_event(Event.IDLE)
        else:
            self.changed(session)

    def stop(self) -> None:
        """Resume nothing any more: the cache closes."""
        self._stopped = True
        self._paused.clear()

    def _left(self, session: CopySession) -> None:
        if session.read_up:
            return  # it lacks no more than its name
        if self._config.when_idle == "stop" or self._stopped:
            session.handle_event(Event.IDLE)
        elif len(self._running) < self._config.max_idle:
            self._running.add(session)
        else:
            self._queue(session.path)
            log.debug("copy paused path=%r", f"/{session.path}")
            session.handle_event(Event.IDLE)

    def resumed(self, path: str) -> None:
        """It runs again, or cannot: the next one's turn, if there is room."""
        self._resuming.discard(path)
        self._next()

    def _queue(self, path: str) -> None:
        if len(self._paused) < _QUEUED:
            self._paused[path] = None

    def _next(self) -> None:
        while self._paused and not self._stopped and self._may_run():
            if len(self._running) + len(self._resuming) >= self._config.max_idle:
                return
            path = next(iter(self._paused))
            del self._paused[path]
            self._resuming.add(path)
            self._resume(path)
