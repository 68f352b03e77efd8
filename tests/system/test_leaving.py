"""Who asks is gone in the middle of it, or the cache is: nothing stays locked, drawn or open."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import gevent
import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.errors import Closed
from tests.content import write
from tests.server.client import Client, get
from tests.system.conftest import OpenCache
from tests.system.holding import holding
from tests.system.site import (
    WAIT,
    MiB,
    assert_right,
    at_rest,
    eventually,
    fetch,
    objects_in,
    opened,
    settle,
)


def test_a_request_that_is_killed_while_it_looks_leaves_no_key_locked(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """Else nobody, in no process, could cache that file any more."""
    write(source, "film", MiB)
    cache = open_cache(source)
    parts = cache._parts
    with holding(parts.store.objects, "versions") as held:
        reader = gevent.spawn(fetch, cache, "film")
        eventually(lambda: held.entered)
        assert parts.keys._held
        reader.kill()
        assert not parts.keys._held
    answer = fetch(cache, "film")
    assert answer.status is CacheStatus.MISS
    assert_right(answer, "film", MiB)
    settle(cache, cache_dir)
    assert list(objects_in(cache_dir).values()) == [MiB]


def test_a_session_closed_before_it_ran_asks_for_no_room(
    source: Path, open_cache: OpenCache
) -> None:
    """Nobody waits for space that nobody wants."""
    write(source, "film", 16 * MiB)
    cache = open_cache(source, copy={"when_idle": "stop"})
    space = cache._parts.space
    with mock.patch.object(space, "draw", side_effect=space.draw) as draw:
        with opened(cache, "film"):
            assert cache._parts.provider.copies.sessions
        eventually(lambda: at_rest(cache))
    assert draw.call_count == 0
    assert space.reserved == 0


def test_a_client_that_resets_while_its_file_is_looked_up_is_no_fault_of_ours(
    source: Path,
    open_cache: OpenCache,
    serve: Callable[[StreamCache], Client],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No traceback, and the next client is served."""
    write(source, "film", MiB)
    cache = open_cache(source)
    client = serve(cache)
    address = client.socket.getpeername()
    with holding(cache._parts.source, "open") as held:
        client.send(get("/film"))
        eventually(lambda: held.entered)
        client.reset()
    eventually(lambda: cache._parts.meta.pending == 0)
    with Client(address) as other:
        assert other.ask("/film").status == 200
    eventually(lambda: at_rest(cache))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert "Traceback" not in capfd.readouterr().err


def test_an_open_that_races_close_is_told_so(source: Path, cache_dir: Path) -> None:
    """And what it had opened is given back."""
    write(source, "film", MiB)
    cache = StreamCache(source, cache_dir, 1 << 30)
    cache.start()
    parts = cache._parts
    cache.find("/film").close()
    with cache.find("/film") as found, holding(parts.source, "open") as held:
        opening = gevent.spawn(found.open, "t")
        eventually(lambda: held.entered)
        closing = gevent.spawn(cache.close)
        eventually(lambda: parts.provider.copies.closed)
        held.release()
        with pytest.raises(Closed):
            opening.get(timeout=WAIT)
        closing.get(timeout=WAIT)
    assert not parts.provider.copies.sessions
