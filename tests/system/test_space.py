"""The limit of the cache is never passed, and nobody pays for room with a wrong or missing byte."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from unittest import mock

import gevent
import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.cache import locks
from tests.content import verify, write
from tests.slowfs import SlowFS
from tests.system.conftest import OpenCache
from tests.system.holding import holding
from tests.system.site import (
    KEPT,
    WAIT,
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
    tidy,
)


class Sampler:
    """Looks at the cache directory all the time, in a thread of its own.

    A walk is not a moment. What two walks in a row found was there at the moment between them,
    and files only grow: the blocks that the first one saw are no more than what was taken then.
    """

    def __init__(self, cache_dir: Path) -> None:
        self.highest = 0
        self.samples = 0
        self._dir = cache_dir
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextlib.contextmanager
    def running(self) -> Iterator[Sampler]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        before = self._walk()
        while not self._stop.wait(0.001):
            now = self._walk()
            total = sum(blocks for file, blocks in before.items() if file in now)
            self.highest = max(self.highest, total)
            self.samples += 1
            before = now

    def _walk(self) -> dict[tuple[int, int], int]:
        found = {}
        for kind in KEPT:
            for folder, _, names in os.walk(self._dir / kind):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        stat = os.lstat(os.path.join(folder, name))
                        found[stat.st_ino, stat.st_mtime_ns] = stat.st_blocks * 512
        return found


def crowd(cache: StreamCache, sizes: dict[str, int], seed: int) -> None:
    """One client: some files, from somewhere, now and then leaving early."""
    random = Random(seed)
    for _ in range(10):
        name = random.choice(list(sizes))
        size = sizes[name]
        start = random.choice((0, random.randrange(size)))
        stop = random.choice((size, random.randint(start + 1, size)))
        answer = fetch(cache, name, start, stop, client=str(seed))
        assert len(answer.data) == stop - start
        assert verify(name, start, answer.data) is None


@pytest.mark.parametrize("when_idle", ["finish", "stop"])
@pytest.mark.parametrize("policy", ["s3fifo", "lru"])
def test_the_limit_is_never_passed(
    source: Path, cache_dir: Path, open_cache: OpenCache, when_idle: str, policy: str
) -> None:
    limit = 6 * MiB
    random = Random(3)
    sizes = {f"film{n}": random.randint(1, 2 * MiB) for n in range(24)}
    for name, size in sizes.items():
        write(source, name, size)
    cache = open_cache(
        source, limit, copy={"when_idle": when_idle, "max_idle": 4}, cache={"policy": policy}
    )
    with Sampler(cache_dir).running() as sampler:
        clients = [gevent.spawn(crowd, cache, sizes, seed) for seed in range(6)]
        gevent.joinall(clients, raise_error=True)
        settle(cache, cache_dir)
    assert sampler.samples > 10
    assert limit // 2 < sampler.highest <= limit
    assert cache.statistics().evictions > 0


def filled(source: Path, cache: StreamCache, cache_dir: Path, count: int = 3) -> set[str]:
    """Objects of 1 MiB; their names on disk."""
    for number in range(count):
        write(source, f"small{number}", MiB)
        fetch(cache, f"small{number}")
    settle(cache, cache_dir)
    return set(objects_in(cache_dir))


@pytest.mark.parametrize("limits", ["cache.size", "cache.max_file_size"])
def test_a_file_that_is_too_large_passes_by_and_evicts_nothing(
    source: Path, cache_dir: Path, open_cache: OpenCache, limits: str
) -> None:
    size = 5 * MiB
    write(source, "large", size)
    if limits == "cache.size":
        cache = open_cache(source, 4 * MiB)
    else:
        cache = open_cache(source, 64 * MiB, cache={"max_file_size": 4 * MiB})
    before = filled(source, cache, cache_dir)
    for _ in range(2):
        answer = fetch(cache, "large")
        assert answer.status is CacheStatus.BYPASS
        assert_right(answer, "large", size)
        assert_right(fetch(cache, "large", size - 10), "large", size, size - 10)
    settle(cache, cache_dir)
    assert set(objects_in(cache_dir)) == before
    assert not partials_in(cache_dir)
    statistics = cache.statistics()
    assert statistics.evictions == 0
    assert statistics.requests["bypass"] == 4
    assert fetch(cache, "small0").status is CacheStatus.HIT


def test_without_cleanup_a_full_cache_stays_as_it_is(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    cache = open_cache(source, 4 * MiB, cache={"cleanup": False})
    before = filled(source, cache, cache_dir)
    for number in range(3):
        write(source, f"more{number}", MiB)
        assert_right(fetch(cache, f"more{number}"), f"more{number}", MiB)
    settle(cache, cache_dir)
    assert set(objects_in(cache_dir)) == before
    assert cache.statistics().evictions == 0
    assert fetch(cache, "small0").status is CacheStatus.HIT


def test_without_cleanup_what_does_not_fit_any_more_is_a_bypass(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    cache = open_cache(source, 4 * MiB, cache={"cleanup": False})
    filled(source, cache, cache_dir)
    write(source, "more", MiB)
    with cache.find("/more") as found:
        assert found.status is CacheStatus.BYPASS
    assert fetch(cache, "more").status is CacheStatus.BYPASS


def test_what_is_read_is_never_taken(source: Path, cache_dir: Path, open_cache: OpenCache) -> None:
    cache = open_cache(source, 4 * MiB)
    filled(source, cache, cache_dir, 2)
    with opened(cache, "small0") as reader:
        data = take(reader, 0, 1000)
        assert reader.status is CacheStatus.HIT
        held = objects_in(cache_dir)
        # On a busy machine some are read to their end before there is room, and are not kept.
        for number in range(40):
            write(source, f"more{number}", MiB)
            fetch(cache, f"more{number}")
            settle(cache, cache_dir)
            if cache.statistics().evictions >= 7:
                break
        assert cache.statistics().evictions >= 7
        assert len(set(held) & set(objects_in(cache_dir))) == 1
        assert fetch(cache, "small0").status is CacheStatus.HIT
        assert verify("small0", 0, data + read(reader, 1000, MiB)) is None


def test_where_all_is_read_new_files_pass_by(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """Nothing can be evicted, so nobody waits for that."""
    cache = open_cache(source, 4 * MiB)
    before = filled(source, cache, cache_dir)
    write(source, "more", 3 * MiB)
    with contextlib.ExitStack() as stack:
        for number in range(3):
            assert stack.enter_context(opened(cache, f"small{number}")).status is CacheStatus.HIT
        with gevent.Timeout(5):
            assert_right(fetch(cache, "more"), "more", 3 * MiB)
        settle(cache, cache_dir)
        assert set(objects_in(cache_dir)) == before


def test_a_lease_that_races_eviction_keeps_no_unlinked_file(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """Its blocks would be in no account."""
    write(source, "film", MiB)
    cache = open_cache(source)
    fetch(cache, "film")
    settle(cache, cache_dir)
    parts = cache._parts
    (name,) = objects_in(cache_dir)
    parts.objects._forget(name)  # as when many others were used since
    with holding(parts.store.objects, "open", after=True) as held:
        reader = gevent.spawn(fetch, cache, "film")
        eventually(lambda: held.entered)
        parts.provider._removal.remove([name], "f")
        eventually(lambda: tidy(cache))
        held.release()
        answer = reader.get(timeout=WAIT)
    # The open was overtaken and made again. What it had had the lock of a reader, so it went to the
    # trash, and counts there until it is closed.
    assert answer.status is CacheStatus.MISS
    assert_right(answer, "film", MiB)
    settle(cache, cache_dir)
    eventually(lambda: not unlinked_and_open(cache_dir))
    parts.recovery.sweep()
    settle(cache, cache_dir)
    assert objects_in(cache_dir) == {name: MiB}
    assert os.listdir(cache_dir / "trash") == []
    assert fetch(cache, "film").status is CacheStatus.HIT


def unlinked_and_open(cache_dir: Path) -> list[str]:
    """Files of the cache that only a descriptor of ours keeps."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in found if str(cache_dir) in path and path.endswith("(deleted)")]


