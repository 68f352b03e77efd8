"""Counters, and the frozen snapshot that ``StreamCache.statistics()`` gives."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Bounds = tuple[float, ...]  # s, ascending

FIRST_BYTE: Final[Bounds] = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
RESPONSE: Final[Bounds] = (  # a film is watched for hours over one response
    *(0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60),
    *(300, 900, 1800, 3600, 7200, 14400, 28800),
)
WAIT: Final[Bounds] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SOURCE: Final[Bounds] = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
AGE: Final[Bounds] = (60, 600, 3600, 21600, 86400, 259200, 604800, 2592000, 7776000)

STATUSES: Final = ("hit", "stale", "collapsed", "miss", "bypass")  # of the cache
_HITS: Final = ("hit", "stale")  # answered from objects, whether the source could be asked or not
STATUSES_OR_NONE: Final = (*STATUSES, "none")  # the last one: it was not asked
CLASSES: Final = ("2xx", "3xx", "4xx", "5xx")

_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many durations were up to each bound, and (one count more) above the last one."""

    bounds: Bounds
    counts: tuple[int, ...]
    microseconds: int = 0  # all of them together

    @classmethod
    def empty(cls, bounds: Bounds) -> Distribution:
        """None at all."""
        return cls(bounds, (0,) * (len(bounds) + 1))

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    @property
    def seconds(self) -> float:
        """All of them together."""
        return self.microseconds / _MICROSECONDS


def hits_of(requests: Mapping[str, int]) -> int:
    """Of requests by status: those that were answered from objects."""
    return sum(requests.get(status, 0) for status in _HITS)


