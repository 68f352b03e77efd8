"""The Evictor: one greenlet that makes room, from the high watermark down to the low one.

Greenlets: its own, in the hub's thread; decisions are made by the catalog in its worker thread,
files are unlinked by the store in another. It works in small batches and yields between them, so it
makes no client wait (I14) but those for whom there is no room at all.

Processes: each that shares the cache directory has an Evictor, and one at a time has a round: who
holds the lock of a file. The kernel frees it when that process dies, so another one takes over at
its next look. One that is stopped (SIGSTOP) in a round keeps it: until it goes on, those who find
no room wait for their whole timeout and are then served without being cached.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final, Protocol

import gevent

from streamcache.cache.entry import Entry, Victim
from streamcache.cache.space import Space
from streamcache.errors import CacheError

BATCH_FILES: Final = 64
BATCH_BYTES: Final = 1 << 30
ELECTION: Final = 0.02  # s between looks whether another process's round is over
SWEEP: Final = 10.0  # s between sweeps, over all processes
STALLED: Final = 3  # batches in a row of which nothing could be removed: the round gives up

log = logging.getLogger(__name__)


class EvictionOrder(Protocol):
    """What the Evictor needs of the catalog; called in the catalog's thread."""

    def victims(
        self, need: int, *, held: Collection[str] = (), limit: int = 64, batch: int = 1 << 30
    ) -> list[Victim]:
        """What goes next; [] when nothing but `held` is left."""

    def remove_victims(self, names: list[str]) -> int:
        """They are gone; returns their bytes."""

    def entries_of(self, names: list[str]) -> list[Entry]:
        """What is known of these, without those of which nothing is."""


