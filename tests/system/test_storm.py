"""Readers that give up, files that change and vanish, a full cache and a faulty source at once."""

from __future__ import annotations

import contextlib
import errno
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import gevent
import pytest

from streamcache import StreamCache
from streamcache.errors import SourceChanged, SourceError, SourceUnavailable
from tests.content import verify, write
from tests.system.conftest import OpenCache
from tests.system.site import MiB, eventually, opened, settle, take

READERS = 25
NAMES = [f"film{number}" for number in range(8)]
SIZES = [0, 1, 65536, 65537, 300_000, MiB, 3 * MiB, 5 * MiB]
DURATION = 6.0  # s at least
LONGEST = 40.0  # s, on a machine that is so busy that it takes that long to become a storm
PATIENCE = [0.003, 0.02, 0.2, 8.0]  # s until a reader gives up
SLOWEST = 12.0  # s that one request may take, with all its retries


class Storm:
    """What goes on until ``stop``; each choice follows from the seed, if not its moment."""

    def __init__(self, source: Path, cache: StreamCache, seed: int) -> None:
        self.stop = False
        self.reads = 0
        self.errors: Counter[str] = Counter()
        self._random = Random(seed)
        self._source = source
        self._cache = cache
        self._content: dict[tuple[str, int], tuple[str, int]] = {}  # by name and mtime
        for name in NAMES:
            self._write(name)

    def read(self) -> None:
        """Greenlet: open, read here and there, leave or lose patience, again."""
        random = self._random
        while not self.stop:
            patience = random.choice(PATIENCE) if random.random() < 0.5 else None
            one = self._stream if random.random() < 0.5 else self._deliver
            with gevent.Timeout(SLOWEST, AssertionError("a request hangs")):
                try:
                    with gevent.Timeout(patience, False):
                        one(random.choice(NAMES))
                except (SourceError, SourceChanged) as error:
                    self.errors[type(error).__name__] += 1
            gevent.sleep(random.random() * 0.01)

    def change(self) -> None:
        """Greenlet: replace files, or unlink them for a while."""
        random = self._random
        while not self.stop:
            gevent.sleep(random.random() * 0.3)
            name = random.choice(NAMES)
            if random.random() < 0.3:
                (self._source / name).unlink()
                gevent.sleep(random.random() * 0.2)
            self._write(name)

    def _write(self, name: str) -> None:
        size, content = self._random.choice(SIZES), f"{name}-{len(self._content)}"
        path = write(self._source, name, size, content_name=content)
        self._content[name, path.stat().st_mtime_ns] = (content, size)

    def _stream(self, name: str) -> None:
        """As a program that embeds the cache."""
        with self._cache.open(f"/{name}") as file:
            content, size = self._content[name, file.version.mtime_ns]
            assert file.size == size
            for offset, length in self._spans(size):
                file.seek(offset)
                data = file.read(length)
                assert data or offset == size
                self._check(content, offset, data)

    def _deliver(self, name: str) -> None:
        """As the server."""
        with opened(self._cache, name) as delegate:
            content, size = self._content[name, delegate.version.mtime_ns]
            assert delegate.size == size
            for offset, length in self._spans(size):
                if offset < size:
                    stop = min(size, offset + length)
                    self._check(content, offset, take(delegate, offset, stop))

    def _spans(self, size: int) -> Any:
        offset = 0
        for _ in range(self._random.randrange(1, 12)):
            if size and self._random.random() < 0.4:
                offset = self._random.randrange(size)
            length = self._random.choice([1, 1000, 65536, 500_000])
            yield offset, length
            offset = min(size, offset + length)

    def _check(self, content: str, offset: int, data: bytes) -> None:
        self.reads += 1
        assert verify(content, offset, data) is None, (content, offset, len(data))


@contextlib.contextmanager
def bad_weather(source: Any, seed: int) -> Any:
    """The source is slow, and one read of 500 fails."""
    random, read_into, open_file = Random(seed), source.read_into, source.open

    def slow_read(*args: Any) -> int:
        time.sleep(random.random() * 0.01)  # in a worker thread
        if random.random() < 0.002:
            raise SourceUnavailable(errno.EIO, "Input/output error")
        return read_into(*args)

    def slow_open(*args: Any) -> Any:
        time.sleep(random.random() * 0.005)
        return open_file(*args)

    with (
        mock.patch.object(source, "read_into", slow_read),
        mock.patch.object(source, "open", slow_open),
    ):
        yield


def was_storm(storm: Storm, cache: StreamCache) -> bool:
    """Whether all has happened that can."""
    counts = cache.statistics()
    happened = (counts.evictions, counts.copies_cancelled, counts.source_errors)
    return storm.reads > 1000 and bool(storm.errors) and all(happened)


@pytest.mark.parametrize("seed", [20])
def test_nothing_is_wrong_or_left_after_a_storm(
    source: Path, cache_dir: Path, open_cache: OpenCache, seed: int
) -> None:
    """Every byte right, no greenlet hung, the account true, no descriptor left (``_no_leaks``)."""
    cache = open_cache(
        source,
        12 * MiB,
        source_options={"revalidate": 0.05, "timeout": 5.0},
        copy={"max_idle": 1},
        cache={"evict_interval": 0.05},
    )
    storm = Storm(source, cache, seed)
    with bad_weather(cache._parts.source, seed):
        crowd = [gevent.spawn(storm.read) for _ in range(READERS)]
        crowd.append(gevent.spawn(storm.change))
        began = time.monotonic()
        while (lasted := time.monotonic() - began) < DURATION or (
            lasted < LONGEST and not was_storm(storm, cache)
        ):
            gevent.joinall(crowd, timeout=0.5, raise_error=True)
        storm.stop = True
        gevent.joinall(crowd, timeout=SLOWEST, raise_error=True)
        assert [greenlet for greenlet in crowd if not greenlet.ready()] == []
    settle(cache, cache_dir, wait=20.0)
    parts, statistics = cache._parts, cache.statistics()
    print(statistics, storm.reads, storm.errors)
    assert parts.space.objects == parts.ledger.call(parts.ledger.catalog.usage)[0]
    assert parts.space.waiters == 0
    eventually(lambda: not parts.objects.leased())
    assert was_storm(storm, cache)
