"""A cache over a directory of its own; what it must not leave behind is checked at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamcache import StreamCache, StreamCacheServer
from tests.content import write
from tests.leaks import LeakPolicy
from tests.server.client import Client
from tests.system.site import config

OpenCache = Callable[..., StreamCache]


@pytest.fixture
def leak_policy() -> LeakPolicy:
    """Worker threads too: a cache that is closed leaves none."""
    return LeakPolicy(threads=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source that is quick."""
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def filled(source: Path, request: pytest.FixtureRequest) -> Path:
    """The same with the files that the module's ``FILES`` has sizes of."""
    for name, size in request.module.FILES.items():
        write(source, name, size)
    return source


@pytest.fixture
def open_cache(cache_dir: Path) -> Iterator[OpenCache]:
    """``open_cache(source, size=..., source_options={...}, copy={...}, cache={...})``: started."""
    with contextlib.ExitStack() as stack:

        def start(
            path: Path, size: int = 1 << 30, *, at: Path = cache_dir, **sections: dict
        ) -> StreamCache:
            sections["source"] = sections.pop("source_options", {})
            cache = StreamCache(path, at, size, config=config(**sections))
            stack.enter_context(cache)
            return cache

        yield start


@pytest.fixture
def serve() -> Iterator[Callable[[StreamCache], Client]]:
    """``serve(cache)`` starts a server; a client that is connected to it."""
    with contextlib.ExitStack() as stack:

        def start(cache: StreamCache) -> Client:
            server = StreamCacheServer(
                ("127.0.0.1", 0), cache, config=config(log={"access": "off"})
            )
            server.start()
            stack.callback(server.stop, timeout=0)
            return stack.enter_context(Client(server.address))

        yield start
