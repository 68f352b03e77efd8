"""The breaker opens for a source, never for a file, and closes by itself."""

from __future__ import annotations

import errno
import logging
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from streamcache.cache.probepool import ProbePool
from streamcache.errors import NotFound, SourceBusy, SourceChanged, SourceUnavailable
from streamcache.source import breaker as breaker_module
from streamcache.source.breaker import Breaker

TIMEOUT = 10.0
AGAIN = 2 * breaker_module._AGAIN  # s until the second look, whatever rounding does
EIO = SourceUnavailable(errno.EIO, "no")


class Clock:
    now = 1000.0


class Probe:
    """A source that is probed: each probe waits until it may go on."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.hanging = 0  # how many of the next ones wait
        self.error: Exception | None = EIO
        self.go = threading.Event()

    def probe(self, known: str | None) -> None:
        self.asked.append(known)
        if self.hanging:
            self.hanging -= 1
            assert self.go.wait(20)
        if self.error is not None:
            raise self.error


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(breaker_module, "time", types.SimpleNamespace(monotonic=lambda: found.now))
    monkeypatch.setattr(breaker_module, "_INTERVAL", 0.002)
    return found


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def pool(probe: Probe) -> Iterator[ProbePool]:
    found = ProbePool("probe")
    yield found
    probe.go.set()
    found.close()
    assert found.join(20)


@pytest.fixture
def breaker(clock: Clock, probe: Probe, pool: ProbePool) -> Iterator[Breaker]:
    found = Breaker("films", timeout=TIMEOUT, probe=probe.probe, pool=pool)
    yield found
    found.stop()


def fail(breaker: Breaker, *paths: str, error: Exception = EIO) -> None:
    for path in paths:
        breaker.failed(breaker.ask(path), error)


def late(breaker: Breaker, clock: Clock) -> None:
    """What is out has no answer in time, and is looked at for the first time."""
    clock.now += TIMEOUT + 1
    assert not breaker.is_open
    clock.now += AGAIN


def until(condition: Callable[[], Any]) -> None:
    with gevent.Timeout(5, AssertionError("it never came true")):
        while not condition():
            gevent.sleep(0.001)


def test_several_paths_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, "a", "b")
    assert not breaker.is_open
    fail(breaker, "c")
    assert breaker.is_open
    assert breaker.openings == 1


def test_one_bad_file_never_opens_it(breaker: Breaker) -> None:
    fail(breaker, *"abababababab")
    assert not breaker.is_open


@pytest.mark.parametrize("known", [False, True])
def test_an_answer_in_between_starts_anew(breaker: Breaker, known: bool) -> None:
    for _ in range(5):
        fail(breaker, "a", "b")
        breaker.answered(breaker.ask("c"), known=known)
    assert not breaker.is_open


@pytest.mark.parametrize(
    "error",
    [
        SourceBusy("queue"),
        SourceUnavailable(errno.EMFILE, "ours"),
        SourceUnavailable(errno.ENOMEM, "ours"),
        SourceUnavailable(errno.ESTALE, "a server that was restarted"),
        SourceChanged("a"),
        RuntimeError("a bug"),
    ],
)
def test_what_says_nothing_about_the_source_does_not_count(
    breaker: Breaker, error: Exception
) -> None:
    fail(breaker, *"abcdef", error=error)
    assert not breaker.is_open


def test_questions_without_an_answer_in_time_open_it(breaker: Breaker, clock: Clock) -> None:
    for path in "abc":
        breaker.ask(path)
    clock.now += TIMEOUT - 0.1
    assert not breaker.is_open
    clock.now += 0.2
    assert not breaker.is_open
    clock.now += AGAIN
    assert breaker.is_open


def test_a_process_that_was_stopped_takes_its_answers_before_it_judges(
    breaker: Breaker, clock: Clock
) -> None:
    asked = [breaker.ask(path) for path in "abc"]
    clock.now += 3 * TIMEOUT
    assert not breaker.is_open
    assert breaker.patience(0.25) > 0
    for question in asked:
        breaker.answered(question)
    clock.now += AGAIN
    assert not breaker.is_open
    assert breaker.patience(0.25) == 0.25
    assert breaker.openings == 0


def test_that_one_was_late_before_it_was_stopped_tells_nothing_of_the_others(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.ask("a")
    clock.now += TIMEOUT + 1
    assert not breaker.is_open and breaker.patience(0.25) > 0
    breaker.ask("b")
    breaker.ask("c")
    clock.now += 3 * TIMEOUT
    assert not breaker.is_open and breaker.patience(0.25) > 0
    clock.now += AGAIN
    assert breaker.is_open, "now they are late"


def test_a_longer_timeout_counts_at_once(breaker: Breaker, clock: Clock) -> None:
    for path in "abc":
        breaker.ask(path)
    clock.now += TIMEOUT + 1
    assert not breaker.is_open
    breaker.reconfigure(2 * TIMEOUT)
    clock.now += AGAIN
    assert not breaker.is_open


def test_a_file_that_hangs_while_others_answer_does_not_open_it(
    breaker: Breaker, clock: Clock
) -> None:
    for path in "abc":
        breaker.ask(path)
    for _ in range(20):
        clock.now += 1
        breaker.answered(breaker.ask("well"))
        assert not breaker.is_open
    clock.now += 100
    assert not breaker.is_open, "those that hang tell nothing new"


def test_an_answer_before_their_time_is_up_speaks_for_the_source(
    breaker: Breaker, clock: Clock
) -> None:
    """Also one that came long before: a full queue of ours is no silence of the source."""
    asked = [breaker.ask(path) for path in "abcde"]
    clock.now += TIMEOUT / 2
    breaker.answered(asked[0])
    clock.now += TIMEOUT
    assert not breaker.is_open


def test_errors_and_silence_count_together(breaker: Breaker, clock: Clock) -> None:
    breaker.ask("a")
    breaker.ask("b")
    late(breaker, clock)
    assert not breaker.is_open
    fail(breaker, "c")
    assert breaker.is_open


def test_a_question_counts_once(breaker: Breaker, clock: Clock, probe: Probe) -> None:
    """It was given up, then comes back with an error after the source was well."""
    questions = [breaker.ask(path) for path in "abc"]
    late(breaker, clock)
    assert breaker.is_open
    probe.error = None
    until(lambda: not breaker.is_open)
    for question in questions:
        breaker.failed(question, EIO)
    assert not breaker.is_open


def test_a_probe_closes_it(
    breaker: Breaker, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[bool] = []
    breaker.on_close.append(lambda: closed.append(breaker.is_open))
    breaker.answered(breaker.ask("well"))
    with caplog.at_level(logging.WARNING):
        fail(breaker, *"abc")
        until(lambda: len(probe.asked) > 3)
        assert breaker.is_open
        probe.error = None
        until(lambda: not breaker.is_open)
    assert set(probe.asked) == {"well"}
    assert closed == [False]
    assert len(caplog.records) == 2, "one line each"
    asked = len(probe.asked)
    gevent.sleep(0.01)
    assert len(probe.asked) == asked


def test_an_answer_that_comes_late_closes_it(breaker: Breaker, clock: Clock, probe: Probe) -> None:
    question = breaker.ask("a")
    breaker.ask("b")
    breaker.ask("c")
    late(breaker, clock)
    assert breaker.is_open
    breaker.answered(question)
    assert not breaker.is_open
    gevent.sleep(0.01)
    assert not breaker.is_open and not probe.asked


def test_one_probe_at_a_time(breaker: Breaker, probe: Probe, pool: ProbePool) -> None:
    probe.hanging = 10
    for _ in range(3):
        fail(breaker, *"abc")
        until(lambda: probe.asked)
        gevent.sleep(0.01)
        assert pool.pending == 1 and len(probe.asked) == 1
        breaker.answered(breaker.ask("a"))  # its greenlet ends, not its thread
    probe.error = None
    fail(breaker, *"abc")
    probe.go.set()
    until(lambda: not breaker.is_open)
    assert pool.pending == 0


def test_a_probe_that_never_returns_does_not_keep_it_open(
    clock: Clock, probe: Probe, pool: ProbePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs in a mount that was taken away, and what is mounted there now is well."""
    monkeypatch.setattr(breaker_module, "_PROBE_TIME", 0.02)
    breaker = Breaker(timeout=0.02, probe=probe.probe, pool=pool)
    probe.hanging, probe.error = 1, None
    fail(breaker, *"abc")
    until(lambda: not breaker.is_open)
    until(lambda: pool.pending == 1)


