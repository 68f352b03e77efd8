"""The copies of this process: the index of sessions, how they begin and what becomes of them.

Hub's thread; a greenlet for each paused copy that is taken up again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent
from gevent.pool import Group

from streamcache.cache.fills import IdleFills
from streamcache.cache.locks import KeyLock
from streamcache.cache.names import key_of
from streamcache.cache.removal import Removal
from streamcache.cache.resources import Resources
from streamcache.cache.session import CopySession
from streamcache.cache.states import Event, State
from streamcache.errors import StreamCacheError
from streamcache.source.base import SourceFile

log = logging.getLogger(__name__)


class Copies:
    """The sessions of a cache in this process."""

    def __init__(
        self, resources: Resources, removal: Removal, take_up: Callable[[str], CopySession | None]
    ) -> None:
        """``take_up(path)`` goes on with a copy, see ``Provider.copy``."""
        self.sessions: dict[str, CopySession] = {}  # by name: those that can be joined
        self.ending: set[CopySession] = set()  # detached or closed, still holding their files
        self._r = resources
        self._removal = removal
        self._take_up = take_up
        self.closed = False  # none begins any more
        self._resumers = Group()
        health = resources.health
        health.on_recovery.append(self._disk_works)
        self.fills = IdleFills(resources.config.copy, self._resume, lambda: not health.degraded)

    def __repr__(self) -> str:
        return f"<Copies sessions={len(self.sessions)} ending={len(self.ending)}>"

    def start(
        self, *, name: str, path: str, file: SourceFile, lock: KeyLock | None, continues: bool
    ) -> CopySession:
        """See ``CopySession``; versions of this file that are outdated go. Does not switch."""
        session = CopySession(
            self._r,
            name=name,
            path=path,
            file=file,
            lock=lock,
            continues=continues,
            on_change=self._changed,
            on_published=self._published,
        )
        self.sessions[name] = session
        self._removal.remove_others(key_of(name), file.version, path)
        log.info("copy started path=%r bytes=%d name=%s", f"/{path}", file.version.size, name)
        return session

    def outdate(self, is_meant: Callable[[CopySession], bool]) -> dict[str, str]:
        """These copies end as if their files had changed; {name: path} of those that were running.

        Their readers go on, nobody joins them. Does not switch.
        """
        ended = {name: each.path for name, each in self.sessions.items() if is_meant(each)}
        for name in ended:
            self.sessions[name].handle_event(Event.OUTDATED)
        return ended

    def replaced(self, name: str, path: str) -> None:
        """The path has another version now: readers of this one go on, nobody joins them.

        Does not switch.
        """
        log.info("source changed path=%r", f"/{path}")
        session = self.sessions.get(name)
        if session is not None:
            session.handle_event(Event.OUTDATED)
        self._removal.remove([name], path)

    def gone(self, key: str, path: str) -> None:
        """Proven: the source has no such file any more. Does not switch."""
        self.outdate(lambda session: session.name.startswith(key))
        self._removal.remove_others(key, None, path)

    def outdate_paths(self, is_meant: Callable[[str], bool]) -> dict[str, str]:
        """The same for these paths (without the first slash), and what is paused of them is not
        taken up again.
        """
        self.fills.forget(is_meant)
        return self.outdate(lambda session: is_meant(session.path))

    def end(self, timeout: float) -> None:
        """End all sessions; partials stay. Switches, at most for ``timeout`` s."""
        self.closed = True
        self.fills.stop()
        self._resumers.kill(block=False)
        sessions = [*self.sessions.values(), *self.ending]
        for session in sessions:
            session.handle_event(Event.SHUTDOWN)
        gevent.wait([session.ended for session in sessions], timeout=timeout)

    def _resume(self, path: str) -> None:
        self._resumers.spawn(self._do_resume, path)

    def _do_resume(self, path: str) -> None:
        """Greenlet: go on with a paused copy; nobody reads it, so it is an idle fill at once."""
        try:
            session = self._take_up(path)
            if session is not None:
                self.fills.changed(session)
        except StreamCacheError as error:
            log.info("paused copy not resumed path=%r error=%s", f"/{path}", error)
        finally:
            self.fills.resumed(path)

    def _disk_works(self) -> None:
        """Copies that kept nothing meanwhile go on. Does not switch."""
        for session in list(self.sessions.values()):
            session.schedule()
        self.fills.go_on()

    # -- what sessions tell

    def _changed(self, session: CopySession) -> None:
        """A session's state or readers changed, or it has ended. Does not switch."""
        name = session.name
        if session.state not in (State.NEW, State.COPYING):
            if self.sessions.get(name) is session:
                del self.sessions[name]
                self.ending.add(session)
            if session.ended.is_set():
                self.ending.discard(session)
        self.fills.changed(session)

    def _published(self, session: CopySession, on_disk: int, lock: KeyLock) -> None:
        name = session.name
        self._removal.enter(name, session.path, session.version.size, on_disk, lock)
        if session.state is not State.COPYING and not self.closed:  # outdated while it was renamed
            self._removal.remove([name], session.path)
