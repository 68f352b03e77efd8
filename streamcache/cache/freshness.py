"""What is known of the source's files, how old that is, and the question that renews it.

Hub's thread; the question (open + fstat) is asked in the meta pool (I1). All who want to know
about a path at the same moment share one ``Flight`` (I9), also for what is missing. A question
that hangs is not asked again before it has come back, so a path takes one thread at most, and one
more for each purge meanwhile.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import gevent
from gevent.event import AsyncResult

from streamcache.cache.objects import ObjectHandle
from streamcache.cache.workers import WorkerPool, is_there
from streamcache.config.source import SourceConfig
from streamcache.errors import (
    AccessDenied,
    NotFound,
    SourceTimeout,
    SourceUnavailable,
    StreamCacheError,
)
from streamcache.source.base import Source, SourceFile, Version
from streamcache.source.breaker import Breaker
from streamcache.stats import Counters

_REMEMBERED = 100_000  # paths
_CONFIRMATIONS = 3  # opens until a file that changes under our eyes is taken as it is

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Known:
    """What the source said of a path last."""

    version: Version | None  # None: there is no such file
    until: float  # monotonic s: good without asking
    failing_since: float | None = None  # monotonic s: the source could not be asked since
    hot: ObjectHandle | None = None  # whose ``good_until`` rests on this

    def doubt(self) -> None:
        """It is about to say something else: what rests on it has to be looked up again."""
        if self.hot is not None:
            self.hot.good_until = 0.0


class Flight:
    """One question to the source under way, shared by all who ask it. Leave it when done."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.started = time.monotonic()
        self.answered = math.inf  # monotonic s: when the source had, which the hub hears later
        self.holders = 0
        self.doubted = False  # it is only for those who joined it
        self.result: AsyncResult[Version] = AsyncResult()
        self._file: SourceFile | None = None

    def land(self, file: SourceFile) -> None:
        """The answer: an open file."""
        self._file = file
        self.result.set(file.version)

    def take(self) -> SourceFile | None:
        """The open file, for whoever asks: each owns a descriptor of its own. None: no answer."""
        file = self._file
        if file is None:
            return None
        try:
            fd = os.dup(file.fd)
        except OSError as error:  # EMFILE: says nothing about the file (I15)
            raise SourceUnavailable(error.errno, error.strerror, f"/{self.path}") from error
        return SourceFile(fd, file.version, file.fingerprint, file.ahead, file.path)

    def leave(self) -> SourceFile | None:
        """The last one goes: the file is to be closed."""
        file, self._file = self._file, None
        return file


