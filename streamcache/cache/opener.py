"""From what was found to a delegate: the object, a copy that is running or begun, or the source.

Hub's thread. Two who come together get one session: from the last look into the index to the entry
of a new one nothing switches (I9).
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import partial

import gevent

from streamcache.cache.copies import Copies
from streamcache.cache.database import CatalogLate
from streamcache.cache.delegate import (
    CachedFileDelegate,
    CacheStatus,
    Delegate,
    DirectFileDelegate,
    TempFileDelegate,
)
from streamcache.cache.found import Found
from streamcache.cache.freshness import Flight, Freshness
from streamcache.cache.health import PATIENCE, tells_of_damage
from streamcache.cache.ledger import Ledger
from streamcache.cache.names import key_of
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.removal import Removal
from streamcache.cache.resources import Resources
from streamcache.cache.session import CopySession
from streamcache.cache.states import Event
from streamcache.errors import CacheError, Closed, SourceChanged, StreamCacheError
from streamcache.source.base import SourceFile, Version

log = logging.getLogger(__name__)


class Opener:
    """Opens one version of a path, in whichever way it can be read."""

    def __init__(
        self,
        resources: Resources,
        freshness: Freshness,
        ledger: Ledger,
        removal: Removal,
        copies: Copies,
    ) -> None:
        self._r = resources
        self._freshness = freshness
        self._ledger = ledger
        self._removal = removal
        self._copies = copies
        self._health = resources.health

    def __repr__(self) -> str:
        return f"<Opener {self._copies!r}>"

    def lease(self, name: str, path: str, version: Version) -> ObjectHandle | None:
        """The object of ``path``, if there is one that can be read. Switches."""
        try:
            return self._r.objects.lease(name, version)
        except OSError as error:  # the cache is optional (I15)
            # A line for each request would be many, and that the disk fails is known.
            level = logging.DEBUG if self._health.degraded else logging.WARNING
            form = "object not readable path=%r name=%s error=%s"
            log.log(level, form, f"/{path}", name, error)
            return None

    def give_back(self, handle: ObjectHandle | None, flight: Flight | None) -> None:
        """What a ``Found`` did not use."""
        if handle is not None:
            self._r.objects.release(handle)
        if flight is not None:
            self._freshness.leave(flight)

    def status_of(self, found: Found) -> CacheStatus:
        """What opening it would give, when it is fresh and there is no object."""
        if found.name in self._copies.sessions:
            return CacheStatus.COLLAPSED
        return CacheStatus.MISS if self._cacheable(found.version) else CacheStatus.BYPASS

    def open(self, found: Found, client: str) -> Delegate:
        """See ``Found.open``."""
        if self._copies.closed:
            raise Closed("the cache is closed")
        self._confirm(found)
        self._prepare(found)
        if found.handle is not None:
            handle, found.handle = found.handle, None
            self._ledger.touch(found.name, client, time.monotonic())
            status = CacheStatus.STALE if found.stale else CacheStatus.HIT
            return self.cached(handle, status, found.path)
        there = self._session_or_file(found)
        if isinstance(there, CopySession):
            # While the source does not answer, the version may be old.
            status = CacheStatus.STALE if found.stale else CacheStatus.COLLAPSED
            delegate = self._reading(there, status, client)
            self._copies.fills.joined(there)
            return delegate
        if found.lock is None or not self._cacheable(found.version):
            return DirectFileDelegate(there, self._r)
        session = self._start(found, there)
        status = CacheStatus.MISS if self._r.space.known else CacheStatus.BYPASS
        return self._reading(session, status, client)

    def keep(self, found: Found, client: str) -> bool:
        """See ``Found.keep``."""
        self._r.counters.request(found.status.value)  # as a delegate does
        if found.handle is not None:
            self._ledger.touch(found.name, client, time.monotonic())
        elif not found.stale and self._r.space.known and self.status_of(found) is CacheStatus.MISS:
            if found.flight is None:
                self._copies.fills.add(found.path)
                return False
            with suppress(StreamCacheError):  # it is not needed for the answer
                found.lock = found.lock or self._r.keys.try_acquire(key_of(found.name))
                # As nothing has to be read, it never waits its turn as an idle fill.
                return found.lock is not None and self.copy(found) is not None
        return False

    def copy(self, found: Found) -> CopySession | None:
        """See ``Provider.copy``."""
        self._confirm(found)
        self._prepare(found)
        if found.handle is not None:
            return None
        if found.lock is None and found.name not in self._copies.sessions:
            raise CacheError(self._refusal(found.version) or "another process works on it")
        there = self._session_or_file(found)
        return there if isinstance(there, CopySession) else self._start(found, there)

    def cached(self, handle: ObjectHandle, status: CacheStatus, path: str) -> Delegate:
        """Reads this leased object. Does not switch."""
        instead = partial(self._instead_of_object, handle, path)
        return CachedFileDelegate(
            handle, status, self._r.counters, self._r.objects.release, instead
        )

    # -- a copy

    def _prepare(self, found: Found) -> None:
        """If there is neither object nor session: take the key's lock, to copy it. Switches.

        Who had the lock before, in whichever process, may have published the object, or begun a
        session.
        """
        name, sessions = found.name, self._copies.sessions
        if found.handle is not None or name in sessions:
            return
        if found.lock is None and self._cacheable(found.version):
            try:
                found.lock = self._r.keys.acquire(key_of(name))
            except CacheError as error:
                log.warning("not cached path=%r reason=%s", f"/{found.path}", error)
            else:
                with suppress(CacheError), gevent.Timeout(PATIENCE, CatalogLate("no answer")):
                    found.continues = self._r.space.generation(name) > 0
        if name not in sessions:
            found.handle = self.lease(name, found.path, found.version)
        if found.lock is not None and (found.handle is not None or name in sessions):
            found.lock.release()
            found.lock = None

    def _session_or_file(self, found: Found) -> CopySession | SourceFile:
        """The session to join, else the open source file, to begin one with at once. Switches."""
        session = self._copies.sessions.get(found.name)
        if session is not None:
            return session
        file = self._source_file(found)
        session = self._copies.sessions.get(found.name)
        if session is None and not self._copies.closed:
            return file
        self._r.meta.post(file.close)
        if session is None:
            raise Closed("the cache is closed")
        return session

    def _start(self, found: Found, file: SourceFile) -> CopySession:
        lock, found.lock = found.lock, None
        return self._copies.start(
            name=found.name, path=found.path, file=file, lock=lock, continues=found.continues
        )

    def _reading(self, session: CopySession, status: CacheStatus, client: str) -> Delegate:
        instead = partial(self._instead_of_copy, session)
        return TempFileDelegate(session, status, self._r.counters, instead, client)

    def _confirm(self, found: Found) -> None:
        """If it is stale, and neither object nor session is there: have the source say that it is.

        Before the key's lock is taken, as that may take long. Switches. Raises as ``find`` does.
        """
        if found.stale and found.handle is None and found.name not in self._copies.sessions:
            self._await(found)

    def _await(self, found: Found) -> Flight:
        """The answered question about its path: the one of the look, or a new one. Switches."""
        flight = found.flight
        if flight is None:
            flight = found.flight = self._freshness.ask(found.path)
        age = time.monotonic() - flight.started
        self._freshness.wait(flight, self._r.config.source.timeout - age)
        found.stale = False
        return flight

    def _source_file(self, found: Found) -> SourceFile:
        """The open source file of this version. Switches."""
        file = self._await(found).take()
        assert file is not None  # we hold the flight
        if file.version != found.version:
            self._r.meta.post(file.close)
            self._copies.replaced(found.name, found.path)
            self._freshness.forget(found.path)  # the next look brings its file along
            raise SourceChanged(f"/{found.path}: changed at the source")
        return file

    def _cacheable(self, version: Version) -> bool:
        return not self._refusal(version)

    def _refusal(self, version: Version) -> str:
        """Why it is not copied, in words; "": it fits, and it is finished."""
        if self._health.degraded:
            return "the disk of the cache fails"
        if refusal := self._r.space.refusal(version.size):
            return refusal
        # Files still being written are not copied.
        settle = self._r.config.source.settle
        if abs(time.time() - version.mtime_ns / 1e9) < settle:
            return f"changed less than {settle:g} s (source.settle) ago"
        return ""

    # -- what cannot be read in the cache

    def _instead_of_object(self, handle: ObjectHandle, path: str, error: Exception) -> Delegate:
        """See ``Instead``. An object that is not what it should be is dropped; one that could only
        not be read now is not.
        """
        if tells_of_damage(error) and self._r.objects.spoil(handle):
            log.warning(
                "object damaged, dropped path=%r name=%s error=%s",
                *(f"/{path}", handle.name, error),
            )
            self._r.counters.objects_damaged += 1
            self._removal.remove_damaged(handle, path)
        return self._past_the_cache(handle.name, path, handle.version)

    def _instead_of_copy(self, session: CopySession, error: Exception) -> Delegate:
        """See ``Instead``."""
        if session.handle is not None:
            return self._instead_of_object(session.handle, session.path, error)
        if tells_of_damage(error):
            log.warning("partial damaged, dropped path=%r error=%s", f"/{session.path}", error)
            session.handle_event(Event.SPACE_DENIED)
        return self._past_the_cache(session.name, session.path, session.version)

    def _past_the_cache(self, name: str, path: str, version: Version) -> Delegate:
        with Found(self, path, version, name=name) as found:
            file = self._source_file(found)
        return DirectFileDelegate(file, self._r, counted=False)
