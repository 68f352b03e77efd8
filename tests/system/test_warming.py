"""Files are brought into the cache before anybody asks, and nobody who asks waits for that."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import gevent.event
import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.cache import mender, operations
from streamcache.cache.selection import Selection
from streamcache.cache.stored import ObjectFolder, StoredObject
from streamcache.cache.warming import WarmJob
from streamcache.cache.warmorder import WarmFailure, WarmOrder
from streamcache.errors import TooManyJobs
from tests.content import write, write_all
from tests.slowfs import SlowFS
from tests.system.conftest import OpenCache
from tests.system.site import (
    MiB,
    assert_right,
    eventually,
    fetch,
    objects_in,
    opened,
    partials_in,
    settle,
    take,
)

SIZE = 200_000
put = functools.partial(write_all, size=SIZE)


def warm(cache: StreamCache, wait: float = 20.0, **options: object) -> WarmJob:
    job = cache.operations.warm(WarmOrder(**options))
    assert job.over.wait(wait), job
    return job


def test_only_so_many_jobs_run(open_cache: OpenCache, source: Path, monkeypatch) -> None:
    put(source, "a")
    monkeypatch.setattr(operations, "_MOST_JOBS", 2)
    cache = open_cache(source)
    order = WarmOrder(paths=("/a",))
    first, second = cache.operations.warm(order), cache.operations.warm(order)
    with pytest.raises(TooManyJobs, match="2 warm jobs run already"):
        cache.operations.warm(order)
    assert first.over.wait(20) and second.over.wait(20)
    assert warm(cache, paths=("/a",)).state == "done"


@pytest.mark.parametrize("when_idle", ["finish", "stop"])
def test_what_is_warmed_is_a_hit_and_read_once(
    open_cache: OpenCache, fast: SlowFS, cache_dir: Path, when_idle: str
) -> None:
    put(fast.backing, "a/1", "a/2", "a/b/3", "c/4", "a/.5")
    cache = open_cache(fast.path, copy={"when_idle": when_idle, "max_idle": 0})
    fetch(cache, "a/1")
    settle(cache, cache_dir)
    job = warm(cache, selection=Selection.of(prefix="/a/"), at_once=3)
    status = job.status
    assert (status.state, status.files, status.files_done) == ("done", 3, 3)
    assert (status.bytes, status.bytes_done) == (3 * SIZE, 3 * SIZE)
    assert (status.walked, status.failures, status.left_out) == (True, 0, 0)
    assert status.ended is not None and status.ended >= status.started
    settle(cache, cache_dir)
    assert len(objects_in(cache_dir)) == 3
    assert cache.statistics().bytes_from_source == 3 * SIZE
    for name in ("a/1", "a/2", "a/b/3"):
        answer = fetch(cache, name)
        assert answer.status is CacheStatus.HIT
        assert_right(answer, name, SIZE)
    assert cache.operations.warm_jobs == {job.id: job}


@pytest.mark.parametrize(
    ("selection", "files"),
    [
        (Selection.of(glob="/a/*"), 2),
        (Selection.of(glob="**/*3"), 1),
        (Selection.of(path="/c/4"), 1),
        (Selection.of(prefix="/a/1"), 1),
        (Selection.everything(), 4),
    ],
)
def test_what_is_meant_is_warmed_and_no_other(
    open_cache: OpenCache, source: Path, selection: Selection, files: int
) -> None:
    put(source, "a/1", "a/2", "a/b/3", "c/4", size=1000)
    cache = open_cache(source)
    status = warm(cache, selection=selection).status
    assert (status.state, status.files_done, status.files) == ("done", files, files)
    assert cache.statistics().objects == files


def test_what_fails_is_named_and_the_rest_is_warmed(open_cache: OpenCache, source: Path) -> None:
    put(source, "good", "large", size=1000)
    os.truncate(source / "large", 1 << 33)
    os.utime(source / "large", (1e9, 1e9))
    write(source, "young", 1000, age=0)
    cache = open_cache(source)
    status = warm(cache, paths=("/good", "young", "/large", "/none", "good")).status
    assert (status.state, status.files_done) == ("done", 1)
    assert {one.path: one.error for one in status.failed} == {
        "/none": "No such file or directory",
        "/large": f"too large: the cache has {cache.config.cache.size} bytes",
        "/young": "changed less than 10 s (source.settle) ago",
    }
    assert status.left_out == 0 and status.failures == 3
    status = warm(cache, paths=("/large",), pin=True).status
    assert "too large" in status.failed[0].error


def test_a_dry_run_counts_and_copies_nothing(
    open_cache: OpenCache, source: Path, cache_dir: Path
) -> None:
    put(source, "a/1", "a/2", "a/3")
    cache = open_cache(source)
    fetch(cache, "a/1")
    settle(cache, cache_dir)
    status = warm(cache, selection=Selection.of(prefix="/a/"), dry_run=True, pin=True).status
    assert (status.state, status.files, status.bytes) == ("done", 3, 3 * SIZE)
    assert (status.files_done, status.bytes_done) == (1, SIZE)
    assert (cache.statistics().objects, cache.operations.pins()) == (1, ())
    assert cache.statistics().bytes_from_source == SIZE
    assert (status.dry_run, status.what) == (True, "/a/")


def test_a_dry_run_says_what_would_be_left_out(open_cache: OpenCache, source: Path) -> None:
    put(source, *(f"{number:02}" for number in range(20)), size=MiB)
    os.truncate(source / "00", 1 << 30)
    os.utime(source / "00", (1e9, 1e9))
    cache = open_cache(source, size=10 * MiB)
    would = warm(cache, selection=Selection.everything(), dry_run=True, at_once=1).status
    assert would.state == "full" and would.left_out > 5
    assert [one.path for one in would.failed] == ["/00"]
    status = warm(cache, selection=Selection.everything(), at_once=1).status
    assert status.left_out == would.left_out


def test_what_was_there_before_is_no_rate(
    open_cache: OpenCache, fast: SlowFS, cache_dir: Path
) -> None:
    put(fast.backing, "f", size=48 * MiB)
    cache = open_cache(fast.path, copy={"when_idle": "stop"})
    gate = fast.fault("hang", "f", operations=("read",), start=16 * MiB)
    first = cache.operations.warm(WarmOrder(paths=("f",)))
    eventually(lambda: first.status.bytes_done >= 8 * MiB)
    first.cancel()
    fast.release(gate)
    settle(cache, cache_dir)
    (left,) = cache.operations.partials("/f")
    assert 8 * MiB <= left.present < 32 * MiB
    fast.set(bandwidth=4 * MiB)
    job = cache.operations.warm(WarmOrder(paths=("f",)))
    eventually(lambda: job.status.rate > 0)
    assert job.status.bytes_done >= left.present
    assert job.status.rate < 10 * MiB
    fast.set(bandwidth=0)
    assert job.over.wait(20)
    assert job._copied == 48 * MiB - left.present


def test_a_folder_that_is_not_there_ends_the_job(open_cache: OpenCache, source: Path) -> None:
    cache = open_cache(source)
    status = warm(cache, selection=Selection.of(glob="/none/*")).status
    assert status.state == "failed"
    assert status.failed == (WarmFailure("/none/*", "No such file or directory"),)


def test_who_asks_for_a_file_that_is_warmed_joins_it(
    open_cache: OpenCache, fast: SlowFS, cache_dir: Path
) -> None:
    size = 4 * MiB
    put(fast.backing, "f", size=size)
    cache = open_cache(fast.path)
    fast.set(bandwidth=8 * MiB)
    job = cache.operations.warm(WarmOrder(paths=("f",)))
    eventually(lambda: 0 < job.status.bytes_done < size)
    answer = fetch(cache, "f")
    assert answer.status is CacheStatus.COLLAPSED
    assert_right(answer, "f", size)
    assert job.over.wait(10) and job.state == "done"
    assert cache.statistics().bytes_from_source == size
    settle(cache, cache_dir)


def test_a_viewer_goes_before_what_is_warmed(open_cache: OpenCache, fast: SlowFS) -> None:
    put(fast.backing, *(f"w/{number}" for number in range(4)), size=4 * MiB)
    put(fast.backing, "film", size=MiB)
    cache = open_cache(fast.path)
    fast.set(bandwidth=2 * MiB)
    job = cache.operations.warm(WarmOrder(selection=Selection.of(prefix="w/"), at_once=4))
    eventually(lambda: job.status.bytes_done > 0)
    before = job.status.bytes_done
    assert_right(fetch(cache, "film"), "film", MiB)
    # Of the 16 MiB that are wanted the viewer's came first; only what was under way came with it.
    assert job.status.bytes_done - before <= MiB
    job.cancel()


def test_a_rate_is_kept_and_gives_the_time_that_is_left(
    open_cache: OpenCache, source: Path
) -> None:
    put(source, "a", "b", size=MiB)
    cache = open_cache(source)
    begun = time.monotonic()
    job = cache.operations.warm(WarmOrder(paths=("a", "b"), max_bandwidth=MiB))
    status = eventually(lambda: job.status.remaining and job.status)
    assert 0 < status.rate <= 1.5 * MiB
    assert status.remaining <= 2 * MiB / status.rate
    assert job.over.wait(20)
    assert time.monotonic() - begun >= 2 * MiB / MiB - 0.1 - 0.3  # a burst, and each one's last
    assert job.status.remaining is None and job.status.rate == 0


def test_a_rate_holds_no_viewer_back(open_cache: OpenCache, source: Path) -> None:
    put(source, "a", size=4 * MiB)
    cache = open_cache(source)
    job = cache.operations.warm(WarmOrder(paths=("a",), max_bandwidth=64 * 1024))
    eventually(lambda: job.status.bytes_done > 0)
    assert_right(fetch(cache, "a"), "a", 4 * MiB)  # a minute at that rate
    assert job.over.wait(10) and job.state == "done"


def test_a_job_that_is_cancelled_stops_and_keeps_what_it_has(
    open_cache: OpenCache, fast: SlowFS, cache_dir: Path
) -> None:
    put(fast.backing, "f", "g", "read", size=8 * MiB)
    cache = open_cache(fast.path)
    fast.set(bandwidth=4 * MiB)
    with opened(cache, "read") as reading:
        take(reading, 0, 10)
        job = cache.operations.warm(WarmOrder(paths=("f", "g", "read"), at_once=3))
        before = eventually(lambda: (done := job.status.bytes_done) > MiB and done)
        job.cancel()
        job.cancel()
        status = job.status
        assert (status.state, status.remaining) == ("cancelled", None) and job.over.is_set()
        assert before <= status.bytes_done < 24 * MiB
        (session,) = cache.statistics().sessions
        assert session.path == "read"  # somebody reads that one
        fast.set(bandwidth=0)
    settle(cache, cache_dir)
    assert {one.header.path for one in partials_in(cache_dir)} <= {"f", "g"}
    assert len(objects_in(cache_dir)) == 1


def test_it_brings_no_more_than_is_free_and_a_tenth(
    open_cache: OpenCache, source: Path, cache_dir: Path
) -> None:
    hot = [f"hot/{number:02}" for number in range(12)]
    put(source, *hot, *(f"new/{number:02}" for number in range(20)), size=400_000)
    cache = open_cache(source, size=10 * MiB)
    for name in hot:
        fetch(cache, name)
        settle(cache, cache_dir)
        for client in "abc":
            assert fetch(cache, name, client=client).status is CacheStatus.HIT
    time.sleep(1.1)  # uses reach the catalog each second
    status = warm(cache, selection=Selection.of(prefix="new/"), at_once=1).status
    assert status.state == "full"
    assert status.files_done + status.left_out == status.files == 20
    assert 5 <= status.files_done <= 15
    settle(cache, cache_dir)
    assert all(cache.operations.entry(name) for name in hot)


def test_what_is_warmed_can_be_pinned(open_cache: OpenCache, source: Path) -> None:
    put(source, "a", "b", "c", size=MiB)
    cache = open_cache(source, size=4 * MiB, cache={"high_watermark": 0.9, "low_watermark": 0.6})
    status = warm(cache, paths=("a", "b", "c"), pin=True, at_once=1).status
    assert cache.operations.pins() == ("/a", "/b")
    assert (status.files_done, status.failures) == (2, 1)
    assert "may be" in status.failed[0].error


def test_a_source_that_goes_away_meanwhile_fails_no_file(
    open_cache: OpenCache, fast: SlowFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:02}" for number in range(12)]
    put(fast.backing, *names, size=MiB)
    cache = open_cache(fast.path, source_options={"timeout": 0.5})
    fast.set(bandwidth=8 * MiB)
    job = cache.operations.warm(WarmOrder(selection=Selection.everything(), at_once=3))
    eventually(lambda: job.status.files_done >= 2)
    breaker = cache._parts.breaker
    monkeypatch.setattr(type(breaker), "is_open", True)
    gevent.sleep(0.3)
    done = job.status
    assert done.state == "running" and done.failures == 0
    monkeypatch.undo()
    fast.set(bandwidth=0)
    breaker_closed = cache._parts.breaker
    for again in breaker_closed.on_close:
        again()
    assert job.over.wait(20)
    assert (job.state, job.status.files_done, job.status.failures) == ("done", 12, 0)


@pytest.mark.parametrize("operations", [("opendir", "readdir", "lookup", "open"), ("read",)])
def test_a_job_says_that_its_source_does_not_answer_and_goes_on_when_it_does(
    open_cache: OpenCache, fast: SlowFS, operations: tuple[str, ...]
) -> None:
    put(fast.backing, "a/1", "a/2")
    cache = open_cache(fast.path, source_options={"timeout": 0.6})
    hang = fast.fault("hang", "a*", operations=operations)
    job = cache.operations.warm(WarmOrder(selection=Selection.of(prefix="/a/")))
    assert job.status.waiting == ""
    waiting = eventually(lambda: job.status.waiting)
    assert waiting == "the source does not answer" or waiting.startswith("nothing has come")
    assert (job.state, job.status.failures) == ("running", 0)
    fast.release(hang)
    assert job.over.wait(20), job
    assert (job.state, job.status.files_done, job.status.waiting) == ("done", 2, "")


def test_a_job_with_a_timeout_is_given_up_when_nothing_comes(
    open_cache: OpenCache, fast: SlowFS, cache_dir: Path
) -> None:
    put(fast.backing, "a", size=4 * MiB)
    cache = open_cache(fast.path)
    fast.fault("hang", "a", operations=("read",), start=2 * MiB)
    status = warm(cache, paths=("/a",), timeout=1.0).status
    assert (status.state, status.files_done, status.waiting) == ("failed", 0, "")
    assert status.failed == (WarmFailure("/a", "given up, as nothing has come for 1 s"),)
    fast.release()
    settle(cache, cache_dir)
    assert [one.header.path for one in partials_in(cache_dir)] == ["a"]


def test_a_job_that_is_given_up_names_the_file_that_did_not_come(
    open_cache: OpenCache, fast: SlowFS
) -> None:
    put(fast.backing, "a", "b")
    cache = open_cache(fast.path)
    fast.fault("hang", "b", operations=("lookup",))
    status = warm(cache, paths=("/a", "/b"), timeout=1.0).status
    assert (status.state, status.files_done, status.files) == ("failed", 1, 1)
    assert status.failed == (WarmFailure("/b", "given up, as nothing has come for 1 s"),)


def test_a_job_that_moves_on_outlives_its_timeout(open_cache: OpenCache, source: Path) -> None:
    put(source, "a", size=2 * MiB)
    cache = open_cache(source)
    begun = time.monotonic()
    job = warm(cache, paths=("/a",), max_bandwidth=512 * 1024, timeout=1.0)
    assert time.monotonic() - begun > 2.0
    assert (job.state, job.status.files_done) == ("done", 1)


def test_two_jobs_that_want_the_same_file_end_for_themselves(
    open_cache: OpenCache, fast: SlowFS
) -> None:
    put(fast.backing, "f", size=8 * MiB)
    cache = open_cache(fast.path, copy={"when_idle": "stop"})
    fast.set(bandwidth=4 * MiB)
    jobs = [cache.operations.warm(WarmOrder(paths=("f",))) for _ in range(3)]
    eventually(lambda: all(job.status.bytes_done > 0 for job in jobs))
    jobs[0].cancel()
    assert jobs[1].state == jobs[2].state == "running"
    fast.set(bandwidth=0)
    for job in jobs[1:]:
        assert job.over.wait(10), job
        assert (job.state, job.status.failures) == ("done", 0)


def test_a_job_waits_while_nobody_knows_how_much_room_there_is(
    open_cache: OpenCache, source: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(source, "before", "a", "b")
    cache = open_cache(source)
    fetch(cache, "before")
    settle(cache, cache_dir)
    cache.close()
    os.unlink(cache_dir / "catalog.sqlite")
    monkeypatch.setattr(mender, "_ENTER_WAIT", 0.0)
    walked = ObjectFolder.all
    go_on = gevent.event.Event()

    def slowly(folder: ObjectFolder) -> Iterator[list[StoredObject]]:
        """A rebuild that takes a while."""
        while not go_on.is_set():
            yield []
        yield from walked(folder)

    monkeypatch.setattr(ObjectFolder, "all", slowly)
    cache = open_cache(source)
    job = cache.operations.warm(WarmOrder(paths=("a", "b")))
    gevent.sleep(0.1)
    assert job.status.files == 0 and job.state == "running"
    go_on.set()
    assert job.over.wait(10), job
    assert (job.state, job.status.files_done, job.status.failures) == ("done", 2, 0)


def test_a_pin_that_cannot_be_written_fails_its_file_and_not_the_job(
    open_cache: OpenCache, source: Path, cache_dir: Path
) -> None:
    put(source, "a", "b")
    cache = open_cache(source)
    (cache_dir / "pins").rmdir()
    (cache_dir / "pins").write_text("in the way")
    status = warm(cache, paths=("a", "b"), pin=True).status
    assert (status.state, status.failures) == ("done", 2)


def test_a_cache_that_closes_ends_its_jobs(source: Path, cache_dir: Path) -> None:
    put(source, "a", size=4 * MiB)
    with StreamCache(source, cache_dir, "1GB") as cache:
        job = cache.operations.warm(WarmOrder(paths=("a",), max_bandwidth=64 * 1024))
        eventually(lambda: job.status.bytes_done > 0)
    assert job.state == "cancelled" and job.over.is_set()


def test_the_last_jobs_can_still_be_asked_about(open_cache: OpenCache, source: Path) -> None:
    put(source, "a", size=10)
    cache = open_cache(source)
    jobs = [warm(cache, paths=("a",)) for _ in range(23)]
    assert list(cache.operations.warm_jobs) == [job.id for job in jobs[-21:]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"paths": ("a",), "selection": Selection.everything()},
        {"paths": ("a", "/")},
        {"paths": ("a",), "at_once": 0},
        {"paths": ("a",), "at_once": 65},
        {"paths": ("a",), "max_bandwidth": -1},
    ],
)
def test_an_order_that_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needed|names no file|not in 1|below 0"):
        WarmOrder(**options)