class Freshness:
    """The table of what is known, for one source."""

    def __init__(
        self,
        source: Source,
        meta: WorkerPool,
        config: SourceConfig,
        counters: Counters,
        breaker: Breaker | None = None,
    ) -> None:
        self._source = source
        self._breaker = breaker or Breaker()
        self._meta = meta
        self._config = config
        self._counters = counters
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._flights: dict[str, Flight] = {}
        # Hear of each file that is another one than was known, or none: (path, before, now), once,
        # also when nobody has waited for the answer. May not switch.
        self.on_change: list[Callable[[str, Version | None, Version | None], object]] = []

    def reconfigure(self, config: SourceConfig) -> None:
        """Other times; what is known is good for no longer than they say. Does not switch."""
        self._config = config
        now = time.monotonic()
        for known in self._known.values():
            known.doubt()
            good = config.negative_ttl if known.version is None else config.revalidate
            known.until = min(known.until, now + good)

    def known(self, path: str) -> Known | None:
        """What was said last, however long ago."""
        return self._known.get(path)

    def fresh(self, path: str) -> Known | None:
        """The same, if it need not be asked again, or cannot be."""
        known = self._known.get(path)
        if known is None or time.monotonic() < known.until:
            return known
        if known.version is None or not self._breaker.is_open:
            return None
        self.unanswered(path)
        return known

    def ask(self, path: str, *, ahead: int | None = None) -> Flight:
        """Join the question under way, or ask. Does not switch; ``leave`` the flight in the end.

        ``ahead``: where somebody will read if the file is new to us. While the source does not
        answer at all it is not asked, and the answer is SourceUnavailable.
        """
        flight = self._flights.get(path)
        if flight is None:
            flight = Flight(path)
            if self._breaker.is_open:
                flight.result.set_exception(self._breaker.refusal(path))
            else:
                self._flights[path] = flight
                gevent.spawn(self._fly, flight, ahead)
        flight.holders += 1
        return flight

    def leave(self, flight: Flight) -> None:
        """Done with it: an open file that nobody took is closed. Does not switch."""
        flight.holders -= 1
        self._sweep(flight)

    def wait(self, flight: Flight, timeout: float) -> Version:
        """The answer. Switches. Raises what the source raised; SourceTimeout after the time."""
        is_there(flight.result, max(0.0, timeout))
        return _version(flight)

    def wait_a_little(self, flight: Flight) -> Version:
        """The same for who can be served from the cache: for ``source.revalidate_wait`` at most,
        and not at all while nothing is answered (I2).
        """
        wait = self._config.revalidate_wait
        for _ in range(2):  # the first may end with the breaker's second look
            left = min(self._breaker.patience(wait), flight.started + wait - time.monotonic())
            if left > 0 and not flight.result.ready():
                flight.result.wait(timeout=left)
        return _version(flight)

    def may_be_stale(self, known: Known) -> bool:
        """Whether what is known may be served although the source cannot be asked."""
        if known.version is None:
            return False
        since = known.failing_since
        return since is None or time.monotonic() - since < self._config.stale_if_error

    def unanswered(self, path: str) -> None:
        """A question has no answer in time: what is known ages from now on (``may_be_stale``)."""
        known = self._known.get(path)
        if known is not None and known.failing_since is None:
            known.doubt()
            known.failing_since = time.monotonic()

    def remember_stored(self, path: str, version: Version) -> None:
        """The source could not be asked, and this is what the cache has: good until it can be."""
        if path not in self._known:
            now = time.monotonic()
            self._remember(path, Known(version, now + self._config.revalidate, now))

    def expire(self, paths: Iterable[str]) -> None:
        """Ask again before the next use, whatever was said of these. Does not switch.

        A question that is out was asked before that: its answer is for those who joined it, and
        changes nothing for others.
        """
        for path in paths:
            if (flight := self._flights.pop(path, None)) is not None:
                flight.doubted = True
            if (known := self._known.get(path)) is not None:
                known.doubt()
                known.until = 0.0

    def paths(self) -> list[str]:
        """All that is known, or asked for."""
        return [*self._known, *(path for path in self._flights if path not in self._known)]

    def forget(self, path: str) -> None:
        """Ask again next time."""
        known = self._known.pop(path, None)
        if known is not None:
            known.doubt()

    def _fly(self, flight: Flight, ahead: int | None) -> None:
        """Greenlet: ask, and remember the answer."""
        path, question = flight.path, self._breaker.ask(flight.path)
        try:
            file = self._open(flight, ahead)
        except (NotFound, AccessDenied) as refusal:
            self._breaker.answered(question, known=False)
            if not self._is_late(flight):
                if isinstance(refusal, NotFound):
                    good = self._good_until(flight, self._config.negative_ttl)
                    self._learn(flight, Known(None, good))
                flight.result.set_exception(refusal)
        except SourceUnavailable as error:
            self._breaker.failed(question, error)
            if not flight.doubted:
                self._failing(path)
            self._counters.source_errors += 1
            flight.result.set_exception(error)
        except StreamCacheError as error:
            self._breaker.failed(question, error)
            flight.result.set_exception(error)
        except Exception as error:  # a fault of ours: those who wait need not wait in vain (I11)
            log.exception("question to the source broke path=%r", f"/{path}")
            self._breaker.failed(question, error)
            flight.result.set_exception(error)
        else:
            self._breaker.answered(question)
            if self._is_late(flight):
                self._meta.post(file.close)
            else:
                until = self._good_until(flight, self._config.revalidate)
                self._learn(flight, Known(file.version, until))
                flight.land(file)
        finally:
            if self._flights.get(path) is flight:
                del self._flights[path]
            self._sweep(flight)

    def _is_late(self, flight: Flight) -> bool:
        """Whether the answer has come after the time, and is none: so those are told who joined.

        It says what was true when the question arrived, and they may have come long after that.
        """
        if flight.answered - flight.started < self._config.timeout:
            return False
        if not flight.doubted:
            self.unanswered(flight.path)
        late = SourceTimeout(f"/{flight.path}: the source's answer came too late")
        flight.result.set_exception(late)
        return True

    def _good_until(self, flight: Flight, good: float) -> float:
        """Until when the answer that has just come counts.

        From when it was asked for: it may have been true then, and on its way since (RFC 9111
        section 4.2.3, the same for ages). A little longer where it took as long as that, or all who
        come would ask a slow source.
        """
        least = min(good, self._config.revalidate_wait)
        return max(flight.started + good, time.monotonic() + least)

    def _open(self, flight: Flight, ahead: int | None) -> SourceFile:
        """Open; what differs from what was known is looked at again before it is believed."""
        path, call = flight.path, partial(self._meta.call, _answer, flight)
        known = self._known.get(path)
        self._counters.source_opens += 1
        file: SourceFile = call(self._source.open, path, ahead, discard=SourceFile.close)
        if file.ahead is not None:
            self._counters.source_reads += 1
            self._counters.bytes_from_source += len(file.ahead.data)
        if known is None or known.version is None or known.version == file.version:
            return file
        for _ in range(_CONFIRMATIONS):
            try:
                if call(self._source.stat, path) == file.fingerprint:
                    break
            except StreamCacheError:
                self._meta.post(file.close)
                raise
            self._meta.post(file.close)
            file = call(self._source.open, path, discard=SourceFile.close)
        return file

    def _failing(self, path: str) -> None:
        """Remember since when; it is not asked again before ``revalidate`` has passed."""
        known = self._known.get(path)
        if known is not None and known.version is not None:
            known.doubt()
            now = time.monotonic()
            since = now if known.failing_since is None else known.failing_since
            known.failing_since = since
            known.until = now + self._config.revalidate

    def _learn(self, flight: Flight, known: Known) -> None:
        if flight.doubted:
            return
        path, now = flight.path, known.version
        last = self._known.get(path)
        before = None if last is None else last.version
        self._remember(path, known)
        if now is None or before not in (None, now):
            for function in self.on_change:
                function(path, before, now)

    def _remember(self, path: str, known: Known) -> None:
        self.forget(path)
        self._known[path] = known
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)[1].doubt()

    def _sweep(self, flight: Flight) -> None:
        if flight.holders == 0 and (file := flight.leave()) is not None:
            self._meta.post(file.close)


def _version(flight: Flight) -> Version:
    if not flight.result.ready():
        raise SourceTimeout(f"/{flight.path}: no answer from the source")
    version = flight.result.get()
    assert version is not None  # land() was called, or an exception set
    return version


def _answer(flight: Flight, function: Callable[..., T], *args: Any) -> T:
    """Worker thread: whatever the source says, and when."""
    try:
        return function(*args)
    finally:
        flight.answered = time.monotonic()
