"""Files of any size are copied, served and found again: empty ones, and larger than 4 GiB."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from streamcache import CacheStatus
from streamcache.cache.blockmap import BLOCK
from streamcache.cache.space import footprint
from tests.content import SETTLED, content, verify, write
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
