"""``cache.checksum``: digests live and go with their objects, and tell what the times do not."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.cache.blockmap import BLOCK
from streamcache.cache.digests import Digests, digest
from streamcache.cache.selection import Selection
from streamcache.errors import ConfigError, StreamCacheError
from tests.content import verify, write
from tests.inspection.filled import objects
from tests.server.client import Client
from tests.system.conftest import OpenCache
from tests.system.site import (
    MiB,
    assert_right,
    at_rest,
    config,
    eventually,
    fetch,
    opened,
    partials_in,
    read,
    settle,
    take,
)

SIZE = 2 * MiB + 5
XXH3 = {"checksum": "xxh3"}


def sums(at: Path) -> list[Path]:
    return sorted([*at.glob("objects/*/*.sums"), *at.glob("partial/*.sums")])


def assert_recorded(path: Path) -> None:
    """All blocks of this object, and they are right."""
    size = path.stat().st_size
    found = Digests.read(f"{path}.sums", size)
    assert found is not None and all(found.recorded)
    with open(path, "rb") as file:
        assert found.wrong(file.fileno(), 0, len(found.recorded), size, digest()) == []


def rot(path: Path, offset: int) -> None:
    """A bit of the disk: no time tells."""
    before = path.stat()
    with open(path, "r+b") as file:
        there = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([there[0] ^ 4]), offset)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """This process has all that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_it_nothing_is_recorded(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(source, "film", SIZE)
    cache = open_cache(source)
    fetch(cache, "film")
    settle(cache, cache_dir)
    assert len(objects(cache_dir)) == 1 and not sums(cache_dir)


def test_digests_are_recorded_counted_and_go_with_their_objects(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    for name in ("one", "two", "three", "empty"):
        write(source, name, 0 if name == "empty" else SIZE)
    cache = open_cache(source, 6 * MiB, cache=XXH3)
    for name in ("one", "empty", "two", "three"):
        assert_right(fetch(cache, name), name, 0 if name == "empty" else SIZE)
        settle(cache, cache_dir)  # the account counts them too
    eventually(lambda: cache.statistics().evictions > 0)
    for path in objects(cache_dir):
        if path.stat().st_size:
            assert_recorded(path)
    assert {f"{path}.sums" for path in objects(cache_dir)} == {str(p) for p in sums(cache_dir)}
    settle(cache, cache_dir)
    cache.close()
    os.unlink(cache_dir / "catalog.sqlite")
    cache = open_cache(source, 6 * MiB)  # and a rebuild, without the option
    settle(cache, cache_dir)
    for path in objects(cache_dir):
        if path.stat().st_size:
            assert_recorded(path)
    write(source, "three", SIZE, content_name="new", age=1800)
    assert_right(fetch(cache, "three"), "new", SIZE)
    settle(cache, cache_dir)
    assert {str(p) for p in sums(cache_dir)} <= {f"{path}.sums" for path in objects(cache_dir)}


def test_a_copy_that_is_continued_has_the_digests_of_both_lives(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(source, "film", 8 * MiB)
    cache = open_cache(source, cache=XXH3, copy={"when_idle": "stop", "max_bandwidth": MiB})
    with opened(cache, "film") as film:
        take(film, 0, 1000)
        take(film, 5 * MiB, 5 * MiB + 1000)
        session = next(iter(cache._parts.provider.copies.sessions.values()))
        eventually(lambda: session.map.present > 4)
    cache.close()
    (partial,) = partials_in(cache_dir)
    found = Digests.read(str(partial.data).removesuffix(".data") + ".sums", 8 * MiB)
    assert found is not None
    for block, present in enumerate(partial.present):
        assert not present or found.recorded[block]
    cache = open_cache(source, cache=XXH3)
    assert_right(fetch(cache, "film"), "film", 8 * MiB)
    settle(cache, cache_dir)
    (path,) = objects(cache_dir)
    assert_recorded(path)
    assert cache.statistics().bytes_from_source < 8 * MiB


def started_again(source: Path, cache_dir: Path, open_cache: OpenCache) -> StreamCache:
    """With a film that it cached before, and has not compared yet."""
    write(source, "film", SIZE)
    options = {**XXH3, "checksum_on_read": True}
    cache = open_cache(source, cache=options)
    fetch(cache, "film")
    settle(cache, cache_dir)
    cache.close()
    return open_cache(source, cache=options)


def test_what_has_rotted_is_not_served_on_the_first_read_after_a_start(
    source: Path,
    cache_dir: Path,
    open_cache: OpenCache,
    serve: Callable[[StreamCache], Client],
) -> None:
    write(source, "film", SIZE)
    write(source, "sound", SIZE)
    options = {**XXH3, "checksum_on_read": True}
    cache = open_cache(source, cache=options)
    for name in ("film", "sound"):
        fetch(cache, name)
    settle(cache, cache_dir)
    cache.close()
    film = next(p for p in objects(cache_dir) if verify("film", 0, p.read_bytes()) is None)
    rot(film, SIZE - MiB)
    cache = open_cache(source, cache=options)
    client = serve(cache)
    assert verify("sound", 0, client.ask("/sound").body) is None
    assert cache.statistics().objects_damaged == 0
    before = cache.statistics().bytes_from_source
    answer = client.ask("/film")
    assert len(answer.body) == SIZE and verify("film", 0, answer.body) is None
    assert cache.statistics().objects_damaged == 1
    assert cache.statistics().bytes_from_source - before >= MiB

    def healed() -> bool:
        answer = fetch(cache, "film")
        assert_right(answer, "film", SIZE)
        return answer.status is CacheStatus.HIT

    eventually(healed)
    eventually(lambda: at_rest(cache))
    settle(cache, cache_dir)
    for path in objects(cache_dir):
        assert_recorded(path)
    # What was compared once is hot, while it is fresh.
    assert fetch(cache, "sound").status is CacheStatus.HIT
    assert cache.peek("/sound") is not None


def test_who_reads_a_purged_object_is_not_told_of_the_digests_of_the_next_one(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    cache = started_again(source, cache_dir, open_cache)
    with opened(cache, "film") as film:
        data = take(film, 0, SIZE)
        assert len(data) < SIZE
        before = (source / "film").stat().st_mtime_ns
        write(source, "film", SIZE, content_name="other")
        os.utime(source / "film", ns=(before, before))  # nothing tells of it, so it is purged
        assert cache.operations.purge(Selection.of(path="/film")).removed == 1
        assert_right(fetch(cache, "film"), "other", SIZE)
        eventually(lambda: at_rest(cache) and sums(cache_dir))
        data += read(film, len(data), SIZE)
    assert verify("film", 0, data) is None
    assert cache.statistics().objects_damaged == 0


def test_an_object_that_was_not_compared_yet_is_not_hot(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    cache = started_again(source, cache_dir, open_cache)
    fetch(cache, "film", 0, BLOCK)
    assert cache.peek("/film") is None
    fetch(cache, "film")
    assert cache.peek("/film") is not None


def test_a_comparison_needs_something_to_compare_with() -> None:
    with pytest.raises(ConfigError, match="checksum_on_read: true is not allowed"):
        config(cache={"checksum_on_read": True})


def test_want_of_descriptors_tells_nothing_of_an_object(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    cache = started_again(source, cache_dir, open_cache)
    before = cache.statistics().bytes_from_source
    with opened(cache, "film") as film:
        eventually(lambda: not cache._parts.meta.pending)
        with no_descriptors(), pytest.raises(StreamCacheError):
            take(film, 0, SIZE)  # neither its digests nor the source can be opened
    answer = fetch(cache, "film")
    assert answer.status in (CacheStatus.HIT, CacheStatus.STALE)  # the source failed just now
    assert_right(answer, "film", SIZE)
    assert cache.statistics().objects_damaged == 0
    assert cache.statistics().bytes_from_source == before