class Evictor:
    """Looks each `interval` seconds whether usage is above the high mark; at once when woken.

    Its hands are others'; all but `leased` may switch: `catalog_call(fn, *args)` runs fn in the
    catalog's thread, `remove(names)` takes objects off the disk and returns those that are gone
    (also when they were gone before), `drop_idle_partials(need)` drops partials without a session,
    oldest first, settles their reservations and returns the bytes freed, `leased()` names the
    objects that are being read. `each_look()` is called at every look, in each process; `sweep()`
    by one process at a time and seldom: it clears up after those that died.
    """

    def __init__(
        self,
        space: Space,
        catalog: EvictionOrder,
        *,
        catalog_call: Callable[..., Any],
        remove: Callable[[list[str]], list[str]],
        leased: Callable[[], Collection[str]],
        drop_idle_partials: Callable[[int], int],
        interval: float = 1.0,
        lock: str | None = None,
        sweep: Callable[[], object] | None = None,
        each_look: Callable[[], object] | None = None,
        evicted: Callable[[float], object] | None = None,
        sweep_interval: float = SWEEP,
    ) -> None:
        """`lock`: the file of the election, made if it is not there; None: there is no other.

        `evicted`: told of each object for how long, in s, it had not been used.
        """
        self._catalog = catalog
        self.evicted_objects = 0
        self.evicted_bytes = 0  # objects and partials
        self.rounds = 0
        self._space = space
        self._catalog_call = catalog_call
        self._remove = remove
        self._leased = leased
        self._drop_idle_partials = drop_idle_partials
        self._interval = interval
        self._lock = lock
        self._lock_fd = -1
        self._sweep = sweep
        self._each_look = each_look
        self._evicted = evicted
        self._sweep_interval = sweep_interval
        self._swept = 0.0  # when, s since the epoch, as far as this process knows
        self._stopping = False
        self._failing = False
        self._failures: set[Callable[[], object]] = set()  # said already
        self._starved = False
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def __repr__(self) -> str:
        return (
            f"<Evictor {'running' if self._space.evicting else 'stopped'} rounds={self.rounds}"
            f" objects={self.evicted_objects} bytes={self.evicted_bytes}>"
        )

    def start(self) -> None:
        """Start the greenlet; from now on draws may wait."""
        self._stopping = False
        if self._lock is not None:
            # Open as long as the Evictor runs: flock itself asks no disk.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                self._lock_fd = os.open(self._lock, flags, 0o600)
            except OSError as error:
                log.warning("no election of an Evictor path=%r error=%s", self._lock, error)
        self._space.evicting = True
        self._greenlet = gevent.spawn(self._run)

    def reconfigure(self, interval: float) -> None:
        """Another time between looks, from the next one on. Does not switch."""
        self._interval = interval

    def stop(self, timeout: float | None = 5.0) -> None:
        """End after the batch in hand, at the latest after `timeout` seconds. Idempotent. Switches.

        Who waits for room is refused now.
        """
        self._stopping = True
        self._space.evicting = False
        self._space.refuse_waiters("closing")
        self._space.pressure.set()
        if self._greenlet is not None:
            self._greenlet.join(timeout)
            self._greenlet.kill(block=False)
            self._greenlet = None
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def _run(self) -> None:
        space, pause = self._space, self._interval
        try:
            while not self._stopping:
                space.pressure.wait(pause)
                space.pressure.clear()
                if not self._stopping:
                    pause = self._look()
        finally:
            space.evicting = False
            space.refuse_waiters("closing")

    def _look(self) -> float:
        """What there is to do, if this process is the one to do it; s until the next look."""
        if self._each_look is not None:
            self._guarded(self._each_look)
        # What others freed may be enough already. A catalog that cannot be read is no reason to
        # leave those who wait without an answer: the round gives it.
        self._guarded(self._space.refresh)
        # While the catalog is rebuilt there is nothing to compare with: the sweep stays due.
        due = self._sweep is not None and self._space.known and self._is_due(self._swept)
        if not (self._space.pressed or due):
            return self._interval
        if not self._elect():
            return min(ELECTION, self._interval) if self._space.waiters else self._interval
        try:
            if due:
                self._guarded(self._do_sweep)
            if self._space.pressed:
                self._round()
        finally:
            if self._lock_fd >= 0:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        return self._interval

    def _elect(self) -> bool:
        """Whether no other process has a round; until its end none begins one."""
        if self._lock_fd < 0:  # two rounds at once free too much, no round frees nothing
            return True
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _do_sweep(self) -> None:
        """If no other process has done it meanwhile."""
        assert self._sweep is not None
        if self._lock_fd >= 0:
            last = self._catalog_call(self._last_sweep)
            if last is not None:
                self._swept = last
                return
        self._swept = time.time()
        self._guarded(self._sweep)

    def _last_sweep(self) -> float | None:
        """Runs in the catalog's thread: when another process has swept, if none is due.

        The lock file's mtime says so. None: it is our turn, which it says from now on.
        """
        assert self._lock is not None
        with suppress(OSError):  # a sweep too many does no harm
            # Not the descriptor of the lock: it may be closed by now, and its number another's.
            fd = os.open(self._lock, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                status = os.fstat(fd)
                if status.st_size and not self._is_due(status.st_mtime):
                    return status.st_mtime
                os.pwrite(fd, b"swept\n", 0)
            finally:
                os.close(fd)
        return None

    def _is_due(self, last: float) -> bool:
        return abs(time.time() - last) >= self._sweep_interval  # also when the clock went back

    def _guarded(self, function: Callable[[], object]) -> None:
        """A broken catalog or disk costs caching, never the Evictor (I15)."""
        try:
            function()
            self._failures.discard(function)
        except Exception as error:
            if function not in self._failures:
                known = isinstance(error, CacheError | OSError)
                log.error("look of the Evictor failed error=%s", _words(error), exc_info=not known)
            self._failures.add(function)

    def _round(self) -> None:
        """From above the high mark, or from somebody who waits, to the low mark."""
        space, before = self._space, self._space.used
        objects, freed = self.evicted_objects, self.evicted_bytes
        reason = "nothing more can be evicted"
        try:
            done = self._evict()
            self._failing = False
        except Exception as error:
            # A broken catalog or disk costs caching, never the Evictor (I15).
            if not self._failing:
                known = isinstance(error, CacheError | OSError)
                log.error("eviction failed error=%s", _words(error), exc_info=not known)
            self._failing, done, reason = True, False, "eviction failed"
        if not done:
            space.give_up(reason)
            if not self._starved and not self._failing:
                log.warning(
                    "nothing more to evict used=%d limit=%d objects=%d reserved=%d trash=%d",
                    *(space.used, space.limit, space.objects, space.reserved, space.trash),
                )
        self._starved = not done
        self.rounds += 1
        if self.evicted_bytes > freed or self.evicted_objects > objects:
            log.info(
                "evicted objects=%d bytes=%d used_before=%d used_after=%d limit=%d",
                self.evicted_objects - objects,
                self.evicted_bytes - freed,
                before,
                space.used,
                space.limit,
            )

    def _evict(self) -> bool:
        """Free what the round needs; False when it could not."""
        space = self._space
        refused: set[str] = set()
        partials, stalled = True, 0
        while (need := space.surplus) and not self._stopping:
            if partials:
                bytes_freed = self._drop_idle_partials(min(need, BATCH_BYTES))
                self.evicted_bytes += bytes_freed
                partials = bytes_freed > 0
                continue
            if stalled == STALLED:
                return False
            victims: list[Victim] = self._catalog_call(
                self._victims, need, frozenset(self._leased()) | refused
            )
            if not victims:
                return False
            gone = self._evict_batch([victim.name for victim in victims])
            refused.update(victim.name for victim in victims if victim.name not in gone)
            stalled = 0 if gone else stalled + 1
            gevent.sleep(0)
        return True

    def _victims(self, need: int, held: frozenset[str]) -> list[Victim]:
        """Runs in the catalog's thread."""
        return self._catalog.victims(need, held=held, limit=BATCH_FILES, batch=BATCH_BYTES)

    def _evict_batch(self, names: list[str]) -> set[str]:
        gone = self._remove(names)
        if gone:
            freed, entries = self._catalog_call(self._forget, gone)
            now = time.time()
            for entry in entries:
                unused = max(0.0, now - entry.used)
                form = "object evicted path=%r bytes=%d unused=%.0f name=%s"
                log.info(form, f"/{entry.path}", entry.on_disk, unused, entry.name)
                if self._evicted is not None:
                    self._evicted(unused)
            self.evicted_objects += len(gone)
            self.evicted_bytes += freed
        return set(gone)

    def _forget(self, names: list[str]) -> tuple[int, list[Entry]]:
        """Runs in the catalog's thread."""
        entries = self._catalog.entries_of(names)
        return self._catalog.remove_victims(names), entries


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
