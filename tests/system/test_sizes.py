"""Files of any size are copied, served and found again: empty ones, and larger than 4 GiB."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.cache.blockmap import BLOCK
from streamcache.cache.space import footprint
from tests.content import SETTLED, content, verify, write
from tests.server.client import Client
from tests.slowfs import SlowFS
from tests.system.conftest import OpenCache
from tests.system.site import (
    MiB,
    assert_right,
    disk_usage,
    eventually,
    fetch,
    files_below,
    objects_in,
    opened,
    partials_in,
    read,
    settle,
)

GiB = 1024 * MiB
SIZES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 3 * MiB + 4097)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size_is_copied_and_served(
    source: Path, cache_dir: Path, open_cache: OpenCache, size: int
) -> None:
    path = write(source, "film", size)
    cache = open_cache(source)
    first = fetch(cache, "film")
    assert (first.status, first.size) == (CacheStatus.MISS, size)
    assert_right(first, "film", size)
    settle(cache, cache_dir)
    assert list(objects_in(cache_dir).values()) == [size]
    (stored,) = files_below(cache_dir).values()
    assert stored.st_mtime_ns == path.stat().st_mtime_ns
    assert stored.st_blocks * 512 <= footprint(size)

    for start in {0, size // 2, max(0, size - 1)}:
        again = fetch(cache, "film", start)
        assert again.status is CacheStatus.HIT
        assert_right(again, "film", size, start)
    assert cache.statistics().bytes_from_source == size
    cache.close()

    after = open_cache(source)
    answer = fetch(after, "film")
    assert answer.status is CacheStatus.HIT
    assert_right(answer, "film", size)


def test_an_empty_file_that_was_asked_for_is_an_object(
    fast: SlowFS,
    cache_dir: Path,
    open_cache: OpenCache,
    serve: Callable[[StreamCache], Client],
) -> None:
    """Also after a restart without its source, and if it was known before it was asked for."""
    write(fast.backing, "new", 0)
    write(fast.backing, "known", 0)
    options = {"revalidate": 60.0}
    cache = open_cache(fast.path, source_options=options)
    client = serve(cache)
    assert client.ask("/known", method="HEAD").fields["cache-status"] == "streamcache; fwd=miss"
    said = {path: client.ask(path).fields["cache-status"] for path in ("/new", "/known")}
    assert said["/new"] == "streamcache; fwd=miss; stored"
    eventually(lambda: len(objects_in(cache_dir)) == 2)
    settle(cache, cache_dir)
    for path in said:
        again = client.ask(path)
        assert (again.status, again.body) == (200, b"")
        assert again.fields["cache-status"] == "streamcache; hit"
    assert cache.statistics().requests == {"miss": 2, "hit": 2}
    cache.close()

    client = serve(open_cache(fast.path, source_options=options))
    fast.fault("EIO")
    for path in said:
        away = client.ask(path)
        assert (away.status, away.body) == (200, b"")
        assert away.fields["cache-status"].startswith("streamcache; fwd=stale")


def test_many_empty_files_cost_their_source_an_open_each_and_nothing_else(
    fast: SlowFS,
    cache_dir: Path,
    open_cache: OpenCache,
    serve: Callable[[StreamCache], Client],
) -> None:
    names = [f"empty{number}" for number in range(100)]
    for name in names:
        write(fast.backing, name, 0)
    cache = open_cache(fast.path)
    client = serve(cache)
    client.ask("/empty0", method="HEAD")  # the mount has been looked at
    fast.reset()
    for name in names[1:]:
        assert client.ask(f"/{name}").status == 200
    eventually(lambda: len(objects_in(cache_dir)) == len(names) - 1)
    settle(cache, cache_dir)
    asked = fast.counters()
    assert (asked.opens, asked.reads) == (len(names) - 1, 0)
    assert asked.lookups == len(names) - 1
    assert cache.statistics().source_opens == len(names)


def test_an_empty_file_that_is_being_written_is_no_object(
    source: Path,
    cache_dir: Path,
    open_cache: OpenCache,
    serve: Callable[[StreamCache], Client],
) -> None:
    write(source, "film", 0, age=0)
    cache = open_cache(source)
    client = serve(cache)
    for _ in range(3):
        assert client.ask("/film").fields["cache-status"] == "streamcache; fwd=bypass"
    settle(cache, cache_dir)
    assert not objects_in(cache_dir)
    assert cache.statistics().source_opens == 1


@pytest.mark.parametrize("size", SIZES[1:])
def test_its_last_byte_may_be_asked_for_first(
    source: Path, cache_dir: Path, open_cache: OpenCache, size: int
) -> None:
    write(source, "film", size)
    cache = open_cache(source)
    assert_right(fetch(cache, "film", size - 1), "film", size, size - 1)
    assert_right(fetch(cache, "film"), "film", size)
    settle(cache, cache_dir)
    assert list(objects_in(cache_dir).values()) == [size]


def test_a_file_larger_than_4_gib_is_read_near_its_end_and_left(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    size = 5 * GiB + 17
    places = (0, 2 * GiB - 100, 4 * GiB - 100, 4 * GiB + 12345, size - 200)
    with open(source / "film", "wb") as file:
        file.truncate(size)
        for place in places:
            os.pwrite(file.fileno(), content("film", place, min(place + 200, size)), place)
    old = time.time() - SETTLED
    os.utime(source / "film", (old, old))
    options = {"copy": {"when_idle": "stop", "max_bandwidth": MiB}}
    cache = open_cache(source, 8 * GiB, **options)
    with opened(cache, "film") as delegate:
        for place in places:
            stop = min(place + 200, size)
            assert verify("film", place, read(delegate, place, stop)) is None
    settle(cache, cache_dir)
    assert disk_usage(cache_dir) < 64 * MiB
    assert cache.statistics().bytes_from_source < 64 * MiB
    cache.close()

    (partial,) = partials_in(cache_dir)
    assert partial.header.size == size
    assert all(partial.present[place // BLOCK] for place in places)
    cache = open_cache(source, 8 * GiB, **options)
    with opened(cache, "film") as delegate:
        eventually(lambda: cache.statistics().sessions[0].state == "copying")
        before = cache.statistics().bytes_from_source
        ready = delegate.ready(places[-1], size)
        assert ready.fd >= 0  # from the partial
        assert cache.statistics().bytes_from_source - before == 0
        assert verify("film", places[-1], os.pread(ready.fd, ready.length, places[-1])) is None