def test_probes_that_never_return_are_few(
    clock: Clock, probe: Probe, pool: ProbePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker_module, "_PROBE_TIME", 0.02)
    breaker = Breaker(timeout=0.02, probe=probe.probe, pool=pool)
    probe.hanging, probe.error = 10, None
    fail(breaker, *"abc")
    until(lambda: len(probe.asked) == 4)
    gevent.sleep(0.1)
    assert len(probe.asked) == 4 and breaker.is_open
    probe.go.set()
    until(lambda: not breaker.is_open)


def test_a_probe_has_as_long_as_a_request(
    clock: Clock, probe: Probe, pool: ProbePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker_module, "_PROBE_TIME", 0.02)
    breaker = Breaker(timeout=20, probe=probe.probe, pool=pool)
    probe.hanging, probe.error = 1, None
    fail(breaker, *"abc")
    until(lambda: probe.asked)
    gevent.sleep(0.1)
    assert len(probe.asked) == 1
    probe.go.set()
    until(lambda: not breaker.is_open)
    assert len(probe.asked) == 1


def test_it_stays_open_while_no_thread_is_left(clock: Clock, probe: Probe, pool: ProbePool) -> None:
    probe.error = None
    left = [False]
    breaker = Breaker(timeout=TIMEOUT, probe=probe.probe, pool=pool, exhausted=lambda: not left[0])
    fail(breaker, *"abc")
    until(lambda: len(probe.asked) > 3)
    assert breaker.is_open
    left[0] = True
    until(lambda: not breaker.is_open)


