"""The board: what all workers counted, in memory that they share.

Each worker writes its slot, about once a second, and anyone with the board reads all of them. One
anonymous shared mapping, made before the first fork; 64-bit integers in a fixed layout:

    board = slot ...
    slot  = turn, numbers (even turns), numbers (odd turns)
    numbers = the counts, as ``_counts`` makes them of statistics, then the gauges of ``GAUGES``

A distribution is its buckets and then its microseconds.

A slot has one writer: its worker, or the supervisor while no worker lives there. It writes the
numbers that are not being read and then takes the turn, so a worker that is killed in the middle
leaves the last whole set. A reader that finds another turn afterwards reads again. (x86 keeps the
order of these stores. Elsewhere a reader may once see numbers that are a second old.)

A successor in a slot goes on with the counts of who died there: totals never fall, and nothing
has to be moved while others read.
"""

from __future__ import annotations

import dataclasses
import logging
import mmap
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from streamcache.server.addresses import AddressRow, AddressTable
from streamcache.stats import (
    CLASSES,
    STATUSES,
    STATUSES_OR_NONE,
    Bounds,
    Counts,
    Distribution,
    Responses,
    Statistics,
    hits_of,
)

LAG: Final[Bounds] = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

COUNTED: Final = tuple(each.name for each in dataclasses.fields(Counts))
DISTRIBUTIONS: Final = ("read_time", "delegated_wait", "evicted_age")  # of ``Statistics``
_VIEWED: Final = ("usage", "reserved", "limit", "objects", "source_stuck", "disk_stuck")  # of it
_FLAGS: Final = ("source_answers", "disk_normal")  # the same
GAUGES: Final = (
    *("pid", "born", "seen", "wrote", "connections", "copies", "hub_lag"),
    *_FLAGS,
    *_VIEWED,
)
_NONE: Final = Responses()
_EMPTY: Final = Statistics()
_WORD: Final = 8  # bytes
_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Totals(Counts):
    """A snapshot over all workers. Counts are since the start of the daemon, bytes are bytes."""

    requests: dict[str, int] = field(default_factory=dict)  # by cache status
    bytes: dict[str, int] = field(default_factory=dict)
    responses: dict[str, Responses] = field(default_factory=dict)  # by cache status, or "none"
    read_time: Distribution = _EMPTY.read_time
    delegated_wait: Distribution = _EMPTY.delegated_wait
    evicted_age: Distribution = _EMPTY.evicted_age
    workers: int = 0  # that live now
    connections: int = 0  # open now
    copies: int = 0  # that run or pause now
    hub_lag: Distribution = field(default_factory=lambda: Distribution.empty(LAG))

    def say(self, log: logging.Logger) -> None:
        """The line of the log that sums them up."""
        log.info(
            "served requests=%d hits=%d bytes=%d from_source=%d",
            *(sum(self.requests.values()), hits_of(self.requests)),
            *(sum(self.bytes.values()), self.bytes_from_source),
        )


@dataclass(frozen=True, slots=True)
class Worker:
    """What one worker was like when it last wrote. All zeros but the name: nobody lives there."""

    name: str  # "w1"
    pid: int = 0
    born: float = 0.0  # s since the epoch
    seen: float = 0.0  # the same: when it wrote
    wrote: float = 0.0  # the same moment in s of ``time.monotonic``, which no clock's step moves
    connections: int = 0
    copies: int = 0
    hub_lag: float = 0.0  # s: the longest that a callback was late, since it wrote before
    source_answers: bool = True  # False: the breaker is open
    disk_normal: bool = True  # False: it writes nothing new to the cache
    usage: int = 0  # bytes, of the whole cache, as this worker knows it
    reserved: int = 0
    limit: int = 0
    objects: int = 0
    source_stuck: int = 0  # threads
    disk_stuck: int = 0  # the same