# Copies that nobody reads


def test_a_copy_stops_with_its_last_reader_when_told_so(
    slowfs: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    size = 8 * MiB
    slowfs.set(latency=0.002, meta_latency=0, bandwidth=20 * MiB)
    write(slowfs.backing, "film", size)
    cache = open_cache(slowfs.path, copy={"when_idle": "stop"})
    with opened(cache, "film") as delegate:
        data = b""
        while len(data) < MiB:
            data += take(delegate, len(data), size)
    settle(cache, cache_dir)
    stopped = slowfs.counters("film").bytes_read
    assert stopped < size // 2
    assert not objects_in(cache_dir)
    (partial,) = partials_in(cache_dir)
    assert partial.present_bytes == stopped == cache.statistics().bytes_from_source
    assert cache.statistics().copies_cancelled == 1
    assert_right(fetch(cache, "film"), "film", size)
    settle(cache, cache_dir)
    assert slowfs.counters("film").bytes_read == size
    assert list(objects_in(cache_dir).values()) == [size]


def test_only_some_copies_without_a_reader_run_at_once(
    slowfs: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    size = 2 * MiB
    names = [f"film{number}" for number in range(6)]
    slowfs.set(latency=0.002, meta_latency=0, bandwidth=20 * MiB)
    for name in names:
        write(slowfs.backing, name, size)
    cache = open_cache(slowfs.path, copy={"max_idle": 2})
    for name in names:
        fetch(cache, name, 0, 100)  # zapping through
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, sum(not each.readers for each in cache.statistics().sessions))
        return len(objects_in(cache_dir)) == len(names)

    eventually(done)
    assert most == 2
    settle(cache, cache_dir)
    assert slowfs.counters().bytes_read == len(names) * size  # each byte once, for all the pauses
    for name in names:
        answer = fetch(cache, name)
        assert answer.status is CacheStatus.HIT
        assert_right(answer, name, size)


def test_an_idle_partial_goes_before_any_object(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(fast.backing, "left", 2 * MiB)
    cache = open_cache(fast.path, 5 * MiB, copy={"when_idle": "stop"})
    hang = fast.fault("hang", "left", operations=("read",), start=MiB)
    with opened(cache, "left"):
        eventually(lambda: cache.statistics().sessions[0].present >= MiB // 2)
    fast.release(hang)
    settle(cache, cache_dir)
    assert partials_in(cache_dir)
    for number in range(3):
        write(fast.backing, f"small{number}", MiB)
        fetch(cache, f"small{number}")
        settle(cache, cache_dir)
    write(fast.backing, "more", MiB + MiB // 2)
    fetch(cache, "more")
    settle(cache, cache_dir)
    assert not partials_in(cache_dir)
    assert disk_usage(cache_dir) <= 5 * MiB


def test_a_partial_that_is_being_dropped_is_not_begun_meanwhile(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """Its unlink would hit the new copy, which waits for it; one that waits too long is none."""
    size = 8 * MiB
    write(source, "film", size)
    cache = open_cache(source, copy={"when_idle": "stop", "max_bandwidth": 8 * MiB})
    parts = cache._parts
    for patience in (locks.LOCK_WAIT, 0.1):
        with opened(cache, "film") as delegate:
            take(delegate, 0, MiB)
            eventually(lambda: cache.statistics().sessions[0].present)
        eventually(lambda: parts.ledger.reservations() and at_rest(cache))
        with (
            holding(parts.store.partials, "remove") as held,
            mock.patch.object(locks, "LOCK_WAIT", patience),
        ):
            dropping = gevent.spawn(parts.recovery.drop_oldest, 1 << 40)
            eventually(lambda: held.entered)
            reader = gevent.spawn(fetch, cache, "film")
            if patience < 1:
                answer = reader.get(timeout=WAIT)
                assert answer.status is CacheStatus.BYPASS
                assert_right(answer, "film", size)
            else:
                gevent.sleep(0.05)
                assert not reader.ready()
        dropping.get(timeout=WAIT)
        assert_right(reader.get(timeout=WAIT), "film", size)
        settle(cache, cache_dir)
        if patience >= 1:
            (name,) = objects_in(cache_dir)
            parts.objects.discard(name)  # and once more
    assert_right(fetch(cache, "film"), "film", size)
    settle(cache, cache_dir)
    assert list(objects_in(cache_dir).values()) == [size]


def test_idle_copies_go_on_although_others_that_paused_were_deleted(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """A paused copy that cannot be resumed gives its turn to the next one."""
    names = [f"film{number}" for number in range(10)]
    for name in names:
        write(source, name, MiB // 2)
    cache = open_cache(
        source,
        source_options={"revalidate": 0.0},
        copy={"max_idle": 1, "max_bandwidth": 2 * MiB},
    )
    for name in names:
        with opened(cache, name) as delegate:
            take(delegate, 0, 1)
    deleted = list(cache._parts.provider.copies.fills._paused)[:6]
    assert len(deleted) == 6
    for name in deleted:
        (source / name).unlink()
    eventually(lambda: len(objects_in(cache_dir)) == 4)
    settle(cache, cache_dir)
    left = [name for name in names if name not in deleted]
    assert [fetch(cache, name).status for name in left] == [CacheStatus.HIT] * 4
