"""A trace replayed over one order of eviction at one size: what would have been hits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from streamcache.cache.policy import POLICIES, Policy
from streamcache.cache.queues import MemoryQueues
from streamcache.simulation.sieve import Sieve
from streamcache.simulation.trace import Trace

SimulatedPolicy = Literal["lru", "s3fifo", "sieve"]
ALL: Final[tuple[SimulatedPolicy, ...]] = get_args(SimulatedPolicy)

_TURN: Final = 10_000  # uses between two words of how far it is


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cache of ``size`` bytes would have made of all uses."""

    policy: SimulatedPolicy
    size: int
    uses: int
    hits: int
    bytes: int  # of the files used, once for each use
    bytes_hit: int
    evictions: int

    @property
    def hit_ratio(self) -> float:
        """Of uses: what was there already."""
        return self.hits / self.uses if self.uses else 0.0

    @property
    def byte_hit_ratio(self) -> float:
        """The same weighed by the size of the files: what the source need not give."""
        return self.bytes_hit / self.bytes if self.bytes else 0.0


def replay(
    trace: Trace,
    policy: SimulatedPolicy,
    size: int,
    progress: Callable[[int], object] = lambda done: None,
) -> Outcome:
    """Every miss is copied whole, and room for it made at once; what is larger is not cached."""
    order = _order(policy, size)
    there: set[int] = set()
    used = hits = total = hit_bytes = evictions = 0
    sizes = trace.sizes
    for done, number in enumerate(trace.uses):
        if not done % _TURN:
            progress(done)
        length, name = sizes[number], str(number)
        total += length
        if number in there:
            hits += 1
            hit_bytes += length
            order.touch(name)
            continue
        if length > size:
            continue
        recalled = order.recall(name)
        while used + length > size:
            victim = order.evict()
            assert victim is not None  # what is there takes room
            there.remove(int(victim.name))
            used -= victim.size
            evictions += 1
        order.insert(name, length, recalled=recalled)
        there.add(number)
        used += length
    return Outcome(policy, size, len(trace.uses), hits, total, hit_bytes, evictions)


def _order(policy: SimulatedPolicy, size: int) -> Policy:
    if policy == "sieve":
        return Sieve(size)
    return POLICIES[policy](MemoryQueues(), size)
