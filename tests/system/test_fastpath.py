"""The fast path over a real cache: counted, touched and renewed as the complete path does it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from streamcache import StreamCache, StreamCacheServer
from tests.content import content, write
from tests.server.client import Client
from tests.system.conftest import OpenCache
from tests.system.site import config, eventually, objects_in, settle

Start = Callable[[StreamCache], tuple[Client, Callable[[], int]]]
SIZE = 70_000


@pytest.fixture
def start() -> Iterator[Start]:
    """A server: a client of it, and a function for the number of fast answers."""
    servers: list[StreamCacheServer] = []
    clients: list[Client] = []

    def begin(cache: StreamCache) -> tuple[Client, Callable[[], int]]:
        server = StreamCacheServer(("127.0.0.1", 0), cache, config=config(log={"access": "off"}))
        server.start()
        servers.append(server)
        clients.append(Client(server.address))
        return clients[-1], lambda: cache.counters.quick_hits

    yield begin
    for client in clients:
        client.close()
    for server in servers:
        server.stop(timeout=0)


def test_hits_of_both_paths_count_alike(source: Path, open_cache: OpenCache, start: Start) -> None:
    write(source, "a.bin", SIZE)
    cache = open_cache(source, source_options={"revalidate": 60.0})
    client, fast = start(cache)
    assert client.ask("/a.bin").fields["cache-status"] == "streamcache; fwd=miss; stored"
    settle(cache, Path(cache.config.cache.dir))
    assert client.ask("/a.bin").fields["cache-status"] == "streamcache; hit"
    before, taken = cache.statistics(), fast()
    assert client.ask("/a.bin").body == content("a.bin", 0, SIZE)
    assert client.ask("/a.bin", "Range: bytes=10-19").body == content("a.bin", 10, 20)
    after = cache.statistics()
    assert fast() == taken + 2
    assert after.requests["hit"] == before.requests["hit"] + 2
    assert after.bytes["hit"] == before.bytes["hit"] + SIZE + 10
    assert after.bytes_from_cache == before.bytes_from_cache + SIZE + 10
    assert after.source_opens == before.source_opens
    (name,) = objects_in(Path(cache.config.cache.dir))
    assert ("127.0.0.1", name) in cache._parts.ledger._uses._recent


def test_what_is_not_fresh_any_more_is_asked_for(
    source: Path, open_cache: OpenCache, start: Start
) -> None:
    write(source, "a.bin", SIZE)
    cache = open_cache(source, source_options={"revalidate": 0.1})
    client, fast = start(cache)
    client.ask("/a.bin")
    settle(cache, Path(cache.config.cache.dir))
    opens = cache.statistics().source_opens
    for _ in range(3):
        gevent.sleep(0.15)
        assert client.ask("/a.bin").status == 200
        assert client.ask("/a.bin").status == 200
    assert cache.statistics().source_opens >= opens + 3
    assert fast() > 0
    write(source, "a.bin", 500, content_name="other")
    eventually(lambda: client.ask("/a.bin").body == content("other", 0, 500))
    settle(cache, Path(cache.config.cache.dir))
    taken = fast()
    eventually(lambda: client.ask("/a.bin").body == content("other", 0, 500) and fast() > taken)
    os.unlink(source / "a.bin")
    eventually(lambda: client.ask("/a.bin").status == 404)


def test_an_object_that_was_taken_away_is_not_served(
    source: Path, open_cache: OpenCache, start: Start
) -> None:
    write(source, "a.bin", SIZE)
    cache = open_cache(source, source_options={"revalidate": 60.0})
    client, fast = start(cache)
    client.ask("/a.bin")
    settle(cache, Path(cache.config.cache.dir))
    client.ask("/a.bin")
    client.ask("/a.bin")
    taken = fast()
    (name,) = objects_in(Path(cache.config.cache.dir))
    assert cache._parts.objects.evict([name]) == [name]
    assert client.ask("/a.bin").body == content("a.bin", 0, SIZE)
    assert fast() == taken


def test_a_cache_that_is_closed_has_nothing_hot(
    source: Path, open_cache: OpenCache, start: Start
) -> None:
    write(source, "a.bin", SIZE)
    cache = open_cache(source, source_options={"revalidate": 60.0})
    client, fast = start(cache)
    client.ask("/a.bin")
    settle(cache, Path(cache.config.cache.dir))
    client.ask("/a.bin")
    taken = fast()
    cache.close()
    assert client.ask("/a.bin").status == 503
    assert fast() == taken
