"""From a path to the version that it has: known, asked for, or stale; then ``opener`` opens it.

Hub's thread. ``Found.open`` gives the delegate: only that starts a copy, so HEAD, 304, 412 and 416
copy nothing.
"""

from __future__ import annotations

import errno
import logging
import time
from contextlib import ExitStack

import gevent

from streamcache.cache.blockmap import BLOCK
from streamcache.cache.copies import Copies
from streamcache.cache.database import CatalogLate
from streamcache.cache.delegate import CacheStatus, Delegate
from streamcache.cache.found import Found
from streamcache.cache.freshness import Flight, Freshness
from streamcache.cache.health import PATIENCE
from streamcache.cache.ledger import Ledger
from streamcache.cache.locks import KeyLock
from streamcache.cache.names import key_for, name_of
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.opener import Opener
from streamcache.cache.removal import Removal
from streamcache.cache.resources import Resources
from streamcache.cache.session import CopySession
from streamcache.config import Config
from streamcache.errors import CacheError, Closed, NotFound, SourceUnavailable
from streamcache.source.base import Version

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
        self._opener = Opener(resources, freshness, ledger, removal, self.copies)
        freshness.on_change.append(self._changed)

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

        ``ahead``: the offset where the caller will read next, if it will. While the source does not
        answer it is the last that is known, and ``Found.open`` fails if the cache lacks its bytes.
        Raises NotFound, AccessDenied, SourceTimeout, SourceBusy, SourceUnavailable or Closed.
        """
        if self.copies.closed:
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
        """Ask the source; when it does not answer, what is known is stale (I2)."""
        unknown = self._freshness.known(path) is None
        with ExitStack() as held:
            lock = None
            if unknown and ahead is not None and not self._health.degraded:
                # Who reads ahead holds the key until its copy has begun: nobody reads the same.
                lock = self._r.keys.try_acquire(self.key(path))
            if lock is not None:
                held.callback(lock.release)
                if self.has(path):
                    lock.release()
                    lock = None
            flight = self._freshness.ask(path, ahead=None if lock is None else ahead)
            held.callback(self._freshness.leave, flight)
            version, stale = self._answer(path, flight)
            found = self._found(path, version, flight=flight, lock=lock, stale=stale)
            held.pop_all()  # the lock and the hold on the flight are found's
        return found

    def _changed(self, path: str, before: Version | None, now: Version | None) -> None:
        """The source has said so: what the cache has of it is not to be served any more."""
        if self.copies.closed:
            return
        if now is None:
            self.copies.gone(self.key(path), path)
        elif before is not None:
            self.copies.replaced(self._name(path, before), path)

    def _answer(self, path: str, flight: Flight) -> tuple[Version, bool]:
        """The version, and whether it is stale. Switches.

        Who can be served from the cache waits a little for a source that is slow, all others for as
        long as it may take. When it has not answered, what is known may be all that is asked for:
        size and time. Who wants bytes that the cache lacks fails in ``Opener.open``.
        """
        age = time.monotonic() - flight.started
        try:
            return self._freshness.wait_a_little(flight), False
        except SourceUnavailable as error:
            if not flight.doubted:
                self._freshness.unanswered(path)
            had = self._had(path)
            if had is not None:
                log.debug("stale path=%r error=%s", f"/{path}", error)
                return had, True
        try:
            return self._freshness.wait(flight, self._r.config.source.timeout - age), False
        except SourceUnavailable:
            known = self._freshness.known(path)
            if known is None or not self._freshness.may_be_stale(known):
                raise
            assert known.version is not None
            return known.version, True

    def _had(self, path: str) -> Version | None:
        """A version that the cache can serve all of, or goes on copying. Switches."""
        known = self._freshness.known(path)
        if known is not None:
            version = known.version
            if version is None or not self._freshness.may_be_stale(known):
                return None
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
        name = self._name(path, version)
        return Found(
            self._opener,
            path,
            version,
            name=name,
            handle=self._opener.lease(name, path, version),
            flight=flight,
            lock=lock,
            stale=stale,
        )

    # -- hits without a lease, for the server's fast path

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
        return self._opener.cached(handle, CacheStatus.HIT, path[1:])

    # -- copies without a reader

    def copy(self, path: str) -> CopySession | None:
        """The copy of a path ("a/b.mp4") that is running, or is begun; nobody reads it for us.

        None: it is in the cache. Tell ``copies.fills`` of it before you switch. Switches. Raises as
        ``find``; CacheError when it is not cached.
        """
        with self.find("/" + path) as found:
            return self._opener.copy(found)

    # -- the end

    def close(self, timeout: float) -> None:
        """End all sessions; partials stay. Switches, at most for ``timeout`` s."""
        self.copies.end(timeout)
        self._removal.close(_END_WAIT)

    def key(self, path: str) -> str:
        """The key of a path ("a/b.mp4", relative to the source)."""
        return key_for(self._r.source.id, self._r.config.source.identity, path)

    def _name(self, path: str, version: Version) -> str:
        return name_of(self.key(path), version.id)


def _relative(path: str) -> str:
    """ "/a/b.mp4" or "a/b.mp4" -> "a/b.mp4"; NotFound for what names no file."""
    relative = path.removeprefix("/")
    parts = relative.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise NotFound(errno.ENOENT, "no such file at the source", f"/{relative}")
    return relative