def test_a_source_that_comes_and_goes_is_probed_less_often(
    breaker: Breaker, clock: Clock, probe: Probe
) -> None:
    """And is logged less often."""
    probe.error = None
    intervals = []
    for _ in range(4):
        fail(breaker, *"abc")
        intervals.append(breaker._interval)
        until(lambda: not breaker.is_open)
    assert intervals == [0.002, 0.004, 0.008, 0.016]
    clock.now += 100
    fail(breaker, *"abc")
    assert breaker._interval == 0.002


def test_hits_need_not_wait_while_nothing_is_answered(breaker: Breaker, clock: Clock) -> None:
    assert breaker.patience(0.25) == 0.25
    for path in "aab":
        breaker.ask(path)
    clock.now += 0.3
    assert breaker.patience(0.25) == 0.25, "two files may hang, and the source be well"
    question = breaker.ask("c")
    assert breaker.patience(0.25) == 0.25
    clock.now += 0.3
    assert breaker.patience(0.25) == breaker_module._AGAIN, "until the second look"
    assert breaker.patience(0.05) == 0.05
    clock.now += AGAIN
    assert breaker.patience(0.25) == 0
    breaker.answered(question)
    assert breaker.patience(0.25) == 0.25
    fail(breaker, *"def")
    assert breaker.patience(0.25) == 0, "open"


def test_without_a_probe_it_never_opens() -> None:
    breaker = Breaker()
    fail(breaker, *"abcdef")
    assert not breaker.is_open


def test_once_stopped_it_never_opens(breaker: Breaker, probe: Probe) -> None:
    fail(breaker, *"abc")
    breaker.stop()
    gevent.sleep(0.01)
    assert not probe.asked
    breaker.answered(breaker.ask("a"))
    fail(breaker, *"abc")
    assert not breaker.is_open


def test_what_is_missing_is_an_answer(breaker: Breaker) -> None:
    fail(breaker, *"abcdef", error=NotFound(errno.ENOENT, "no"))
    assert not breaker.is_open


def test_its_repr_says_how_it_is(breaker: Breaker) -> None:
    breaker.ask("x")
    fail(breaker, "a")
    assert repr(breaker) == "<Breaker closed asked=1 against=1>"
    fail(breaker, "b", "c")
    assert repr(breaker) == "<Breaker open asked=1 against=3>"
