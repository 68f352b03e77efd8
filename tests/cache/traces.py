"""Request traces for the eviction tests, and a pure cache that replays them."""

from __future__ import annotations

import itertools
import random
from bisect import bisect
from collections.abc import Iterator

from streamcache.cache.policy import Policy, S3Fifo

Trace = list[tuple[int, int]]  # (object, size in bytes)

MEDIA_SIZES = (1, 3, 10, 40, 100, 250)  # segments, songs, clips, episodes, films


def size_of(number: int, sizes: tuple[int, ...] = MEDIA_SIZES) -> int:
    """The size of an object: always the same, unlike its neighbours'."""
    return sizes[number * 2654435761 % 2**32 % len(sizes)]


def media_trace(
    requests: int, *, seed: int, titles: int = 2000, one_hit: float = 0.2, scans: int = 1
) -> Trace:
    """Zipf 0.9 over titles of which new ones arrive, one-hit wonders, and scans over many."""
    rng = random.Random(seed)
    weights = list(itertools.accumulate(1 / rank**0.9 for rank in range(1, titles + 1)))
    wonders = itertools.count(10_000_000)
    scan_at = {requests * (n + 1) // (scans + 1) for n in range(scans)}
    numbers: list[int] = []
    while len(numbers) < requests:
        if len(numbers) in scan_at:
            numbers.extend(range(20_000_000, 20_000_000 + titles // 4))
        elif rng.random() < one_hit:
            numbers.append(next(wonders))
        else:
            newest = titles + len(numbers) * titles // (2 * requests)  # half as many arrive
            rank = bisect(weights, rng.random() * weights[-1])
            # Ranks are spread over the titles; the newer a title, the more it is in demand.
            numbers.append(newest - rank if rng.random() < 0.5 else rank * 7919 % titles)
    return [(number, size_of(number)) for number in numbers[:requests]]


def footprint(trace: Trace) -> int:
    """Bytes of all objects of the trace."""
    return sum(dict(trace).values())


class PureCache:
    """A cache of exactly `policy.capacity` bytes that is nothing but its policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.present: dict[str, int] = {}
        self.used = 0

    def get(self, name: str, size: int) -> tuple[bool, list[str]]:
        """Whether it was there, and what was evicted to bring it in."""
        if name in self.present:
            self.policy.touch(name)
            return True, []
        recalled = self.policy.recall(name)
        if not self._admits(size):
            return False, []
        evicted = list(self._make_room(size))
        self.policy.insert(name, size, recalled=recalled)
        self.present[name] = size
        self.used += size
        return False, evicted

    def _admits(self, size: int) -> bool:
        # libcachesim's S3-FIFO turns away what its small queue cannot hold. (At exactly that size
        # it makes room and then does not insert: the traces leave that size out.)
        if isinstance(self.policy, S3Fifo):
            return size < self.policy.small_capacity
        return size <= self.policy.capacity

    def _make_room(self, size: int) -> Iterator[str]:
        while self.used + size > self.policy.capacity:
            item = self.policy.evict()
            assert item is not None
            self.used -= self.present.pop(item.name)
            yield item.name


def byte_misses(cache: PureCache, trace: Trace) -> float:
    """The share of bytes that a cold start to the end of the trace misses."""
    missed = sum(size for number, size in trace if not cache.get(object_name(number), size)[0])
    return missed / sum(size for _, size in trace)


def object_name(number: int) -> str:
    """A "<key>.<version>" for an object."""
    return f"{number:032x}.{size_of(number):032x}"
