"""SIEVE, to compare with: Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024.

In simulations only: a cache cannot be configured with it.
"""

from __future__ import annotations

from collections.abc import Container
from typing import ClassVar, Final

from streamcache.cache.queues import Queued

_QUEUE: Final = "sieve"


class Sieve:
    """One queue that nothing moves in, and a hand that goes from its oldest to its newest."""

    resident: ClassVar[tuple[str, ...]] = (_QUEUE,)
    home = _QUEUE

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._sizes: dict[str, int] = {}
        self._asked: set[str] = set()
        self._newer: dict[str, str] = {}
        self._older: dict[str, str] = {}
        self._oldest = self._newest = self._hand = ""

    def recall(self, name: str) -> bool:
        """It remembers nothing of what is gone."""
        return False

    def insert(self, name: str, size: int, *, recalled: bool) -> None:
        """At the new end."""
        self._sizes[name] = size
        if self._newest:
            self._newer[self._newest], self._older[name] = name, self._newest
        else:
            self._oldest = name
        self._newest = name

    def touch(self, name: str, count: int = 1) -> None:
        """Asked for since the hand passed."""
        if name in self._sizes:
            self._asked.add(name)

    def discard(self, name: str) -> None:
        """It is gone."""
        if name in self._sizes:
            self._drop(name)

    def evict(self, held: Container[str] = ()) -> Queued | None:
        """The first from the hand on that was not asked for."""
        for _ in range(2 * len(self._sizes)):
            name = self._hand or self._oldest
            self._hand = self._newer.get(name, "")
            if name in held:
                continue
            if name not in self._asked:
                size = self._sizes[name]
                self._drop(name)
                return Queued(name, _QUEUE, size, 0)
            self._asked.remove(name)
        return None

    def _drop(self, name: str) -> None:
        newer, older = self._newer.pop(name, ""), self._older.pop(name, "")
        if self._hand == name:
            self._hand = newer
        if newer:
            self._older.pop(newer, None)
            if older:
                self._older[newer] = older
        else:
            self._newest = older
        if older:
            self._newer.pop(older, None)
            if newer:
                self._newer[older] = newer
        else:
            self._oldest = newer
        self._asked.discard(name)
        del self._sizes[name]