class Board:
    """The slots of ``workers`` processes. Made before they are forked."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, workers * _SLOT * _WORD)
        words = memoryview(self._memory).cast("q")
        self._slots = [words[start : start + _SLOT] for start in range(0, workers * _SLOT, _SLOT)]
        self._addresses = AddressTable(workers)
        self.born = time.time()  # s since the epoch

    def slot(self, index: int) -> Slot:
        """What the worker of this index writes to; goes on with what was counted there."""
        return Slot(self, index, self._slots[index], self._addresses.row(index))

    def totals(self) -> Totals:
        """The sum over all slots, as they were last published."""
        slots = [_read(words) for words in self._slots]
        sums = iter([sum(column) for column in zip(*slots, strict=True)])
        workers = _workers(slots)
        return Totals(
            requests={status: next(sums) for status in STATUSES},
            bytes={status: next(sums) for status in STATUSES},
            **{name: next(sums) for name in COUNTED},
            read_time=_distribution(sums, _EMPTY.read_time),
            delegated_wait=_distribution(sums, _EMPTY.delegated_wait),
            evicted_age=_distribution(sums, _EMPTY.evicted_age),
            hub_lag=_distribution(sums, Distribution.empty(LAG)),
            responses={cache: _responses(sums) for cache in STATUSES_OR_NONE},
            workers=sum(worker.pid > 0 for worker in workers),
            connections=sum(worker.connections for worker in workers),
            copies=sum(worker.copies for worker in workers),
        )

    def turns(self) -> list[int]:
        """How often each slot was written: a worker whose hub turns does it once a second."""
        return [words[0] for words in self._slots]

    def workers(self) -> list[Worker]:
        """Each worker by itself, in their order; also those that are dead at the moment."""
        return _workers([_read(words) for words in self._slots])


class Slot:
    """One worker's place on the board."""

    def __init__(self, board: Board, index: int, words: memoryview, addresses: AddressRow) -> None:
        self.board = board
        self.worker = f"w{index + 1}"
        self._words = words
        self.addresses = addresses  # its clients' connections, beside those of the others
        self._before = _read(words)[:_COUNTS]  # what was counted by those who died here
        self._born = time.time()

    def publish(
        self,
        statistics: Statistics,
        connections: int,
        *,
        lags: Distribution | None = None,
        hub_lag: float = 0.0,
    ) -> None:
        """Show these counts, of this process alone, and that it lives.

        ``lags`` are those of the hub, ``hub_lag`` in s the longest since this was called before.
        """
        counts = _counts(statistics, lags or Distribution.empty(LAG))
        together = [before + now for before, now in zip(self._before, counts, strict=True)]
        gauges = {
            "pid": os.getpid(),
            "born": int(self._born * _MICROSECONDS),
            "seen": int(time.time() * _MICROSECONDS),
            "wrote": int(time.monotonic() * _MICROSECONDS),  # one clock for all processes
            "connections": connections,
            "copies": len(statistics.sessions),
            "hub_lag": int(hub_lag * _MICROSECONDS),
            **{name: int(getattr(statistics, name)) for name in (*_FLAGS, *_VIEWED)},
        }
        self._write([*together, *(gauges[name] for name in GAUGES)])

    def vacate(self) -> None:
        """Nobody lives here now: the counts stay, the gauges go."""
        self._write([*_read(self._words)[:_COUNTS], *(0 for _ in GAUGES)])
        self.addresses.clear()

    def _write(self, numbers: list[int]) -> None:
        words = self._words
        turn = words[0] + 1
        start = 1 + (turn & 1) * _NUMBERS
        for at, number in enumerate(numbers, start):
            words[at] = number
        words[0] = turn


def _counts(statistics: Statistics, lags: Distribution) -> Iterator[int]:
    """The counts in their order; ``Board.totals`` takes them apart again."""
    for status in STATUSES:
        yield statistics.requests.get(status, 0)
    for status in STATUSES:
        yield statistics.bytes.get(status, 0)
    for name in COUNTED:
        yield getattr(statistics, name)
    for distribution in (*(getattr(statistics, name) for name in DISTRIBUTIONS), lags):
        yield from _numbers(distribution)
    for cache in STATUSES_OR_NONE:
        responses = statistics.responses.get(cache, _NONE)
        yield from responses.counts
        yield from responses.bytes
        yield responses.cut
        yield from _numbers(responses.first_byte)
        yield from _numbers(responses.duration)


def _numbers(distribution: Distribution) -> Iterable[int]:
    return (*distribution.counts, distribution.microseconds)


def _distribution(numbers: Iterator[int], like: Distribution) -> Distribution:
    counts = tuple(next(numbers) for _ in like.counts)
    return dataclasses.replace(like, counts=counts, microseconds=next(numbers))


def _responses(numbers: Iterator[int]) -> Responses:
    return Responses(
        counts=tuple(next(numbers) for _ in CLASSES),
        bytes=tuple(next(numbers) for _ in CLASSES),
        cut=next(numbers),
        first_byte=_distribution(numbers, _NONE.first_byte),
        duration=_distribution(numbers, _NONE.duration),
    )


def _read(words: memoryview) -> list[int]:
    while True:
        turn = words[0]
        start = 1 + (turn & 1) * _NUMBERS
        numbers = words[start : start + _NUMBERS].tolist()
        if words[0] == turn:
            return numbers


def _workers(slots: list[list[int]]) -> list[Worker]:
    return [_worker(f"w{index}", numbers[_COUNTS:]) for index, numbers in enumerate(slots, 1)]


def _worker(name: str, numbers: list[int]) -> Worker:
    gauges = dict(zip(GAUGES, numbers, strict=True))
    if not gauges["pid"]:
        return Worker(name)
    return Worker(
        name=name,
        pid=gauges["pid"],
        born=gauges["born"] / _MICROSECONDS,
        seen=gauges["seen"] / _MICROSECONDS,
        wrote=gauges["wrote"] / _MICROSECONDS,
        connections=gauges["connections"],
        copies=gauges["copies"],
        hub_lag=gauges["hub_lag"] / _MICROSECONDS,
        source_answers=bool(gauges["source_answers"]),
        disk_normal=bool(gauges["disk_normal"]),
        **{name: gauges[name] for name in _VIEWED},
    )


_COUNTS: Final = sum(1 for _ in _counts(_EMPTY, Distribution.empty(LAG)))
_NUMBERS: Final = _COUNTS + len(GAUGES)
_SLOT: Final = 1 + 2 * _NUMBERS
