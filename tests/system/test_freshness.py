"""What changes at the source is seen in time, and no reader ever gets a mix of versions."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.cache.selection import Selection
from streamcache.errors import (
    NotFound,
    SourceChanged,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
)
from tests.content import SETTLED, content, verify, write
from tests.server.client import Client, Response
from tests.slowfs import SlowFS, mounting
from tests.system.conftest import OpenCache
from tests.system.site import (
    Answer,
    MiB,
    assert_right,
    at_rest,
    disk_usage,
    eventually,
    fetch,
    objects_in,
    opened,
    partials_in,
    read,
    settle,
    take,
)

SIZE = MiB + 5
REVALIDATE = 0.2  # s
QUICK = {"revalidate": REVALIDATE}
SLACK = 1.0  # s: the machine is busy


def age(path: Path, seconds: float) -> None:
    changed = time.time() - seconds
    os.utime(path, (changed, changed))


def grown(path: Path) -> tuple[str, int]:
    write(path.parent, path.name, SIZE + 70_000, content_name="new", age=SETTLED - 1)
    return "new", SIZE + 70_000


def shrunk(path: Path) -> tuple[str, int]:
    write(path.parent, path.name, SIZE - 70_000, content_name="new")
    return "new", SIZE - 70_000


def touched(path: Path) -> tuple[str, int]:
    age(path, SETTLED / 2)
    return path.name, SIZE


def replaced(path: Path) -> tuple[str, int]:
    write(path.parent, path.name, SIZE, content_name="new", age=SETTLED - 1)
    return "new", SIZE


def rewritten(path: Path) -> tuple[str, int]:
    with open(path, "r+b") as file:
        file.write(content("new", 0, SIZE))
    age(path, SETTLED / 2)
    return "new", SIZE


def truncated(path: Path) -> tuple[str, int]:
    os.truncate(path, SIZE // 2)
    age(path, SETTLED / 2)
    return path.name, SIZE // 2


def appended(path: Path) -> tuple[str, int]:
    with open(path, "ab") as file:
        file.write(content(path.name, SIZE, SIZE + 70_000))
    age(path, SETTLED / 2)
    return path.name, SIZE + 70_000


BY_RENAME = (grown, shrunk, replaced)
CHANGES = (*BY_RENAME, touched, rewritten, truncated, appended)


# Asked at the right moments


def test_the_source_is_asked_once_in_the_freshness_time(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(source, "film", SIZE)
    cache = open_cache(source, source_options={"revalidate": 60.0})
    for _ in range(5):
        fetch(cache, "film")
    assert cache.statistics().source_opens == 1


def test_without_a_freshness_time_each_request_asks(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(source, "film", SIZE)
    cache = open_cache(source, source_options={"revalidate": 0.0})
    fetch(cache, "film")
    settle(cache, cache_dir)
    for count in (1, 2, 3):
        before = cache.statistics()
        assert fetch(cache, "film").status is CacheStatus.HIT
        after = cache.statistics()
        assert after.source_opens == before.source_opens + 1, count
        assert after.bytes_from_source == before.bytes_from_source


# Changed


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_file_is_seen_within_the_freshness_time(
    source: Path,
    cache_dir: Path,
    open_cache: OpenCache,
    change: Callable[[Path], tuple[str, int]],
) -> None:
    path = write(source, "film", SIZE)
    cache = open_cache(source, source_options=QUICK)
    fetch(cache, "film")
    settle(cache, cache_dir)
    (old_name,) = objects_in(cache_dir)
    with opened(cache, "film") as old:
        assert old.status is CacheStatus.HIT
        first = take(old, 0, 1000)
        name, size = change(path)
        changed = time.monotonic()

        def new_one() -> Answer | None:
            answer = fetch(cache, "film")
            if answer.status is CacheStatus.HIT and old_name in objects_in(cache_dir):
                assert_right(answer, "film", SIZE)
                return None
            return answer

        answer = eventually(new_one)
        assert time.monotonic() - changed < REVALIDATE + SLACK
        assert_right(answer, name, size)
        # The old reader keeps the old version to its end.
        assert verify("film", 0, first + read(old, 1000, SIZE)) is None
    settle(cache, cache_dir)
    assert list(objects_in(cache_dir).values()) == [size]
    assert old_name not in objects_in(cache_dir)
    answer = fetch(cache, "film")
    assert answer.status is CacheStatus.HIT
    assert_right(answer, name, size)


class Reading:
    """A reader in a greenlet of its own: what it got, and how it ended."""

    def __init__(self, cache: StreamCache, path: str) -> None:
        self.data = bytearray()
        self.error: Exception | None = None
        self.size = -1
        self._greenlet = gevent.spawn(self._run, cache, path)

    def _run(self, cache: StreamCache, path: str) -> None:
        try:
            with opened(cache, path) as delegate:
                self.size = delegate.size
                while len(self.data) < delegate.size:
                    self.data += take(delegate, len(self.data), delegate.size)
        except (SourceError, SourceChanged) as error:
            self.error = error

    def join(self) -> None:
        self._greenlet.join(10)
        self._greenlet.get(block=False)

    @property
    def whole(self) -> bool:
        return self.error is None and len(self.data) == self.size


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_while_the_file_is_copied_never_mixes_versions(
    fast: SlowFS,
    cache_dir: Path,
    open_cache: OpenCache,
    change: Callable[[Path], tuple[str, int]],
    readers: int,
) -> None:
    path = write(fast.backing, "film", SIZE)
    cache = open_cache(fast.path, source_options=QUICK, copy={"in_flight": 2})
    gate = fast.fault("hang", "film", operations=("read",), start=SIZE // 2)
    old = [Reading(cache, "film") for _ in range(readers)]
    eventually(lambda: fast.counters().hanging and all(len(each.data) > 100 for each in old))
    assert not any(each.whole for each in old)

    name, size = change(path)
    gevent.sleep(REVALIDATE)
    if change in BY_RENAME:
        new = Reading(cache, "film")
        eventually(lambda: new.size == size)
        fast.release(gate)
    else:  # the kernel keeps an open waiting while a read of the same file hangs
        fast.release(gate)
        for each in old:
            each.join()
        new = Reading(cache, "film")
    for each in (*old, new):
        each.join()
    in_place = change in (touched, rewritten, truncated)
    for each in old:
        assert each.size == SIZE
        assert verify("film", 0, each.data) is None  # nothing of the new version
        assert each.whole != in_place, each.error
        if in_place:
            assert isinstance(each.error, SourceChanged)
    assert new.whole and new.size == size
    assert verify(name, 0, new.data) is None
    settle(cache, cache_dir)
    assert set(objects_in(cache_dir).values()) <= {size}
    assert not partials_in(cache_dir)
    assert_right(fetch(cache, "film"), name, size)
    settle(cache, cache_dir)
    assert list(objects_in(cache_dir).values()) == [size]


def test_readers_of_an_old_version_share_its_bytes(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = write(fast.backing, "film", SIZE)
    cache = open_cache(fast.path, source_options=QUICK, copy={"in_flight": 2})
    gate = fast.fault("hang", "film", operations=("read",), start=SIZE // 2)
    old = [Reading(cache, "film") for _ in range(5)]
    eventually(lambda: fast.counters().hanging and all(len(each.data) > 100 for each in old))
    replaced(path)
    gevent.sleep(REVALIDATE)
    cache.find("/film").close()
    fast.release(gate)
    for each in old:
        each.join()
        assert each.whole
        assert verify("film", 0, each.data) is None
    assert fast.repeated("film") == 0
    settle(cache, cache_dir)
    assert disk_usage(cache_dir) == 0
    said = r"copy given up, file changed or purged path='/film' present=\d+ bytes=\d+ readers=5"
    assert any(re.fullmatch(said, line) for line in caplog.messages), caplog.text


# Gone


def test_a_file_that_is_gone_is_404_and_its_object_goes(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    path = write(source, "film", SIZE)
    cache = open_cache(source, source_options=QUICK)
    fetch(cache, "film")
    settle(cache, cache_dir)
    with opened(cache, "film") as old:
        first = take(old, 0, 1000)
        path.unlink()
        gone = time.monotonic()

        def missing() -> bool:
            try:
                return not fetch(cache, "film")
            except NotFound:
                return True

        eventually(missing)
        assert time.monotonic() - gone < REVALIDATE + SLACK
        eventually(lambda: not objects_in(cache_dir))
        assert cache.statistics().usage == disk_usage(cache_dir) > 0  # in trash/, as it is read
        assert verify("film", 0, first + read(old, 1000, SIZE)) is None
    eventually(lambda: disk_usage(cache_dir) == 0 == cache.statistics().usage)


def test_a_partial_of_a_file_that_is_gone_goes_too(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    path = write(fast.backing, "film", SIZE)
    options = {"when_idle": "stop", "in_flight": 1}
    cache = open_cache(fast.path, source_options=QUICK, copy=options)
    gate = fast.fault("hang", "film", operations=("read",), start=SIZE // 2)
    with opened(cache, "film"):
        eventually(lambda: cache.statistics().sessions[0].present)
    fast.release(gate)
    settle(cache, cache_dir)
    assert partials_in(cache_dir)
    path.unlink()
    gevent.sleep(REVALIDATE)
    with pytest.raises(NotFound):
        cache.find("/film")
    eventually(lambda: not partials_in(cache_dir))
    settle(cache, cache_dir)
    assert cache.statistics().usage == 0


def test_a_missing_file_is_remembered_for_a_second(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    cache = open_cache(source)
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(NotFound):
            cache.find("/film")
    assert cache.statistics().source_opens == 1
    write(source, "film", SIZE)

    def there() -> Answer | None:
        try:
            return fetch(cache, "film")
        except NotFound:
            return None

    answer = eventually(there)
    assert 0.9 < time.monotonic() - started < 1.0 + SLACK
    assert_right(answer, "film", SIZE)
    assert cache.statistics().source_opens == 2


# Still being written


def test_a_file_that_is_being_written_is_served_past_the_cache(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    path = write(source, "film", SIZE, age=0)
    cache = open_cache(source, source_options={"revalidate": 0.0, "settle": 5.0})
    answer = fetch(cache, "film")
    assert answer.status is CacheStatus.BYPASS
    assert_right(answer, "film", SIZE)
    assert disk_usage(cache_dir) == 0 and cache.statistics().usage == 0
    age(path, 6)
    assert fetch(cache, "film").status is CacheStatus.MISS
    settle(cache, cache_dir)
    assert fetch(cache, "film").status is CacheStatus.HIT


def test_a_file_that_grows_is_served_at_the_size_it_had(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    path = write(source, "film", SIZE, age=0)
    cache = open_cache(source, source_options={"revalidate": 0.0})
    with opened(cache, "film") as first:
        data = take(first, 0, SIZE)
        assert len(data) < SIZE
        size = SIZE
        while len(data) < SIZE:
            with open(path, "ab") as file:
                file.write(content("film", size, size + 1000))
            size += 1000
            data += take(first, len(data), SIZE)
        assert verify("film", 0, data) is None
        answer = fetch(cache, "film")
        assert (answer.status, answer.size) == (CacheStatus.BYPASS, size)
        assert_right(answer, "film", size)


@pytest.mark.parametrize("change", [touched, rewritten, truncated], ids=lambda c: c.__name__)
def test_any_other_change_while_it_is_written_cuts_the_answer(
    source: Path,
    cache_dir: Path,
    open_cache: OpenCache,
    change: Callable[[Path], tuple[str, int]],
) -> None:
    path = write(source, "film", SIZE, age=0)
    cache = open_cache(source, source_options={"revalidate": 0.0})
    with opened(cache, "film") as delegate:
        data = take(delegate, 0, SIZE)
        change(path)
        with pytest.raises(SourceChanged):
            while len(data) < SIZE:
                data += take(delegate, len(data), SIZE)
    assert verify("film", 0, data) is None


# The source cannot be reached


def warm_and_cold(
    fs_backing: Path, path: Path, open_cache: OpenCache, cache_dir: Path, **options: float
) -> StreamCache:
    """A cache that has "warm", and not "cold"."""
    write(fs_backing, "warm", SIZE)
    write(fs_backing, "cold", SIZE)
    cache = open_cache(path, source_options={"revalidate": 0.1, "timeout": 2.0, **options})
    fetch(cache, "warm")
    settle(cache, cache_dir)
    return cache


def until_stale(cache: StreamCache, path: str = "warm") -> Answer:
    """The first answer that is stale; all before it were hits."""

    def stale() -> Answer | None:
        answer = fetch(cache, path)
        assert_right(answer, path, SIZE)
        assert answer.status in (CacheStatus.HIT, CacheStatus.STALE)
        return answer if answer.status is CacheStatus.STALE else None

    return eventually(stale)


def assert_nothing_dropped(cache: StreamCache, cache_dir: Path) -> None:
    assert list(objects_in(cache_dir).values()) == [SIZE]
    settle(cache, cache_dir)


def test_an_unmounted_source_drops_nothing(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, serve: Callable[[StreamCache], Client]
) -> None:
    cache = warm_and_cold(fast.backing, fast.path, open_cache, cache_dir)
    client = serve(cache)
    mounting.unmount(str(fast.path))
    assert fast.path.is_dir() and not list(fast.path.iterdir())
    until_stale(cache)
    with pytest.raises(SourceUnavailable):
        cache.open("/cold")
    for path in ("/cold", "/never-there", "/cold"):
        answer = client.ask(path)
        assert answer.status in (503, 504)
        assert "retry-after" in answer.fields or answer.status == 504
    answer = client.ask("/warm")
    assert answer.status == 200
    assert answer.fields["cache-status"].startswith("streamcache; fwd=stale")
    assert verify("warm", 0, answer.body) is None
    assert_nothing_dropped(cache, cache_dir)


def test_a_source_that_is_not_mounted_at_the_start_drops_nothing(
    fast: SlowFS, cache_dir: Path
) -> None:
    write(fast.backing, "warm", SIZE)
    with StreamCache(fast.path, cache_dir, 1 << 30) as cache:
        fetch(cache, "warm")
        settle(cache, cache_dir)
    mounting.unmount(str(fast.path))
    with StreamCache(fast.path, cache_dir, 1 << 30) as cache:
        answer = fetch(cache, "warm")
        assert answer.status is CacheStatus.STALE
        assert_right(answer, "warm", SIZE)
        with pytest.raises(SourceUnavailable):
            cache.find("/never-there")
        assert_nothing_dropped(cache, cache_dir)


def test_a_source_folder_that_was_renamed_drops_nothing(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    cache = warm_and_cold(source, source, open_cache, cache_dir)
    away = source.rename(source.with_name("away"))
    until_stale(cache)
    with pytest.raises(SourceUnavailable):
        cache.open("/cold")
    assert_nothing_dropped(cache, cache_dir)
    away.rename(source)
    eventually(lambda: fetch(cache, "warm").status is CacheStatus.HIT)
    assert_right(fetch(cache, "cold"), "cold", SIZE)


@pytest.mark.parametrize(
    ("status", "method", "path", "field"),
    [
        (200, "GET", "/empty", "Accept: */*"),
        (200, "HEAD", "/cold", "Accept: */*"),
        (304, "GET", "/cold", "If-None-Match: {tag}"),
        (412, "GET", "/cold", 'If-Match: "another"'),
        (416, "GET", "/cold", f"Range: bytes={SIZE}-"),
    ],
)
def test_what_needs_no_byte_that_the_cache_lacks_is_answered_while_the_source_is_away(
    fast: SlowFS,
    cache_dir: Path,
    open_cache: OpenCache,
    serve: Callable[[StreamCache], Client],
    status: int,
    method: str,
    path: str,
    field: str,
) -> None:
    """The first request as the later ones."""
    write(fast.backing, "empty", 0, age=0)  # so it is no object
    options = {"revalidate": 0.0, "revalidate_wait": 0.05, "timeout": 0.5}
    cache = warm_and_cold(fast.backing, fast.path, open_cache, cache_dir, **options)
    client = serve(cache)
    field = field.format(tag=client.ask("/cold", method="HEAD").fields["etag"])

    def ask() -> Response:
        answer = client.ask(path, field, method=method)
        assert answer.status == status
        return answer

    assert "stale" not in ask().fields["cache-status"]
    for kind in ("hang", "EIO"):
        away = fast.fault(kind)
        for _ in range(4):
            assert ask().fields["cache-status"].startswith("streamcache; fwd=stale")
            for lacking in ("/cold", "/unknown"):
                assert client.ask(lacking).status in (503, 504)
        fast.release(away)
        eventually(lambda: "stale" not in ask().fields["cache-status"])
    assert_nothing_dropped(cache, cache_dir)


def test_what_is_known_is_no_longer_stale_after_the_time_for_that(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    options = {"revalidate": 0.0, "stale_if_error": 0.0}
    cache = warm_and_cold(fast.backing, fast.path, open_cache, cache_dir, **options)
    cache.find("/cold").close()
    fast.fault("EIO")
    for path in ("/cold", "/warm"):
        with pytest.raises(SourceUnavailable):
            cache.find(path)


def test_a_source_that_is_only_slow_is_waited_for_where_the_cache_has_nothing(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, serve: Callable[[StreamCache], Client]
) -> None:
    """What was known is not so any more, perhaps."""
    path = write(fast.backing, "film", SIZE)
    options = {"revalidate": 0.0, "revalidate_wait": 0.02}
    pausing = {"when_idle": "stop", "in_flight": 1}
    cache = open_cache(fast.path, source_options=options, copy=pausing)
    client = serve(cache)
    tag = client.ask("/film", method="HEAD").fields["etag"]
    fast.set(meta_latency=0.1)

    def begin_a_copy(name: str) -> None:
        gate = fast.fault("hang", "film", operations=("read",), start=SIZE // 2)
        opens = cache.statistics().source_opens
        with opened(cache, "film") as delegate:
            assert delegate.status is CacheStatus.MISS
            assert verify(name, 0, take(delegate, 0, 1000)) is None
        assert cache.statistics().source_opens == opens + 1
        fast.release(gate)
        settle(cache, cache_dir)
        assert partials_in(cache_dir)

    begin_a_copy("film")
    name, size = grown(path)
    for field, method, status in (
        (f"If-None-Match: {tag}", "GET", 200),
        (f"Range: bytes={SIZE}-", "GET", 206),
        (f"If-Match: {tag}", "GET", 412),
        ("Accept: */*", "HEAD", 200),
    ):
        answer = client.ask("/film", field, method=method)
        assert answer.status == status, field
        assert answer.fields.get("etag") != tag
    settle(cache, cache_dir)
    assert_right(fetch(cache, "film"), name, size)
    path.unlink()
    with pytest.raises(NotFound):  # what the cache has is served until the source has said so
        eventually(lambda: cache.find("/film").close())
    eventually(lambda: not (partials_in(cache_dir) or objects_in(cache_dir)))


@pytest.mark.parametrize(("change", "error"), [(grown, SourceChanged), (Path.unlink, NotFound)])
def test_what_was_found_stale_is_asked_for_again_by_who_needs_its_bytes(
    fast: SlowFS,
    cache_dir: Path,
    open_cache: OpenCache,
    change: Callable[[Path], object],
    error: type[Exception],
) -> None:
    path = write(fast.backing, "film", SIZE)
    cache = open_cache(fast.path, source_options={"revalidate": 3600.0})
    cache.find("/film").close()
    cache.operations.purge(Selection.of(path="/film"), mode="soft")
    away = fast.fault("EIO")
    for _ in range(3):  # asked once, and then not again so soon
        with cache.find("/film") as found:
            assert found.status is CacheStatus.STALE
    with cache.find("/film") as found:
        fast.release(away)
        change(path)
        with pytest.raises(error):
            found.open()
    settle(cache, cache_dir)


@pytest.mark.parametrize("code", ["EIO", "ESTALE", "EMFILE", "ENOMEM", "ETIMEDOUT"])
def test_a_source_that_fails_says_nothing_about_the_file(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, code: str
) -> None:
    cache = warm_and_cold(fast.backing, fast.path, open_cache, cache_dir)
    fault = fast.fault(code)
    until_stale(cache)
    with pytest.raises(SourceUnavailable):
        cache.open("/cold")
    assert_nothing_dropped(cache, cache_dir)
    fast.release(fault)
    eventually(lambda: fetch(cache, "warm").status is CacheStatus.HIT)


def test_a_file_is_no_longer_served_stale_after_the_time_for_that(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    cache = warm_and_cold(source, source, open_cache, cache_dir, stale_if_error=0.5)
    source.rename(source.with_name("away"))
    until_stale(cache)

    def refused() -> bool:
        try:
            return not fetch(cache, "warm")
        except SourceUnavailable:
            return True

    eventually(refused)
    assert_nothing_dropped(cache, cache_dir)


def test_while_the_source_hangs_only_the_first_request_waits(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    wait = 0.3
    cache = warm_and_cold(fast.backing, fast.path, open_cache, cache_dir, revalidate_wait=wait)
    hang = fast.fault("hang")
    gevent.sleep(0.15)  # what is known is no longer fresh
    started = time.monotonic()
    answer = fetch(cache, "warm")
    assert wait - 0.05 < time.monotonic() - started < wait + SLACK
    assert answer.status is CacheStatus.STALE
    assert_right(answer, "warm", SIZE)
    for _ in range(10):
        started = time.monotonic()
        assert fetch(cache, "warm").status is CacheStatus.STALE
        assert time.monotonic() - started < 0.1
    started = time.monotonic()
    with pytest.raises(SourceTimeout):
        fetch(cache, "cold")
    assert 1.5 < time.monotonic() - started < 2.0 + SLACK
    assert_nothing_dropped(cache, cache_dir)
    fast.release(hang)
    eventually(lambda: fetch(cache, "warm").status is CacheStatus.HIT)
    assert_right(fetch(cache, "cold"), "cold", SIZE)


def test_a_copy_that_is_joined_while_the_source_does_not_answer_is_stale_too(
    fast: SlowFS, open_cache: OpenCache
) -> None:
    """Its version may have been replaced long ago: nobody could be asked."""
    write(fast.backing, "film", SIZE)
    cache = open_cache(fast.path, source_options=QUICK | {"revalidate_wait": 0.05})
    copying = fast.fault("hang", "film", operations=("read",), start=SIZE // 2)
    first = Reading(cache, "film")
    eventually(lambda: fast.counters().hanging and len(first.data) > 100)
    asking = fast.fault("hang", "film", operations=("lookup", "getattr", "open"))
    gevent.sleep(REVALIDATE)
    with opened(cache, "film") as joined:
        assert joined.status is CacheStatus.STALE
        assert verify("film", 0, take(joined, 0, 1000)) is None
    for fault in (asking, copying):
        fast.release(fault)
    first.join()
    assert first.whole


@pytest.mark.parametrize("kind", ["EIO", "hang"])
def test_a_source_that_is_down_right_after_a_restart_serves_the_newest_version(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, kind: str
) -> None:
    path = write(fast.backing, "film", SIZE)
    cache = open_cache(fast.path)
    fetch(cache, "film")
    settle(cache, cache_dir)
    cache.close()
    (older,) = (cache_dir / "objects").glob("*/*")
    kept = older.rename(cache_dir / "kept")
    name, size = grown(path)
    cache = open_cache(fast.path)
    fetch(cache, "film")
    eventually(lambda: at_rest(cache))
    cache.close()
    (newer,) = (cache_dir / "objects").glob("*/*")
    kept.rename(older)  # as if a restart had come before it was removed
    while newer.stat().st_ctime_ns <= older.stat().st_ctime_ns:  # stored after the other
        newer.rename(cache_dir / "moved").rename(newer)

    cache = open_cache(fast.path)
    fault = fast.fault(kind)
    try:
        answer = fetch(cache, "film")
        assert answer.status is CacheStatus.STALE
        assert_right(answer, name, size)
        hangs = SourceUnavailable("hangs")
        with pytest.raises(SourceUnavailable), gevent.Timeout(0.5, hangs):
            fetch(cache, "cold")
        assert len(objects_in(cache_dir)) == 2
    finally:
        fast.release(fault)
    eventually(lambda: fetch(cache, "film").status is CacheStatus.HIT)
