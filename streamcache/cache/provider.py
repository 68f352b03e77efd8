"""From a path to an open version of it: hit, collapsed, miss or bypass.

Hub's thread. ``find`` says which version a path has (asking the source when that is not known),
``Found.open`` gives the delegate: only that starts a copy, so HEAD, 304, 412 and 416 copy nothing.
"""

from __future__ import annotations

import errno
import logging
import time
from contextlib import ExitStack, suppress
from functools import partial

import gevent

from streamcache.cache.allotment import LOCK_WAIT
from streamcache.cache.blockmap import BLOCK
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
from streamcache.cache.locks import KeyLock
from streamcache.cache.names import key_for, key_of
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.removal import Removal
from streamcache.cache.resources import Resources
from streamcache.cache.session import CopySession
from streamcache.cache.states import Event
from streamcache.config import Config
from streamcache.errors import (
    CacheError,
    Closed,
    NotFound,
    SourceChanged,
    SourceUnavailable,
)
from streamcache.source.base import SourceFile, Version

_END_WAIT = 2.0  # s that the close waits for what is being tidied up

log = logging.getLogger(__name__)


class Provider:
    """The way from a path to a delegate."""

    def __init__(
        self, resources: Resources, freshness: Freshness, ledger: Ledger, removal: Removal
    ) -> None:
        self.copies = Copies(resources, removal, self.copy)
        self._r = resources
        self._counters = resources.counters  # at hand for each hit
        self._freshness = freshness
        self._ledger = ledger
        self._removal = removal
        self._health = resources.health
        self._closed = False

    def __repr__(self) -> str:
        return f"<Provider {self.copies!r}>"

    def reconfigure(self, config: Config) -> None:
        """Other options; sessions keep their own ``claim_timeout``. Does not switch."""
        self._r.config = config
        self._freshness.reconfigure(config.source)
        self.copies.fills.reconfigure(config.copy)

    # -- find

    def find(self, path: str, *, ahead: int | None = None) -> Found:
        """The version that ``path`` ("/a/b.mp4") has. Switches when the source must be asked.

        ``ahead``: the offset where the caller will read next, if it will. Raises NotFound,
        AccessDenied, SourceTimeout, SourceBusy, SourceUnavailable or Closed.
        """
        if self._closed:
            raise Closed("the cache is closed")
        path = _relative(path)
        known = self._freshness.fresh(path)
        if known is not None:
            if known.version is None:
                raise NotFound(errno.ENOENT, "no such file at the source", f"/{path}")
            stale = known.failing_since is not None
            if not stale or self._freshness.may_be_stale(known):
                return self._found(path, known.version, stale=stale)
        return self._ask(path, None if ahead is None else ahead // BLOCK * BLOCK)

    def _ask(self, path: str, ahead: int | None) -> Found:
        """Ask the source; what the cache has is served stale when it does not answer (I2)."""
        before = self._freshness.known(path)
        with ExitStack() as held:
            lock = None
            if before is None and ahead is not None and not self._health.degraded:
                # Who reads ahead holds the key until its copy has begun: nobody reads the same.
                lock = self._r.keys.try_acquire(self.key(path))
            if lock is not None:
                held.callback(lock.release)
                if self.has(path):
                    lock.release()
                    lock = None
            flight = self._freshness.ask(path, ahead=None if lock is None else ahead)
            held.callback(self._freshness.leave, flight)
            try:
                version, stale = self._answer(path, flight)
                found = self._found(path, version, flight=flight, lock=lock, stale=stale)
            except NotFound:
                if not flight.acted_on:
                    flight.acted_on = True
                    self._gone(path)
                raise
            held.pop_all()  # the lock and the hold on the flight are found's
        if not stale and not flight.acted_on:
            flight.acted_on = True
            if before is not None and before.version not in (None, version):
                assert before.version is not None
                self._outdated(path, before.version)
        return found

    def _answer(self, path: str, flight: Flight) -> tuple[Version, bool]:
        """The version, and whether it is stale. Switches."""
        age = time.monotonic() - flight.started
        try:
            return self._freshness.wait(flight, self._freshness.patience(flight)), False
        except SourceUnavailable as error:
            self._freshness.unanswered(path)
            had = self._had(path)
            if had is not None:
                log.debug("served stale path=%r error=%s", f"/{path}", error)
                return had, True
        timeout = self._r.config.source.timeout
        return self._freshness.wait(flight, timeout - age), False

    def _had(self, path: str) -> Version | None:
        """A version that the cache can serve all of, or goes on copying. Switches."""
        known = self._freshness.known(path)
        if known is not None:
            if not self._freshness.may_be_stale(known):
                return None
            version = known.version
            assert version is not None
            if self._name(path, version) in self.copies.sessions:
                return version
            with self._found(path, version, stale=True) as found:
                return version if found.handle is not None else None
        try:
            stored = self._health.call(self._r.store.objects.versions, self.key(path))
        except OSError:
            return None
        if not stored:
            return None
        version = stored[-1].version
        self._freshness.remember_stored(path, version)
        return version

    def has(self, path: str) -> bool:
        """Whether the cache may have bytes of this path ("a/b.mp4") already. Switches."""
        key = self.key(path)
        try:
            if self._health.call(self._r.store.objects.versions, key):
                return True
            with gevent.Timeout(PATIENCE, CatalogLate("no answer")):
                return bool(self._ledger.reserved(key))
        except (OSError, CacheError):
            return True

    def _found(
        self,
        path: str,
        version: Version,
        *,
        flight: Flight | None = None,
        lock: KeyLock | None = None,
        stale: bool,
    ) -> Found:
        handle = self._lease(self._name(path, version), version)
        return Found(self, path, version, handle=handle, flight=flight, lock=lock, stale=stale)

    def _lease(self, name: str, version: Version) -> ObjectHandle | None:
        try:
            return self._r.objects.lease(name, version)
        except OSError as error:  # the cache is optional (I15)
            # A line for each request would be many, and that the disk fails is known.
            level = logging.DEBUG if self._health.degraded else logging.WARNING
            log.log(level, "object not readable name=%s error=%s", name, error)
            return None

    # -- open

    def status_of(self, found: Found) -> CacheStatus:
        """What opening it would give, when it is fresh and there is no object."""
        if self._name(found.path, found.version) in self.copies.sessions:
            return CacheStatus.COLLAPSED
        return CacheStatus.MISS if self._cacheable(found.version) else CacheStatus.BYPASS

    def open(self, found: Found, client: str) -> Delegate:
        """See ``Found.open``."""
        if self._closed:
            raise Closed("the cache is closed")
        name, counters = self._name(found.path, found.version), self._r.counters
        if found.handle is None and name not in self.copies.sessions:
            self._prepare_copy(found, name)
        if found.handle is not None:
            handle, found.handle = found.handle, None
            self._ledger.touch(name, client, time.monotonic())
            status = CacheStatus.STALE if found.stale else CacheStatus.HIT
            return self._cached(handle, status, found.path)
        session = self.copies.sessions.get(name)
        if session is None:
            file = self._source_file(found)
            session = self.copies.sessions.get(name)
            # Nothing switches from here on: two that come together get one session (I9).
            if session is not None:
                self._r.meta.post(file.close)
            elif self._closed:
                self._r.meta.post(file.close)
                raise Closed("the cache is closed")
            elif found.lock is None or not self._cacheable(found.version):
                return DirectFileDelegate(file, self._r, counters)
            else:
                session = self._start(found, name, file)
                status = CacheStatus.MISS if self._r.space.known else CacheStatus.BYPASS
                instead = partial(self._instead_of_copy, session)
                return TempFileDelegate(session, status, counters, instead, client)
        instead = partial(self._instead_of_copy, session)
        delegate = TempFileDelegate(session, _joined(found), counters, instead, client)
        self.copies.fills.joined(session)
        return delegate

    def _prepare_copy(self, found: Found, name: str) -> None:
        """Take the key's lock, if it is to be copied; or the object, if it is there now. Switches.

        Who had the lock before, in whichever process, may have published it, or begun a session.
        """
        if found.lock is None and self._cacheable(found.version):
            try:
                found.lock = self._r.keys.acquire(key_of(name), LOCK_WAIT)
            except CacheError as error:
                log.warning("not cached path=%r reason=%s", f"/{found.path}", error)
            else:
                with suppress(CacheError), gevent.Timeout(PATIENCE, CatalogLate("no answer")):
                    found.continues = self._r.space.generation(name) > 0
        if name not in self.copies.sessions:
            found.handle = self._lease(name, found.version)
        if found.lock is not None and (found.handle is not None or name in self.copies.sessions):
            found.lock.release()
            found.lock = None

    def peek(self, path: str, last: ObjectHandle | None = None) -> ObjectHandle | None:
        """What a hit would read from, without a lease: good until the hub's next turn.

        Does not switch, counts nothing. ``last``: what it gave for this path before. It would give
        the same again before the handle's ``good_until``; but ask each second, as what is not asked
        for is closed at last.
        """
        known = self._freshness.fresh(path[1:])
        if known is None or known.version is None or known.failing_since is not None:
            return None
        same = last is not None and last.version.id == known.version.id
        name = last.name if same and last else self._name(path[1:], known.version)
        hot = self._r.objects.peek(name)
        if hot is not None:
            known.hot, hot.good_until = hot, known.until
        return hot

    def delivered(self, handle: ObjectHandle, client: str, count: int, now: float) -> None:
        """A hit was answered from what ``peek`` gave; ``now``: monotonic s."""
        self._ledger.touch(handle.name, client, now)
        counters = self._counters
        counters.quick_hits += 1
        counters.quick_bytes += count

    def take(self, handle: ObjectHandle, client: str, path: str) -> Delegate:
        """Lease what ``peek`` gave for ``path`` in this turn of the hub. Does not switch."""
        self._ledger.touch(handle.name, client, time.monotonic())
        self._r.objects.take(handle)
        return self._cached(handle, CacheStatus.HIT, path[1:])

    def _cached(self, handle: ObjectHandle, status: CacheStatus, path: str) -> Delegate:
        instead = partial(self._instead_of_object, handle, path)
        return CachedFileDelegate(
            handle, status, self._r.counters, self._r.objects.release, instead
        )

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
        return self._past_the_cache(path, handle.version)

    def _instead_of_copy(self, session: CopySession, error: Exception) -> Delegate:
        """See ``Instead``."""
        if session.handle is not None:
            return self._instead_of_object(session.handle, session.path, error)
        if tells_of_damage(error):
            log.warning("partial damaged, dropped path=%r error=%s", f"/{session.path}", error)
            session.handle_event(Event.SPACE_DENIED)
        return self._past_the_cache(session.path, session.version)

    def _past_the_cache(self, path: str, version: Version) -> Delegate:
        with Found(self, path, version, handle=None, flight=None, lock=None, stale=False) as found:
            file = self._source_file(found)
        return DirectFileDelegate(file, self._r, self._r.counters, counted=False)

    def give_back(self, handle: ObjectHandle | None, flight: Flight | None) -> None:
        """What a ``Found`` did not use."""
        if handle is not None:
            self._r.objects.release(handle)
        if flight is not None:
            self._freshness.leave(flight)

    def _source_file(self, found: Found) -> SourceFile:
        """The open source file of this version. Switches."""
        file = found.flight.take() if found.flight is not None and not found.stale else None
        if file is None:
            flight = self._freshness.ask(found.path)
            try:
                self._freshness.wait(flight, self._r.config.source.timeout)
                file = flight.take()
                assert file is not None
            finally:
                self._freshness.leave(flight)
        if file.version != found.version:
            self._r.meta.post(file.close)
            self._outdated(found.path, found.version)
            self._freshness.forget(found.path)  # the next look brings its file along
            raise SourceChanged(f"/{found.path}: changed at the source")
        return file

    def _cacheable(self, version: Version) -> bool:
        """It fits, and it is finished: files still being written are not copied."""
        if self._health.degraded:
            return False
        age = abs(time.time() - version.mtime_ns / 1e9)
        return age >= self._r.config.source.settle and self._r.space.fits(version.size)

    def _refusal(self, version: Version) -> str:
        """Why it is not copied, in words."""
        if self._health.degraded:
            return "the disk of the cache fails"
        if refusal := self._r.space.refusal(version.size):
            return refusal
        if not self._cacheable(version):
            return f"changed less than {self._r.config.source.settle:g} s (source.settle) ago"
        return "another process works on it"

    def _start(self, found: Found, name: str, file: SourceFile) -> CopySession:
        lock, found.lock = found.lock, None
        return self.copies.start(
            name=name, path=found.path, file=file, lock=lock, continues=found.continues
        )

    def copy(self, path: str) -> CopySession | None:
        """The copy of a path ("a/b.mp4") that is running, or is begun; nobody reads it for us.

        None: it is in the cache. Tell ``copies.fills`` of it before you switch. Switches. Raises as
        ``find``; CacheError when it is not cached.
        """
        with self.find("/" + path) as found:
            name = self._name(path, found.version)
            if found.handle is not None:
                return None
            if name not in self.copies.sessions:
                self._prepare_copy(found, name)
            if found.handle is not None:
                return None
            file = None
            if name not in self.copies.sessions:
                if found.lock is None:
                    raise CacheError(self._refusal(found.version))
                file = self._source_file(found)
            session = self.copies.sessions.get(name)
            # From here on as in ``open``: nothing switches.
            if session is None and file is not None and not self._closed:
                return self._start(found, name, file)
            if file is not None:
                self._r.meta.post(file.close)
            if session is None:
                raise Closed("the cache is closed")
            return session

    # -- what is no longer true

    def _outdated(self, path: str, version: Version) -> None:
        """The path has another version now: readers of the old one go on, nobody joins them."""
        name = self._name(path, version)
        log.info("source changed path=%r", f"/{path}")
        session = self.copies.sessions.get(name)
        if session is not None:
            session.handle_event(Event.OUTDATED)
        self._removal.remove([name], path)

    def _gone(self, path: str) -> None:
        """Proven: the source has no such file any more."""
        key = self.key(path)
        self.copies.outdate(lambda session: session.name.startswith(key))
        self._removal.remove_others(key, None, path)

    # -- the end

    def close(self, timeout: float) -> None:
        """End all sessions; partials stay. Switches, at most for ``timeout`` s."""
        self._closed = True
        self.copies.end(timeout)
        self._removal.close(_END_WAIT)

    def key(self, path: str) -> str:
        """The key of a path ("a/b.mp4", relative to the source)."""
        return key_for(self._r.source.id, self._r.config.source.identity, path)

    def _name(self, path: str, version: Version) -> str:
        return f"{self.key(path)}.{version.id}"


def _joined(found: Found) -> CacheStatus:
    """Of who reads along with a copy: while the source does not answer, its version may be old."""
    return CacheStatus.STALE if found.stale else CacheStatus.COLLAPSED


def _relative(path: str) -> str:
    """ "/a/b.mp4" or "a/b.mp4" -> "a/b.mp4"; NotFound for what names no file."""
    relative = path.removeprefix("/")
    parts = relative.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise NotFound(errno.ENOENT, "no such file at the source", f"/{relative}")
    return relative
