"""Which object goes first: S3-FIFO (the default) and LRU, over named FIFO queues.

S3-FIFO: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, in the form of
libcachesim 0.3.5, with which it agrees decision by decision: new objects pass through a small queue
(10 % of the capacity); what is not asked for twice there leaves early and is remembered by name (a
ghost); what comes back from the ghosts, or was asked for, lives in the main queue, a clock with two
bits. A scan of one-hit wonders therefore costs 10 % of the cache, not all of it.
"""

from __future__ import annotations

from collections.abc import Container
from typing import ClassVar, Final, Literal, Protocol

from streamcache.cache.queues import Queued, Queues

SMALL: Final = "small"
MAIN: Final = "main"
GHOST: Final = "ghost"

PolicyName = Literal["s3fifo", "lru"]


class Policy(Protocol):
    """An eviction order: told what happens, asked what goes. Sizes in bytes."""

    capacity: int  # bytes that the objects may take; may change at any time
    resident: ClassVar[tuple[str, ...]]  # the queues of objects that are there

    @property
    def home(self) -> str:
        """The queue for objects whose past is unknown."""

    def recall(self, name: str) -> bool:
        """Whether `name` was evicted not long ago; it is forgotten by asking."""

    def insert(self, name: str, size: int, *, recalled: bool) -> None:
        """A new object is there; `recalled` is what `recall` said when it was missed."""

    def touch(self, name: str, count: int = 1) -> None:
        """The object was asked for `count` times; unknown names are ignored."""

    def discard(self, name: str) -> None:
        """The object went for another reason; unknown names are ignored."""

    def evict(self, held: Container[str] = ()) -> Queued | None:
        """Take out the object that is worth least; None when all that is left is in `held`.

        A held one goes to the end of its queue: that costs each one step, not one per look.
        """


class Lru:
    """Least recently used."""

    resident: ClassVar[tuple[str, ...]] = ("lru",)
    home = "lru"

    def __init__(self, queues: Queues, capacity: int) -> None:
        self.capacity = capacity
        self._queues = queues

    def recall(self, name: str) -> bool:
        return False

    def insert(self, name: str, size: int, *, recalled: bool) -> None:
        self._queues.push("lru", name, size)

    def touch(self, name: str, count: int = 1) -> None:
        if item := self._queues.find(name):
            self._queues.move(item, "lru", 0)

    def discard(self, name: str) -> None:
        if item := self._queues.find(name):
            self._queues.drop(item)

    def evict(self, held: Container[str] = ()) -> Queued | None:
        for _ in range(self._queues.count("lru")):
            item = self._queues.first("lru")
            assert item is not None
            if item.name not in held:
                self._queues.drop(item)
                return item
            self._queues.move(item, "lru", 0)
        return None


class S3Fifo:
    """Simple, scalable caching with three static FIFO queues."""

    SMALL_SHARE: ClassVar = 0.10  # of the capacity
    GHOST_SHARE: ClassVar = 0.90  # of the capacity, counted by the sizes of what is remembered
    PROMOTE: ClassVar = 2  # touches in the small queue that are worth a place in the main one
    MOST: ClassVar = 3  # a counter has two bits

    resident: ClassVar[tuple[str, ...]] = (SMALL, MAIN)
    home = MAIN

    def __init__(self, queues: Queues, capacity: int) -> None:
        self.capacity = capacity
        self._queues = queues

    @property
    def small_capacity(self) -> int:
        """Bytes that the small queue may take."""
        return int(self.capacity * self.SMALL_SHARE)

    def recall(self, name: str) -> bool:
        item = self._queues.find(name)
        if item is None or item.queue != GHOST:
            return False
        self._queues.drop(item)
        return True

    def insert(self, name: str, size: int, *, recalled: bool) -> None:
        # While the cache fills for the first time there is nothing to protect: what does not fit
        # into the small queue goes to the main one.
        first_fill = not self._queues.evicted and self._queues.size(SMALL) >= self.small_capacity
        self._queues.push(MAIN if recalled or first_fill else SMALL, name, size)

    def touch(self, name: str, count: int = 1) -> None:
        item = self._queues.find(name)
        if item is not None and item.queue != GHOST and item.freq < self.MOST:
            self._queues.mark(item, min(item.freq + count, self.MOST))

    def discard(self, name: str) -> None:
        item = self._queues.find(name)
        if item is not None and item.queue != GHOST:
            self._queues.drop(item)

    def evict(self, held: Container[str] = ()) -> Queued | None:
        self._queues.evicted = True
        item = None
        if self._queues.size(MAIN) > self.capacity - self.small_capacity:
            item = self._evict_main(held)
        # Last the main queue again: the small one may have nothing to give but promotions.
        return item or self._evict_small(held) or self._evict_main(held)

    def _evict_small(self, held: Container[str]) -> Queued | None:
        passed = 0
        while passed < self._queues.count(SMALL):
            item = self._queues.first(SMALL)
            assert item is not None
            if item.freq >= self.PROMOTE:
                self._queues.move(item, MAIN, 0)
            elif item.name in held:
                self._queues.move(item, SMALL, item.freq)
                passed += 1
            else:
                self._remember(item)
                return item
        return None

    def _evict_main(self, held: Container[str]) -> Queued | None:
        passed = 0
        while passed < self._queues.count(MAIN):
            item = self._queues.first(MAIN)
            assert item is not None
            if item.freq:
                self._queues.move(item, MAIN, item.freq - 1)
                passed = 0  # the held ones before it may have hidden one that is now worth nothing
            elif item.name in held:
                self._queues.move(item, MAIN, 0)
                passed += 1
            else:
                self._queues.drop(item)
                return item
        return None

    def _remember(self, item: Queued) -> None:
        room = int(self.capacity * self.GHOST_SHARE)
        if item.size > room:
            self._queues.drop(item)
            return
        while self._queues.size(GHOST) + item.size > room:
            oldest = self._queues.first(GHOST)
            assert oldest is not None
            self._queues.drop(oldest)
        self._queues.move(item, GHOST, 0)


POLICIES: dict[PolicyName, type[S3Fifo] | type[Lru]] = {"s3fifo": S3Fifo, "lru": Lru}
