"""Lines of the access log over a real cache: where the bytes of a response came from."""

from __future__ import annotations

import json
import os
from pathlib import Path

from streamcache import StreamCacheServer
from tests.content import content, write
from tests.server.client import Client
from tests.system.conftest import OpenCache
from tests.system.site import config, settle

SIZE = 300_000
FIELDS = "target, cache, bytes, bytes_cache, bytes_source, ttfb, seconds, outcome"


def test_the_bytes_of_a_response_add_up_whatever_it_came_from(
    source: Path, open_cache: OpenCache, tmp_path: Path
) -> None:
    write(source, "a.bin", SIZE)
    write(source, "new.bin", SIZE)
    os.utime(source / "new.bin")  # just now: it is still being written
    cache = open_cache(source)
    log = tmp_path / "access.log"
    options = config(log={"access": str(log), "format": "json", "fields": FIELDS})
    with (
        StreamCacheServer("127.0.0.1:0", cache, config=options) as server,
        Client(server.address) as client,
    ):
        assert client.ask("/a.bin").body == content("a.bin", 0, SIZE)
        settle(cache, Path(cache.config.cache.dir))
        assert client.ask("/a.bin").body == content("a.bin", 0, SIZE)
        assert client.ask("/new.bin", "Range: bytes=5-").body == content("new.bin", 5, SIZE)
        assert client.ask("/none").status == 404
    miss, hit, bypass, none = map(json.loads, log.read_text().splitlines())
    assert [line["cache"] for line in (miss, hit, bypass, none)] == [
        "miss",
        "hit",
        "bypass",
        "miss",
    ]
    assert (miss["bytes"], miss["outcome"]) == (SIZE, "done")
    assert miss["bytes_cache"] + miss["bytes_source"] == SIZE
    assert miss["bytes_source"] >= 65536  # for its first block at least it had to wait
    assert (hit["bytes_cache"], hit["bytes_source"]) == (SIZE, 0)
    assert (bypass["bytes_cache"], bypass["bytes_source"]) == (0, SIZE - 5)
    assert (none["bytes"], none["bytes_cache"], none["bytes_source"]) == (14, 0, 0)
    assert all(0 <= line["ttfb"] <= line["seconds"] for line in (miss, hit, bypass, none))
