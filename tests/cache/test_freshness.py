"""What is known of the source: asked once by all, good for a while, and no longer."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import threading
import time
import types
from collections.abc import Callable, Iterator

import gevent
import pytest

from streamcache.cache import freshness as freshness_module
from streamcache.cache.freshness import Freshness
from streamcache.cache.objects import ObjectHandle
from streamcache.config.source import SourceConfig
from streamcache.errors import (
    AccessDenied,
    NotFound,
    SourceTimeout,
    SourceUnavailable,
    StreamCacheError,
)
from streamcache.source.base import Fingerprint, SourceFile, Version
from streamcache.source.breaker import Breaker
from tests.cache.fakes import World

FILM = "film.mp4"


class Clock:
    now = 1000.0


class Asked:
    """A source that is asked: how often, and what it answers when it may."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.opens: list[tuple[str, int | None]] = []
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def open(self, path: str, ahead: int | None = None) -> SourceFile:
        self.opens.append((path, ahead))
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        return self._world.source.open(path, ahead)

    def stat(self, path: str) -> Fingerprint:
        return self._world.source.stat(path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(
        freshness_module, "time", types.SimpleNamespace(monotonic=lambda: found.now)
    )
    return found


@pytest.fixture
def asked(world: World) -> Iterator[Asked]:
    world.write(FILM, 1000)
    found = Asked(world)
    yield found
    found.go.set()


@pytest.fixture
def made(world: World, asked: Asked, clock: Clock) -> Freshness:
    config = SourceConfig(revalidate=2.0, negative_ttl=1.0, stale_if_error=60.0)
    return Freshness(asked, world.meta, config, world.counters)


def answer(made: Freshness, path: str = FILM, timeout: float = 20.0) -> Version:
    flight = made.ask(path)
    try:
        return made.wait(flight, timeout)
    finally:
        made.leave(flight)


def test_the_answer_is_good_for_a_while(made: Freshness, clock: Clock) -> None:
    assert made.fresh(FILM) is None
    version = answer(made)
    known = made.fresh(FILM)
    assert known is not None
    assert known.version == version
    clock.now += 1.9
    assert made.fresh(FILM) is known
    clock.now += 0.2
    assert made.fresh(FILM) is None
    assert made.known(FILM) is known


@pytest.mark.parametrize(("took", "good"), [(0.5, 1.5), (1.9, 0.25), (5.0, 0.25)])
def test_an_answer_is_as_old_as_its_question(
    took: float, good: float, made: Freshness, asked: Asked, clock: Clock
) -> None:
    """What hung on its way may have been replaced since."""
    asked.go.clear()
    flight = made.ask(FILM)
    gevent.sleep(0.01)
    clock.now += took
    asked.go.set()
    made.wait(flight, 20.0)
    made.leave(flight)
    clock.now += good - 0.01
    assert made.fresh(FILM) is not None
    clock.now += 0.02
    assert made.fresh(FILM) is None


@pytest.mark.parametrize(
    "late",
    [
        None,
        NotFound(errno.ENOENT, "no such file", FILM),
        AccessDenied(errno.EACCES, "permission denied", FILM),
    ],
)
def test_an_answer_that_comes_after_the_time_is_none(
    late: NotFound | AccessDenied | None, made: Freshness, asked: Asked, clock: Clock, world: World
) -> None:
    """Who joined just before it came would be told what was true before he asked."""
    before = answer(made)
    clock.now += 3.0
    world.write(FILM, 2000)
    asked.error = late
    asked.go.clear()
    flight = made.ask(FILM)
    gevent.sleep(0.01)
    clock.now += SourceConfig().timeout
    joined = made.ask(FILM)
    assert joined is flight
    asked.go.set()
    for each in (flight, joined):
        with pytest.raises(SourceTimeout):
            made.wait(each, 20.0)
        assert each.take() is None
        made.leave(each)
    known = made.known(FILM)
    assert known is not None
    assert (known.version, known.failing_since) == (before, clock.now)
    assert made.fresh(FILM) is None
    asked.error = None
    assert answer(made) != before


def _another_answer(made: Freshness, asked: Asked) -> None:
    answer(made)


def _no_answer(made: Freshness, asked: Asked) -> None:
    asked.error = SourceUnavailable(5, "broken", FILM)
    with pytest.raises(SourceUnavailable):
        answer(made)


@pytest.mark.parametrize(
    "event",
    [
        _another_answer,
        _no_answer,
        lambda made, _: made.unanswered(FILM),
        lambda made, _: made.forget(FILM),
        lambda made, _: made.expire([FILM]),
        lambda made, _: made.reconfigure(SourceConfig(revalidate=0.5)),
    ],
)
def test_what_rests_on_an_answer_ends_with_it(
    made: Freshness, asked: Asked, event: Callable[[Freshness, Asked], None]
) -> None:
    """The fast path asks nobody before ``good_until``."""
    version = answer(made)
    known = made.fresh(FILM)
    assert known is not None
    known.hot = ObjectHandle("name", version, -1)
    known.hot.good_until = known.until
    event(made, asked)
    assert known.hot.good_until == 0.0


def test_an_answer_that_the_hub_hears_of_late_is_one(made: Freshness, clock: Clock) -> None:
    """This process was stopped, perhaps, when it came."""
    flight = made.ask(FILM)
    gevent.sleep(0)
    while flight.answered == math.inf:
        time.sleep(0.001)  # in the hub
    clock.now += 3600
    assert made.wait(flight, 20).size == 1000
    made.leave(flight)


def test_all_who_ask_at_once_share_one_question(
    made: Freshness, asked: Asked, world: World
) -> None:
    """I9; 9fef2a5d: the second request during a check failed."""
    asked.go.clear()
    waiting = [gevent.spawn(answer, made) for _ in range(20)]
    gevent.sleep(0)
    asked.go.set()
    assert len({greenlet.get() for greenlet in waiting}) == 1
    assert asked.opens == [(FILM, None)]
    assert world.counters.source_opens == 1
    answer(made)
    assert len(asked.opens) == 2


def test_everybody_who_takes_the_open_file_has_one_of_his_own(
    made: Freshness, world: World
) -> None:
    first, second = made.ask(FILM), made.ask(FILM)
    made.wait(first, 20)
    assert first is second
    files = [first.take(), second.take()]
    made.leave(first)
    made.leave(second)
    world.settle()
    fds = {file.fd for file in files if file is not None}
    assert len(fds) == 2
    assert {os.fstat(fd).st_ino for fd in fds} == {files[0].fingerprint.inode}
    assert first.take() is None  # all have left: the first one is closed
    for file in files:
        file.close()


def test_an_open_file_that_nobody_takes_is_closed(made: Freshness, world: World) -> None:
    answer(made)
    world.settle()
    assert world.source.open_files == 0


def test_who_leaves_before_the_answer_leaves_nothing_open(
    made: Freshness, asked: Asked, world: World
) -> None:
    asked.go.clear()
    flight = made.ask(FILM)
    gevent.sleep(0)
    made.leave(flight)
    asked.go.set()
    world.settle()
    assert (len(asked.opens), world.source.open_files) == (1, 0)


@pytest.mark.parametrize("error", [AccessDenied, SourceUnavailable, NotFound])
def test_everybody_gets_the_error(
    made: Freshness, asked: Asked, error: type[StreamCacheError]
) -> None:
    asked.go.clear()
    asked.error = error(5, "no")
    waiting = [gevent.spawn(answer, made) for _ in range(3)]
    gevent.sleep(0)
    asked.go.set()
    for greenlet in waiting:
        with pytest.raises(error):
            greenlet.get()
    asked.error = None
    answer(made)


def test_what_is_missing_is_remembered_for_a_moment(
    made: Freshness, asked: Asked, clock: Clock
) -> None:
    with pytest.raises(NotFound):
        answer(made, "none.mp4")
    known = made.fresh("none.mp4")
    assert known is not None
    assert known.version is None
    assert not made.may_be_stale(known)
    clock.now += 1.1
    assert made.fresh("none.mp4") is None


def test_no_answer_in_time_is_a_timeout_and_the_question_goes_on(
    made: Freshness, asked: Asked, world: World
) -> None:
    asked.go.clear()
    with pytest.raises(SourceTimeout):
        answer(made, timeout=0.01)
    with pytest.raises(SourceTimeout):
        answer(made, timeout=-1)
    asked.go.set()
    world.settle()
    assert made.fresh(FILM) is not None
    assert len(asked.opens) == 1


def test_a_timeout_of_the_embedding_program_is_left_to_it(made: Freshness, asked: Asked) -> None:
    asked.go.clear()
    with gevent.Timeout(0.01) as mine, pytest.raises(gevent.Timeout) as caught:
        answer(made)
    assert caught.value is mine


def test_a_source_that_is_down_is_not_asked_for_every_request(
    made: Freshness, asked: Asked, clock: Clock, world: World
) -> None:
    version = answer(made)
    clock.now += 3
    asked.error = SourceUnavailable(5, "no")
    with pytest.raises(SourceUnavailable):
        answer(made)
    known = made.fresh(FILM)
    assert known is not None
    assert (known.version, known.failing_since) == (version, 1003.0)
    assert made.may_be_stale(known)
    clock.now += 59
    with pytest.raises(SourceUnavailable):
        answer(made)
    assert known.failing_since == 1003.0
    clock.now += 2
    assert not made.may_be_stale(known), "stale_if_error has passed"
    asked.error = None
    answer(made)
    fresh = made.fresh(FILM)
    assert fresh is not None
    assert fresh.failing_since is None
    assert world.counters.source_errors == 2


def test_a_file_that_was_never_seen_is_not_served_stale(made: Freshness, asked: Asked) -> None:
    asked.error = SourceUnavailable(5, "no")
    with pytest.raises(SourceUnavailable):
        answer(made)
    assert made.known(FILM) is None


def test_what_the_cache_has_stands_in_for_an_answer(made: Freshness, clock: Clock) -> None:
    version = Version("0" * 32, 1, 1)
    made.remember_stored(FILM, version)
    known = made.fresh(FILM)
    assert known is not None
    assert known.version == version
    assert made.may_be_stale(known)
    answer(made)
    made.remember_stored(FILM, version)
    said = made.known(FILM)
    assert said is not None
    assert said.version != version, "what the source said counts more"


def test_a_mismatch_is_looked_at_again_before_it_is_believed(
    made: Freshness, asked: Asked, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = answer(made)
    world.write(FILM, 2000)
    stats: list[str] = []
    stat = world.source.stat

    def rewritten_once(path: str) -> Fingerprint:
        stats.append(path)
        if len(stats) == 1:
            world.write(FILM, 3000)
        return stat(path)

    monkeypatch.setattr(world.source, "stat", rewritten_once)
    new = answer(made)
    assert (old.size, new.size) == (1000, 3000)
    assert stats == [FILM] * 2
    world.settle()
    assert world.source.open_files == 0


def test_a_file_that_changes_all_the_time_is_taken_as_it_is(
    made: Freshness, asked: Asked, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(made)
    size = 2000

    def rewritten(path: str) -> Fingerprint:
        nonlocal size
        size += 1
        world.write(FILM, size)
        return Fingerprint(0, 0, 0, 0, 0, 0)

    world.write(FILM, size)
    monkeypatch.setattr(world.source, "stat", rewritten)
    assert answer(made).size == size
    assert len(asked.opens) < 10
    world.settle()
    assert world.source.open_files == 0


def test_a_mismatch_that_cannot_be_looked_at_again_is_not_believed(
    made: Freshness, asked: Asked, world: World, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    old = answer(made)
    clock.now += 3
    world.write(FILM, 2000)

    def fail(path: str) -> Fingerprint:
        raise SourceUnavailable(5, "no")

    monkeypatch.setattr(world.source, "stat", fail)
    with pytest.raises(SourceUnavailable):
        answer(made)
    known = made.known(FILM)
    assert known is not None
    assert known.version == old
    world.settle()
    assert world.source.open_files == 0


def test_the_first_bytes_come_with_the_answer_for_who_asks(
    made: Freshness, asked: Asked, world: World
) -> None:
    flight = made.ask(FILM, ahead=0)
    made.wait(flight, 20)
    file = flight.take()
    assert file is not None
    assert file.ahead is not None
    assert (world.counters.source_reads, world.counters.bytes_from_source) == (1, 1000)
    file.close()
    made.leave(flight)


def test_only_so_much_is_remembered(
    made: Freshness, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness_module, "_REMEMBERED", 3)
    for number in range(5):
        with pytest.raises(NotFound):
            answer(made, f"{number}")
    assert [bool(made.known(f"{number}")) for number in range(5)] == [False] * 2 + [True] * 3


def test_what_is_forgotten_is_asked_again(made: Freshness) -> None:
    answer(made)
    made.forget(FILM)
    made.forget("never.mp4")
    assert made.known(FILM) is None


def test_an_answer_that_was_asked_for_before_counts_for_nobody_who_asks_afterwards(
    made: Freshness, asked: Asked
) -> None:
    asked.go.clear()
    before = made.ask(FILM)
    assert made.paths() == [FILM]
    made.expire(made.paths())
    asked.go.set()
    assert made.wait(before, 20).size == 1000
    assert made.known(FILM) is None
    after = made.ask(FILM)
    assert after is not before
    made.leave(before)
    made.wait(after, 20)
    made.leave(after)
    assert made.fresh(FILM) is not None


def test_what_changes_is_told_once_also_when_nobody_has_waited(
    made: Freshness, world: World
) -> None:
    told: list[tuple[str, int | None, int | None]] = []

    def size(version: Version | None) -> int | None:
        return None if version is None else version.size

    made.on_change.append(lambda path, was, now: told.append((path, size(was), size(now))))
    answer(made)
    answer(made)
    assert told == []
    world.write(FILM, 1001)
    first, second = made.ask(FILM), made.ask(FILM)
    made.leave(first)
    made.leave(second)
    world.until(lambda: told)
    world.path(FILM).unlink()
    made.leave(made.ask(FILM))
    world.until(lambda: len(told) > 1)
    assert told == [(FILM, 1000, 1001), (FILM, 1001, None)]


def test_a_failure_that_was_asked_for_before_delays_nobody_who_asks_afterwards(
    made: Freshness, asked: Asked
) -> None:
    answer(made)
    asked.go.clear()
    made.expire([FILM])
    before = made.ask(FILM)
    made.expire([FILM])
    asked.error = SourceUnavailable(errno.EIO, "no")
    asked.go.set()
    with pytest.raises(SourceUnavailable):
        made.wait(before, 20)
    made.leave(before)
    assert made.fresh(FILM) is None
    known = made.known(FILM)
    assert known is not None
    assert known.failing_since is None


def test_an_error_that_is_none_of_ours_settles_who_waits(
    make_world: Callable[..., World], made: Freshness, asked: Asked
) -> None:
    """I11: nobody waits for an answer that cannot come."""
    asked.error = RuntimeError("a bug")
    with pytest.raises((RuntimeError, StreamCacheError)) as caught:
        answer(made, timeout=0.5)
    assert not isinstance(caught.value, SourceTimeout)
    asked.error = None
    answer(made)


# -- a source that does not answer


class Shut(Breaker):
    """One that is open when the test says so."""

    shut = False
    patiences: Iterator[float] = iter(())

    @property
    def is_open(self) -> bool:
        return self.shut

    def patience(self, wait: float) -> float:
        return next(self.patiences, wait)


@pytest.fixture
def shut() -> Shut:
    return Shut()


@pytest.fixture
def guarded(world: World, asked: Asked, clock: Clock, shut: Shut) -> Freshness:
    config = SourceConfig(revalidate=2.0, negative_ttl=1.0, stale_if_error=60.0)
    return Freshness(asked, world.meta, config, world.counters, shut)


def test_a_question_that_hangs_is_not_asked_again(
    made: Freshness, asked: Asked, clock: Clock, world: World
) -> None:
    """One thread for a path, however often it is wanted and for however long."""
    asked.go.clear()
    for _ in range(20):
        with pytest.raises(SourceTimeout):
            answer(made, timeout=0.001)
        clock.now += 60
    assert len(asked.opens) == 1
    asked.go.set()
    world.settle()
    answer(made)
    assert len(asked.opens) == 2


def test_while_the_breaker_is_open_nothing_is_asked(
    guarded: Freshness, asked: Asked, clock: Clock, shut: Shut
) -> None:
    version = answer(guarded)
    clock.now += 3
    shut.shut = True
    known = guarded.fresh(FILM)
    assert known is not None
    assert (known.version, known.failing_since) == (version, clock.now)
    for path in (FILM, "other.mp4"):
        with pytest.raises(SourceUnavailable):
            answer(guarded, path)
    assert len(asked.opens) == 1
    clock.now += 61
    known = guarded.fresh(FILM)
    assert known is not None
    assert not guarded.may_be_stale(known)
    shut.shut = False
    assert guarded.fresh(FILM) is None
    assert answer(guarded) == version
    assert guarded.known(FILM).failing_since is None


def test_what_was_missing_is_unknown_while_the_breaker_is_open(
    guarded: Freshness, clock: Clock, shut: Shut
) -> None:
    with pytest.raises(NotFound):
        answer(guarded, "none.mp4")
    shut.shut = True
    assert guarded.fresh("none.mp4") is not None
    clock.now += 2
    assert guarded.fresh("none.mp4") is None
    with pytest.raises(SourceUnavailable):
        answer(guarded, "none.mp4")


def test_who_may_be_served_stale_waits_a_little_or_not_at_all(
    guarded: Freshness, asked: Asked, shut: Shut
) -> None:
    asked.go.clear()
    flight = guarded.ask(FILM)
    started = time.monotonic()
    with pytest.raises(SourceTimeout):
        guarded.wait_a_little(flight)
    assert time.monotonic() - started >= 0.2
    guarded.reconfigure(SourceConfig(revalidate_wait=20.0))
    shut.patiences = itertools.repeat(0.0)
    with gevent.Timeout(10), pytest.raises(SourceTimeout):
        guarded.wait_a_little(flight)
    guarded.leave(flight)
    asked.go.set()


def test_who_may_be_served_stale_waits_on_if_the_source_was_not_silent_after_all(
    guarded: Freshness, asked: Asked, shut: Shut
) -> None:
    """This process was stopped, and the answers to older questions have been taken by now."""

    def patiences() -> Iterator[float]:
        yield 0.01
        asked.go.set()
        yield 20.0

    guarded.reconfigure(SourceConfig(revalidate_wait=20.0))
    asked.go.clear()
    flight = guarded.ask(FILM)
    shut.patiences = patiences()
    assert guarded.wait_a_little(flight) == answer(guarded)
    guarded.leave(flight)


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (None, False),
        (NotFound(2, "no"), False),
        (AccessDenied(13, "no"), False),
        (SourceUnavailable(5, "no"), True),
    ],
)
def test_what_the_source_says_is_told_to_the_breaker(
    guarded: Freshness, asked: Asked, shut: Shut, error: Exception | None, counted: bool
) -> None:
    asked.error = error
    shut.failed(shut.ask("other"), SourceUnavailable(5, "no"))
    with contextlib.suppress(StreamCacheError):
        answer(guarded)
    assert list(shut._against) == (["other", FILM] if counted else [])
    assert not shut._asked
