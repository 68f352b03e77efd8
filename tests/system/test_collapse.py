"""Requests that come together are one request to the source."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest import mock

import gevent
import pytest

from streamcache import CacheStatus
from streamcache.cache.states import Event
from streamcache.errors import NotFound
from tests.content import verify, write
from tests.slowfs import SlowFS
from tests.system.conftest import OpenCache
from tests.system.holding import holding
from tests.system.site import (
    WAIT,
    MiB,
    assert_right,
    eventually,
    fetch,
    objects_in,
    opened,
    settle,
    tidy,
)

SIZE = 3 * MiB + 77
CROWD = 30
MANY = 500  # who cost nothing


@pytest.fixture
def slow(slowfs: SlowFS) -> SlowFS:
    """Slow enough for a crowd to gather."""
    slowfs.set(latency=0.005, meta_latency=0.02, bandwidth=0)
    return slowfs


def test_a_crowd_on_a_cold_path_is_one_open_and_each_byte_once(
    slow: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(slow.backing, "film", SIZE)
    cache = open_cache(slow.path)
    crowd = [gevent.spawn(fetch, cache, "film", client=f"c{n}") for n in range(CROWD)]
    for answer in gevent.joinall(crowd, raise_error=True):
        assert_right(answer.value, "film", SIZE)
    settle(cache, cache_dir)
    seen = slow.counters("film")
    assert seen.opens == 1
    assert seen.lookups <= 2  # the open, and by name before it is published
    assert seen.bytes_read == SIZE
    assert slow.repeated("film") == 0
    statistics = cache.statistics()
    assert statistics.source_opens == 1
    assert statistics.bytes_from_source == SIZE
    assert statistics.requests == {"miss": 1, "collapsed": CROWD - 1}
    assert statistics.copies_started == statistics.copies_finished == 1


def test_a_crowd_that_reads_anywhere_reads_each_byte_once(
    slow: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(slow.backing, "film", SIZE)
    cache = open_cache(slow.path)
    random = Random(1)
    places = [random.randrange(SIZE) for _ in range(CROWD)]
    crowd = [gevent.spawn(fetch, cache, "film", place) for place in places]
    for place, answer in zip(places, gevent.joinall(crowd, raise_error=True), strict=True):
        assert_right(crowd[places.index(place)].value, "film", SIZE, place)
        assert answer.value.status in (CacheStatus.MISS, CacheStatus.COLLAPSED)
    settle(cache, cache_dir)
    assert (slow.counters("film").opens, slow.counters("film").bytes_read) == (1, SIZE)
    assert slow.repeated("film") == 0


def test_looking_and_reading_together_is_one_open(
    slow: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(slow.backing, "film", SIZE)
    cache = open_cache(slow.path)

    def look() -> int:
        with cache.find("/film") as found:
            return found.size

    looking = [gevent.spawn(look) for _ in range(CROWD)]
    reading = [gevent.spawn(fetch, cache, "film") for _ in range(3)]
    gevent.joinall([*looking, *reading], raise_error=True)
    assert {each.value for each in looking} == {SIZE}
    assert all(verify("film", 0, each.value.data) is None for each in reading)
    settle(cache, cache_dir)
    assert slow.counters("film").opens == 1
    assert cache.statistics().source_opens == 1


def test_a_crowd_on_a_missing_path_asks_once(
    slow: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(slow.backing, "other", 1)
    cache = open_cache(slow.path)

    def look() -> bool:
        try:
            cache.find("/missing").close()
        except NotFound:
            return True
        return False

    crowd = [gevent.spawn(look) for _ in range(CROWD)]
    gevent.joinall(crowd, raise_error=True)
    assert all(each.value for each in crowd)
    assert cache.statistics().source_opens == 1
    assert slow.counters("missing").lookups <= 2  # what is missing is proven twice


def test_a_crowd_on_an_expired_object_asks_once(
    slow: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(slow.backing, "film", SIZE)
    cache = open_cache(slow.path, source_options={"revalidate": 0.05})
    fetch(cache, "film")
    settle(cache, cache_dir)
    gevent.sleep(0.06)
    slow.reset()
    before = cache.statistics().source_opens
    crowd = [gevent.spawn(fetch, cache, "film", 0, 1000) for _ in range(CROWD)]
    gevent.joinall(crowd, raise_error=True)
    assert {each.value.status for each in crowd} == {CacheStatus.HIT}
    assert cache.statistics().source_opens == before + 1
    assert slow.counters("film").opens == 1
    assert slow.counters("film").reads == 0


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not kept"])
def test_a_crowd_that_waits_for_one_block_costs_one_copy_of_it(
    source: Path, open_cache: OpenCache, kept: bool
) -> None:
    """Views of the same bytes, not bytes for each."""
    write(source, "film", 16 * MiB)
    cache = open_cache(source)
    offset = 8 * MiB
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(holding(cache._parts.source, "read_into"))
        crowd = [stack.enter_context(opened(cache, "film")) for _ in range(MANY)]
        reads = [gevent.spawn(delegate.ready, offset, 16 * MiB) for delegate in crowd]
        (session,) = cache._parts.provider.copies.sessions.values()
        eventually(lambda: len(session._waiting) == MANY)
        if not kept:
            session.handle_event(Event.SPACE_DENIED)
        held.release()
        gevent.joinall(reads, timeout=WAIT, raise_error=True)
        delivered = [ready.value.data for ready in reads if ready.value.data is not None]
        assert delivered
        assert len({id(data.obj) for data in delivered}) == 1
        assert verify("film", offset, delivered[0]) is None


def test_a_change_is_acted_on_once_however_many_asked(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """One removal for each question to the source, not for each who waits for its answer."""
    write(source, "film", MiB)
    cache = open_cache(source, source_options={"revalidate": 0.0})
    fetch(cache, "film")
    settle(cache, cache_dir)
    removal = cache._parts.provider._removal

    def crowd(look: Callable[[], None]) -> int:
        """How many removals there were."""
        with mock.patch.object(removal, "_remove", side_effect=removal._remove) as remove:
            lookers = [gevent.spawn(look) for _ in range(MANY)]
            gevent.joinall(lookers, timeout=WAIT, raise_error=True)
            eventually(lambda: tidy(cache))
            return remove.call_count

    def look_gone() -> None:
        with pytest.raises(NotFound):
            cache.find("/film")

    write(source, "film", MiB + 1, age=500)
    assert crowd(lambda: cache.find("/film").close()) == 1
    assert objects_in(cache_dir) == {}
    (source / "film").unlink()
    assert crowd(look_gone) == 1
