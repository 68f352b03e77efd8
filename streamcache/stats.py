"""Counters, and the frozen snapshot that ``StreamCache.statistics()`` gives."""

from __future__ import annotations

from dataclasses import dataclass, field


class Counters:
    """What happened since the start. Written in the hub's thread only; plain integers."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}  # by cache status
        self.bytes: dict[str, int] = {}  # delivered to readers, by cache status
        self.bytes_from_source = 0  # read from the source
        self.bytes_from_cache = 0  # delivered, and there when they were due
        self.source_reads = 0
        self.source_opens = 0
        self.source_errors = 0
        self.delegated_reads = 0
        self.copies_started = 0
        self.copies_finished = 0
        self.copies_cancelled = 0
        self.copies_failed = 0
        self.evictions = 0  # objects
        self.connections_accepted = 0
        self.connections_refused = 0

    def request(self, status: str) -> None:
        """One open of a file with this cache status."""
        self.requests[status] = self.requests.get(status, 0) + 1

    def delivered(self, status: str, count: int) -> None:
        """``count`` bytes went to a reader whose open had this cache status."""
        self.bytes[status] = self.bytes.get(status, 0) + count


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """A live copy."""

    path: str
    state: str
    size: int  # bytes
    present: int  # bytes
    readers: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot. Bytes are bytes, counts are since the start of this process."""

    requests: dict[str, int] = field(default_factory=dict)  # hit, stale, collapsed, miss, bypass
    bytes: dict[str, int] = field(default_factory=dict)
    bytes_from_source: int = 0
    bytes_from_cache: int = 0
    source_reads: int = 0
    source_opens: int = 0
    source_errors: int = 0
    source_answers: bool = True  # False: the breaker is open, nothing is asked
    source_openings: int = 0  # of the breaker
    source_stuck: int = 0  # threads in a call to the source for longer than its timeout, now
    disk_normal: bool = True  # False: nothing new is written to the cache
    disk_reason: str = ""  # why, in words
    disk_failures: int = 0  # how often that began
    disk_stuck: int = 0  # threads in a call to the cache's disk for longer than it should take, now
    delegated_reads: int = 0
    copies_started: int = 0
    copies_finished: int = 0
    copies_cancelled: int = 0
    copies_failed: int = 0
    evictions: int = 0
    connections_accepted: int = 0
    connections_refused: int = 0
    usage: int = 0  # bytes of disk blocks: objects, partials, trash
    reserved: int = 0  # of these: promised to copies
    limit: int = 0  # bytes
    objects: int = 0
    sessions: tuple[SessionStatistics, ...] = ()
