"""The Evictor: one greenlet that makes room, from the high watermark down to the low one.

Greenlets: its own, in the hub's thread; decisions are made by the catalog in its worker thread,
files are unlinked by the store in another. It works in small batches and yields between them, so it
makes no client wait (I14) but those for whom there is no room at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol

import gevent

from streamcache.cache.catalog import Victim
from streamcache.cache.space import Space
from streamcache.errors import CacheError

BATCH_FILES: Final = 64
BATCH_BYTES: Final = 1 << 30
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


class Evictor:
    """Looks each `interval` seconds whether usage is above the high mark; at once when woken.

    Its hands are others'; all but `leased` may switch: `catalog_call(fn, *args)` runs fn in the
    catalog's thread, `remove(names)` takes objects off the disk and returns those that are gone
    (also when they were gone before), `drop_idle_partials(need)` drops partials without a session,
    oldest first, releases their reservations and returns the bytes freed, `leased()` names the
    objects that are being read.
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
    ) -> None:
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
        self._stopping = False
        self._failing = False
        self._starved = False
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def __repr__(self) -> str:
        return (
            f"<Evictor {'running' if self._space.evicting else 'stopped'} rounds={self.rounds}"
            f" objects={self.evicted_objects} bytes={self.evicted_bytes}>"
        )

    def start(self) -> None:
        """Start the greenlet; from now on reservations may wait."""
        self._stopping = False
        self._space.evicting = True
        self._greenlet = gevent.spawn(self._run)

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

    def _run(self) -> None:
        space = self._space
        try:
            while not self._stopping:
                space.pressure.wait(self._interval)
                space.pressure.clear()
                if space.pressed and not self._stopping:
                    self._round()
        finally:
            space.evicting = False
            space.refuse_waiters("closing")

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
                log.error("eviction failed error=%r", error, exc_info=not known)
            self._failing, done, reason = True, False, "eviction failed"
        if not done:
            space.refuse_waiters(reason)
            if not self._starved and not self._failing:
                log.warning("nothing more to evict %r", space)
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
            freed: int = self._catalog_call(self._catalog.remove_victims, gone)
            self._space.object_removed(freed)
            self.evicted_objects += len(gone)
            self.evicted_bytes += freed
        return set(gone)
