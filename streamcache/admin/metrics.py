"""``/metrics``: what is on the board, in the text format of Prometheus.

One scrape is the whole server, whichever worker answers. Made of nothing but the board: what an
embedding program has in the registry of ``prometheus_client`` is not in it. No label has more
values than there are workers or cache statuses; above all there is none per path.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import gevent

from streamcache import __version__
from streamcache.admin.answers import Answer, Question, Refusal
from streamcache.admin.board import Totals, Worker
from streamcache.admin.publishing import latest
from streamcache.admin.routes import Routes
from streamcache.admin.status import STATES, state_of
from streamcache.admin.subject import Subject
from streamcache.extras import installing
from streamcache.stats import CLASSES, Distribution

if TYPE_CHECKING:
    from prometheus_client import Metric

PREFIX: Final = "streamcache_"

_END: Final = b"# EOF\n"  # of the OpenMetrics format

Labelled = Iterable[tuple[Sequence[str], float]]

_HZ: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Metrics:
    """Answers scrapes about a subject."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def add_to(self, routes: Routes) -> None:
        """Have scrapes answered."""
        routes.add("GET", "/metrics", self.scrape)

    def scrape(self, question: Question) -> Answer:
        """SWITCHES; all of it. Query parameters that a scraper sends along change nothing."""
        try:
            from prometheus_client.exposition import choose_encoder
        except ImportError:
            raise Refusal(
                501, f"prometheus_client is missing; install it: {installing('prometheus-client')}"
            ) from None
        encode, type_ = choose_encoder(question.accept)
        parts = []
        for family in self._families():
            parts.append(encode(_Only(family)).removesuffix(_END))
            gevent.sleep(0)  # all together take milliseconds
        return Answer(b"".join(parts) + (_END if "openmetrics" in type_ else b""), type_)

    def _families(self) -> Iterator[Metric]:
        """All, of one moment: what each worker wrote last."""
        totals, workers = self._subject.board.totals(), self._subject.board.workers()
        living = [worker for worker in workers if worker.pid]
        yield from self._server(workers)
        yield from _answers(totals)
        yield from _source(totals, living)
        yield from _copies(totals)
        yield from self._cache(totals, workers)
        yield from _processes(totals, living)

    def _server(self, workers: list[Worker]) -> Iterator[Metric]:
        about = (__version__, platform.python_version(), gevent.__version__)
        yield _gauge(
            "build_info",
            "Always 1; the labels say what runs.",
            [(about, 1)],
            ("version", "python", "gevent"),
        )
        started = self._subject.board.born
        yield _gauge("start_time_seconds", "When the server started, since the epoch.", started)
        draining = self._subject.draining_since() is not None
        yield _gauge(
            "draining", "1 while running responses are finished before the end.", float(draining)
        )
        states = [state_of(worker, draining=draining) for worker in workers]
        yield _gauge(
            "workers",
            "Worker processes; hanging: not written for 5 s; ended: while the server drains.",
            [((state,), states.count(state)) for state in STATES],
            ("state",),
        )

    def _cache(self, totals: Totals, workers: list[Worker]) -> Iterator[Metric]:
        marks, known = self._subject.cache.config.cache, latest(workers)
        for name, about, value in (
            ("usage", "Bytes on the cache's disk: objects, partials, trash.", known.usage),
            ("reserved", "Of the usage: promised to running copies.", known.reserved),
            ("limit", "Bytes that the cache may take (cache.size).", known.limit),
            (
                "high_watermark",
                "Usage above which objects are evicted.",
                int(known.limit * marks.high_watermark),
            ),
            (
                "low_watermark",
                "Usage down to which they are evicted.",
                int(known.limit * marks.low_watermark),
            ),
        ):
            yield _gauge(f"cache_{name}_bytes", about, value)
        living = [worker for worker in workers if worker.pid]
        yield _gauge(
            "cache_disk_degraded",
            "1: this worker writes nothing new to the cache, as its disk fails, hangs or is full.",
            [((worker.name,), float(not worker.disk_normal)) for worker in living],
            ("worker",),
        )
        yield _counter(
            "cache_disk_failures", "How often that began, in all workers.", totals.disk_failures
        )
        yield _gauge(
            "cache_disk_threads_stuck",
            "Threads in a call to the cache's disk for longer than it should take.",
            sum(worker.disk_stuck for worker in living),
        )
        yield _counter(
            "cache_objects_damaged",
            "Objects that could not be read, or were not what they should be, and were dropped.",
            totals.objects_damaged,
        )
        yield _gauge("cache_objects", "Complete files in the cache.", known.objects)
        yield _counter("evictions", "Objects that were removed to make room.", totals.evictions)
        yield _histogram(
            "evicted_age_seconds",
            "How long evicted objects had not been used. If it is short, the cache is too small.",
            [((), totals.evicted_age)],
        )