class Histogram:
    """A distribution that is being made; plain integers, in the hub's thread only."""

    __slots__ = ("_bounds", "_counts", "_microseconds")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._microseconds = 0

    def observe(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._microseconds += int(seconds * _MICROSECONDS)

    def snapshot(self, *, at_once: int = 0) -> Distribution:
        """What was seen, and ``at_once`` more that took no time."""
        first, *others = self._counts
        return Distribution(self._bounds, (first + at_once, *others), self._microseconds)


@dataclass(frozen=True, slots=True)
class Responses:
    """Responses with one cache status; counts and bytes of bodies by class of their status."""

    counts: tuple[int, ...] = (0,) * len(CLASSES)
    bytes: tuple[int, ...] = (0,) * len(CLASSES)
    cut: int = 0  # of these: did not leave whole
    first_byte: Distribution = field(default_factory=lambda: Distribution.empty(FIRST_BYTE))
    duration: Distribution = field(default_factory=lambda: Distribution.empty(RESPONSE))


class _Answered:
    """The same, while it is counted."""

    __slots__ = ("bytes", "counts", "cut", "duration", "first_byte")

    def __init__(self) -> None:
        self.counts = [0] * len(CLASSES)
        self.bytes = [0] * len(CLASSES)
        self.cut = 0
        self.first_byte = Histogram(FIRST_BYTE)
        self.duration = Histogram(RESPONSE)

    def snapshot(self) -> Responses:
        return Responses(
            tuple(self.counts),
            tuple(self.bytes),
            self.cut,
            self.first_byte.snapshot(),
            self.duration.snapshot(),
        )


class Counters:
    """What happened since the start. Written in the hub's thread only; plain integers."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}  # by cache status; without those below
        self.bytes: dict[str, int] = {}  # delivered to readers, by cache status; the same
        # Hits that were answered in the hub at once: whole files and ranges, in no time. Two
        # integers for each of them, and all that follows from them in ``snapshot``.
        self.quick_hits = 0
        self.quick_bytes = 0
        self.quick_cuts = 0  # of these: the client was gone
        self.bytes_from_source = 0  # read from the source
        self.bytes_from_cache = 0  # delivered, and there when they were due; without those above
        self.source_reads = 0
        self.source_opens = 0
        self.source_errors = 0
        self.delegated_reads = 0
        self.copies_started = 0
        self.copies_finished = 0
        self.copies_cancelled = 0
        self.copies_failed = 0
        self.evictions = 0  # objects
        self.objects_damaged = 0  # found not to be what they should be, and dropped
        self.connections_accepted = 0
        self.connections_refused = 0
        self.read_time = Histogram(SOURCE)  # of reads of the source
        self.delegated_wait = Histogram(WAIT)  # until a delegated read had its bytes, or none
        self.evicted_age = Histogram(AGE)  # since the last use of what is evicted
        self._answered = {cache: _Answered() for cache in STATUSES_OR_NONE}

    def request(self, status: str) -> None:
        """One open of a file with this cache status."""
        self.requests[status] = self.requests.get(status, 0) + 1

    def delivered(self, status: str, count: int) -> None:
        """``count`` bytes went to a reader whose open had this cache status."""
        self.bytes[status] = self.bytes.get(status, 0) + count

    def responded(
        self,
        cache: str,
        status: int,
        count: int,
        *,
        first_byte: float | None,
        seconds: float,
        whole: bool,
    ) -> None:
        """A response has ended: ``count`` bytes of its body, s until its first byte and its end.

        ``cache``: a cache status, or anything else if the cache was not asked. ``first_byte`` is
        None when nothing left.
        """
        answered = self._answered.get(cache) or self._answered["none"]
        index = status // 100 - 2
        answered.counts[index] += 1
        answered.bytes[index] += count
        if not whole:
            answered.cut += 1
        if first_byte is not None:
            answered.first_byte.observe(first_byte)
        answered.duration.observe(seconds)

    def snapshot(self) -> dict[str, Any]:
        """The fields of ``Statistics`` that are counted here."""
        quick, sent = self.quick_hits, self.quick_bytes
        counts = {name: value for name, value in vars(self).items() if type(value) is int}
        for name in ("quick_hits", "quick_bytes", "quick_cuts"):
            del counts[name]
        responses = {cache: each.snapshot() for cache, each in self._answered.items()}
        responses["hit"] = self._with_quick(self._answered["hit"])
        requests, delivered = dict(self.requests), dict(self.bytes)
        if quick:
            requests["hit"] = requests.get("hit", 0) + quick
            delivered["hit"] = delivered.get("hit", 0) + sent
            counts["bytes_from_cache"] += sent
        return {
            **counts,
            "requests": requests,
            "bytes": delivered,
            "responses": responses,
            "read_time": self.read_time.snapshot(),
            "delegated_wait": self.delegated_wait.snapshot(),
            "evicted_age": self.evicted_age.snapshot(),
        }

    def _with_quick(self, hits: _Answered) -> Responses:
        counts, sent = list(hits.counts), list(hits.bytes)
        counts[0] += self.quick_hits
        sent[0] += self.quick_bytes
        return Responses(
            tuple(counts),
            tuple(sent),
            hits.cut + self.quick_cuts,
            hits.first_byte.snapshot(at_once=self.quick_hits - self.quick_cuts),
            hits.duration.snapshot(at_once=self.quick_hits),
        )


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """A live copy."""

    path: str
    state: str
    size: int  # bytes
    present: int  # bytes
    readers: int
    resumed: int = 0  # of these: what the partial had that it goes on with


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts since the start, a number each; the board adds those of all workers."""

    bytes_from_source: int = 0
    bytes_from_cache: int = 0
    source_reads: int = 0
    source_opens: int = 0
    source_errors: int = 0
    source_openings: int = 0  # of the breaker
    delegated_reads: int = 0
    copies_started: int = 0
    copies_finished: int = 0
    copies_cancelled: int = 0
    copies_failed: int = 0
    evictions: int = 0
    objects_damaged: int = 0
    disk_failures: int = 0  # how often writing nothing new to the cache began
    connections_accepted: int = 0
    connections_refused: int = 0


@dataclass(frozen=True, slots=True)
class Statistics(Counts):
    """A snapshot. Bytes are bytes, counts are since the start of this process."""

    requests: dict[str, int] = field(default_factory=dict)  # hit, stale, collapsed, miss, bypass
    bytes: dict[str, int] = field(default_factory=dict)
    responses: dict[str, Responses] = field(default_factory=dict)  # of a server, by status
    source_answers: bool = True  # False: the breaker is open, nothing is asked
    source_stuck: int = 0  # threads in a call to the source for longer than its timeout, now
    read_time: Distribution = field(default_factory=lambda: Distribution.empty(SOURCE))
    disk_normal: bool = True  # False: nothing new is written to the cache
    disk_reason: str = ""  # why, in words
    disk_stuck: int = 0  # threads in a call to the cache's disk for longer than it should take, now
    delegated_wait: Distribution = field(default_factory=lambda: Distribution.empty(WAIT))
    evicted_age: Distribution = field(default_factory=lambda: Distribution.empty(AGE))
    usage: int = 0  # bytes of disk blocks: objects, partials, trash
    reserved: int = 0  # of these: promised to copies
    limit: int = 0  # bytes
    objects: int = 0
    sessions: tuple[SessionStatistics, ...] = ()
