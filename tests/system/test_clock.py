"""The time of day jumps, by a day or by years: copies, eviction and freshness go on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from streamcache import CacheStatus
from tests.content import write
from tests.system.conftest import OpenCache
from tests.system.site import MiB, assert_right, disk_usage, fetch, opened, read, settle, take

DAY = 86_400.0


@pytest.mark.parametrize("jump", [DAY, -DAY, 3650 * DAY, -3650 * DAY])
def test_a_clock_that_jumps_costs_nothing(
    source: Path,
    cache_dir: Path,
    open_cache: OpenCache,
    monkeypatch: pytest.MonkeyPatch,
    jump: float,
) -> None:
    """In the middle of a copy, and before objects must be evicted."""
    names = [f"film{number}" for number in range(8)]
    for name in names:
        write(source, name, MiB)
    cache = open_cache(source, 4 * MiB, source_options={"revalidate": 0.05})
    assert_right(fetch(cache, names[0]), names[0], MiB)
    real = time.time
    with opened(cache, names[1]) as reader:
        begun = take(reader, 0, MiB)
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        rest = read(reader, len(begun), MiB)
    assert len(begun) + len(rest) == MiB
    settle(cache, cache_dir)
    for name in names[2:]:
        assert_right(fetch(cache, name), name, MiB)
        settle(cache, cache_dir)
        assert disk_usage(cache_dir) <= 4 * MiB
        assert fetch(cache, name).status is CacheStatus.HIT
    # A change at the source is seen, whatever the clock says.
    write(source, names[-1], MiB + 7)
    time.sleep(0.06)
    assert_right(fetch(cache, names[-1]), names[-1], MiB + 7)
    assert cache.statistics().evictions >= 4