class _Only:
    """A registry with one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        """What an encoder asks for."""
        return [self._family]


def _answers(totals: Totals) -> Iterator[Metric]:
    responses = totals.responses.items()
    by = ("cache", "code")
    yield _counter(
        "requests",
        "Requests that were answered, by cache status (none: the cache was not asked) and class.",
        [
            ((cache, class_), count)
            for cache, each in responses
            for class_, count in zip(CLASSES, each.counts, strict=True)
        ],
        by,
    )
    yield _counter(
        "response_bytes",
        "Bytes of response bodies that left, by the same.",
        [
            ((cache, class_), count)
            for cache, each in responses
            for class_, count in zip(CLASSES, each.bytes, strict=True)
        ],
        by,
    )
    yield _counter(
        "responses_cut",
        "Responses that did not leave whole: the client left, or the file changed or failed.",
        [((cache,), each.cut) for cache, each in responses],
        ("cache",),
    )
    yield _histogram(
        "first_byte_seconds",
        "From the head of a request to the first byte of its answer.",
        [((cache,), each.first_byte) for cache, each in responses],
        ("cache",),
    )
    yield _histogram(
        "response_duration_seconds",
        "From the head of a request to the end of its answer, as slow as the client reads.",
        [((cache,), each.duration) for cache, each in responses],
        ("cache",),
    )
    yield _counter(
        "from_cache_bytes",
        "Bytes that were in the cache when a client wanted them.",
        totals.bytes_from_cache,
    )


def _source(totals: Totals, living: list[Worker]) -> Iterator[Metric]:
    for name, about, count in (
        ("reads", "Reads of the source that gave bytes.", totals.source_reads),
        ("read_bytes", "Bytes read from the source.", totals.bytes_from_source),
        ("opens", "Files opened at the source, or looked at.", totals.source_opens),
        ("errors", "Calls to the source that failed.", totals.source_errors),
        (
            "breaker_openings",
            "How often a worker gave up asking a source that does not answer.",
            totals.source_openings,
        ),
    ):
        yield _counter(f"source_{name}", about, count)
    yield _histogram(
        "source_read_seconds",
        "How long reads of the source took, also failed ones; not those that go with an opening.",
        [((), totals.read_time)],
    )
    yield _gauge(
        "source_threads_stuck",
        "Threads in a call to the source for longer than source.timeout.",
        sum(worker.source_stuck for worker in living),
    )
    yield _gauge(
        "source_breaker_open",
        "1: this worker asks the source nothing but a probe, as it does not answer.",
        [((worker.name,), float(not worker.source_answers)) for worker in living],
        ("worker",),
    )


def _copies(totals: Totals) -> Iterator[Metric]:
    yield _counter("copies_started", "Copies of a file that began.", totals.copies_started)
    yield _counter(
        "copies",
        "Copies that ended. Cancelled: the file changed, was purged, or there was no room.",
        [
            (("finished",), totals.copies_finished),
            (("cancelled",), totals.copies_cancelled),
            (("failed",), totals.copies_failed),
        ],
        ("result",),
    )
    yield _gauge("copies_running", "Copies that run or pause.", totals.copies)
    yield _counter(
        "delegated_reads",
        "Reads of bytes that were not there yet, which go before copying ahead.",
        totals.delegated_reads,
    )
    yield _histogram(
        "delegated_read_wait_seconds",
        "How long delegated reads waited for their bytes.",
        [((), totals.delegated_wait)],
    )


def _processes(totals: Totals, living: list[Worker]) -> Iterator[Metric]:
    yield _gauge("connections", "Client connections that are open.", totals.connections)
    yield _counter(
        "connections_accepted", "Client connections that were served.", totals.connections_accepted
    )
    yield _counter(
        "connections_refused",
        "Client connections above a limit, or of strangers.",
        totals.connections_refused,
    )
    yield _histogram(
        "hub_lag_seconds",
        "How late the event loops were at their looks at the clock, five a second.",
        [((), totals.hub_lag)],
    )
    yield _gauge(
        "worker_hub_lag_seconds",
        "The longest that this worker's event loop was late in its last second.",
        [((worker.name,), worker.hub_lag) for worker in living],
        ("worker",),
    )
    used = [(worker.name, *_process(worker.pid)) for worker in living]
    yield _counter(
        "worker_cpu_seconds",
        "CPU time of this worker, user and system.",
        [((name,), seconds) for name, seconds, _ in used],
        ("worker",),
    )
    yield _gauge(
        "worker_resident_memory_bytes",
        "Memory of this worker, with what it shares with the others.",
        [((name,), size) for name, _, size in used],
        ("worker",),
    )


def _process(pid: int) -> tuple[float, int]:
    """CPU time in s and resident bytes; zeros when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0
    # proc(5): utime and stime are the 14th and 15th field, rss is the 24th; ours begin at the 3rd.
    return (int(words[11]) + int(words[12])) / _HZ, int(words[21]) * _PAGE


def _gauge(name: str, about: str, value: float | Labelled, labels: Sequence[str] = ()) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(PREFIX + name, about, labels=labels)
    for values, number in _samples(value):
        family.add_metric(values, number)
    return family


def _counter(name: str, about: str, value: float | Labelled, labels: Sequence[str] = ()) -> Metric:
    """``name`` without "_total"."""
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(PREFIX + name, about, labels=labels)
    for values, number in _samples(value):
        family.add_metric(values, number)
    return family


def _histogram(
    name: str,
    about: str,
    values: Iterable[tuple[Sequence[str], Distribution]],
    labels: Sequence[str] = (),
) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(PREFIX + name, about, labels=labels)
    for label, distribution in values:
        total, buckets = 0, []
        bounds = (*(str(float(bound)) for bound in distribution.bounds), "+Inf")
        for bound, count in zip(bounds, distribution.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric(label, buckets, distribution.seconds)
    return family


def _samples(value: float | Labelled) -> Labelled:
    return [((), value)] if isinstance(value, int | float) else value
