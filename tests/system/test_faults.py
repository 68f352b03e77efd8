"""Each system call of a whole life of a file fails once: no wrong byte, nothing leaks (I15)."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import gevent
import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.cache.database import CatalogError
from streamcache.errors import CacheError, Closed, ConfigError, SourceChanged, SourceError
from tests.content import write
from tests.mounts import local
from tests.system.conftest import OpenCache
from tests.system.site import (
    WAIT,
    MiB,
    assert_right,
    at_rest,
    config,
    disk_usage,
    eventually,
    fetch,
    files_below,
    objects_in,
    settle,
)
from tests.system.steps import CALLS, CATALOG, DISK, SOURCE, WRITING, Action, Steps, failing

SIZE = MiB + 77
OTHER = MiB // 2
FILES = {"film": SIZE, "other1": OTHER, "other2": OTHER, "other3": OTHER}
CLEAN = (SourceError, SourceChanged, CacheError, Closed)  # what a request may fail with
REQUESTS = 13  # of one life


def answered(cache: StreamCache, name: str, start: int = 0) -> bool:
    """One request: every byte right, or a clean error."""
    try:
        with gevent.Timeout(10, AssertionError(f"{name}: no answer")):
            answer = fetch(cache, name, start)
    except CLEAN:
        return False
    assert_right(answer, name, FILES[name], start)
    return True


def life(source: Path, at: Path) -> list[bool]:
    """Cold, seek, left half-way, warm, evicted, closed, opened again: which were answered.

    The cache has room for the film, or for the others. Where it does not start, no request can
    be made.
    """
    outcomes: list[bool] = []
    options = config(
        source={"timeout": 5.0, "revalidate": 0.0},
        copy={"when_idle": "stop", "in_flight": 2},
    )
    for order in (("film", "film", "other1", "other2", "other3"), ("film", "other1")):
        cache = StreamCache(source, at, 2 * MiB, config=options)
        try:
            cache.start()
        except (CacheError, ConfigError, OSError):
            continue
        with cache:
            readers = [
                gevent.spawn(answered, cache, "film", start) for start in (0, SIZE - 100_000)
            ]
            gevent.joinall(readers, raise_error=True)
            outcomes += [reader.value for reader in readers]
            with contextlib.suppress(*CLEAN), cache.open("other1") as file:
                file.read(10)
            for name in order:
                outcomes.append(answered(cache, name))
            eventually(lambda cache=cache: at_rest(cache))
            # More than is there may be counted, never less (I13).
            space = cache._parts.space
            eventually(lambda space=space: not space.known or space.used >= taken(at))
            outcomes.append(answered(cache, "film"))
    return outcomes


def taken(at: Path) -> int:
    """Bytes on disk, but for the journal of an object: a few KiB that go when it is entered."""
    files = files_below(at)
    return sum(
        stat.st_blocks * 512
        for path, stat in files.items()
        if not path.endswith(".map") or path.removesuffix(".map") + ".data" in files
    )


def runs(
    source: Path, at: Path, pools: frozenset[str], calls: frozenset[str], action: Action
) -> Iterator[tuple[Path, Steps, list[bool]]]:
    """The same life again and again, each time with a later step that fails, until none does."""
    number = 1
    while True:
        folder = at / str(number)
        steps = Steps(pools, action, at=number, calls=calls)
        with steps.installed():
            outcomes = life(source, folder)
        yield folder, steps, outcomes
        if steps.hit is None:
            return
        # The life's first half has nearly every kind of step; then samples will do.
        number += 1 + number // 15


def assert_sound_again(source: Path, at: Path, said: str) -> None:
    """Whatever happened: a cache on what was left works, and its account is true."""
    with StreamCache(source, at, 8 * MiB) as cache:
        for name, size in FILES.items():
            assert_right(fetch(cache, name), name, size)
        settle(cache, at)
        for name, size in FILES.items():
            answer = fetch(cache, name)
            assert answer.status is CacheStatus.HIT, said
            assert_right(answer, name, size)


def broken_catalog(name: str, real: object, args: object) -> None:
    raise CatalogError("disk I/O error")


@pytest.mark.parametrize(
    ("pools", "calls", "action"),
    [
        pytest.param(DISK, WRITING, failing(errno.ENOSPC), id="disk-ENOSPC"),
        pytest.param(DISK, CALLS, failing(errno.EIO), id="disk-EIO"),
        # Closing what was only read does not fail.
        pytest.param(SOURCE, CALLS - {"close"}, failing(errno.EIO), id="source-EIO"),
        pytest.param(CATALOG, frozenset(), broken_catalog, id="catalog"),
    ],
)
def test_the_nth_step_fails(
    filled: Path, cache_dir: Path, pools: frozenset[str], calls: frozenset[str], action: Action
) -> None:
    hits = set()
    for folder, steps, outcomes in runs(filled, cache_dir, pools, calls, action):
        said = f"step {folder.name}: {steps.hit} {outcomes}"
        print(said)
        hits.add(steps.hit)
        if steps.hit is None:
            assert len(outcomes) == REQUESTS, said
        # The cache is optional: the source can serve every one of them.
        assert pools == SOURCE or all(outcomes), said
        assert outcomes.count(False) <= 2, said
        assert_sound_again(filled, folder, said)
    assert len(hits) > 4


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.ENOMEM])
def test_a_source_read_that_fails_once_is_tried_again(
    filled: Path, cache_dir: Path, open_cache: OpenCache, code: int
) -> None:
    cache = open_cache(filled)

    def fail_second_read(name: str, real: object, args: object) -> None:
        if name == "preadv":
            raise OSError(code, os.strerror(code))

    steps = Steps(frozenset({"source"}), fail_second_read, at=3)
    with steps.installed():
        assert answered(cache, "film")
    assert steps.hit == "preadv"
    settle(cache, cache_dir)
    assert objects_in(cache_dir)


@pytest.mark.parametrize("times", [1, 1000], ids=["once", "always"])
def test_an_error_that_nobody_expected_loses_no_claim(
    source: Path, cache_dir: Path, open_cache: OpenCache, times: int
) -> None:
    """The block is read again, or its reader is told; the session ends either way."""
    write(source, "film", 4 * MiB)
    cache = open_cache(source)
    real, left = cache._parts.source.read_into, [times]

    def broken(*args: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise MemoryError
        return real(*args)

    with (
        mock.patch.object(cache._parts.source, "read_into", broken),
        gevent.Timeout(WAIT, AssertionError("a claim was lost")),
    ):
        if times == 1:
            assert_right(fetch(cache, "film"), "film", 4 * MiB)
        else:
            with pytest.raises(SourceError):
                fetch(cache, "film")
        assert left[0] < times
        eventually(lambda: at_rest(cache))
    assert_right(fetch(cache, "film"), "film", 4 * MiB)
    settle(cache, cache_dir)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with local.tmpfs(tmp_path / "small", "size=2m") as path:
        yield path


def test_a_disk_that_is_full_fails_no_request(
    source: Path, small_disk: Path, open_cache: OpenCache
) -> None:
    """Others have filled it: our own limit is far away."""
    names = [f"film{number}" for number in range(4)]
    for name in names:
        write(source, name, SIZE)
    cache = open_cache(source, 64 * MiB, at=small_disk, source_options={"revalidate": 0.0})
    for _ in range(2):
        for name in names:
            assert_right(fetch(cache, name), name, SIZE)
            assert_right(fetch(cache, name, SIZE - 10), name, SIZE, SIZE - 10)
    eventually(lambda: at_rest(cache))
    assert len(objects_in(small_disk)) == 1
    eventually(lambda: cache.statistics().usage == disk_usage(small_disk))
    cache.close()
    cache = open_cache(source, 64 * MiB, at=small_disk)
    for name in names:
        assert_right(fetch(cache, name), name, SIZE)
