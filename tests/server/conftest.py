"""A server of our own in this process, over the fake cache."""

from __future__ import annotations

import dataclasses
import random
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamcache.access.authorize import Authorize
from streamcache.config import Config
from streamcache.server.server import StreamCacheServer
from tests.certificates import Pair
from tests.server.client import Client
from tests.server.fakes import FakeCache

BIG = 8 * 1024 * 1024  # more than a loopback connection takes unread


def with_options(**sections: dict[str, object]) -> Config:
    """The default configuration with some options changed."""
    config = Config()
    changed = {
        name: dataclasses.replace(getattr(config, name), **options)
        for name, options in sections.items()
    }
    return dataclasses.replace(config, **changed)


class Site:
    """A running server, its cache and its files; with a ``context`` its clients speak TLS."""

    def __init__(
        self,
        server: StreamCacheServer,
        cache: FakeCache,
        contents: dict[str, bytes],
        context: ssl.SSLContext | None,
    ):
        self.context = context
        self.server = server
        self.cache = cache
        self.contents = contents
        self._clients: list[Client] = []

    def client(self, **options: int) -> Client:
        self._clients.append(Client(self.server.address, context=self.context, **options))
        return self._clients[-1]

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()

    @property
    def fast(self) -> int:
        """Responses that the fast path has sent whole."""
        return self.cache.counters.quick_hits - self.cache.counters.quick_cuts

    def greenlets(self) -> int:
        """Connections that own a greenlet now."""
        return sum(each._greenlet is not None for each in self.server._connections)

    def phases(self) -> list[str]:
        return sorted(each.phase.name for each in self.server._connections)


@pytest.fixture(scope="session")
def contents() -> dict[str, bytes]:
    make = random.Random(1).randbytes
    return {
        "/a.bin": make(1000),
        "/b.bin": make(70_000),
        "/one.bin": b"1",
        "/empty.bin": b"",
        "/big.bin": make(BIG),
    }


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]) -> Path:
    path = tmp_path_factory.mktemp("served")
    for name, data in contents.items():
        (path / name[1:]).write_bytes(data)
    return path


@pytest.fixture(params=["fast", "slow", "tls"])
def path_taken(request: pytest.FixtureRequest) -> str:
    """All answer alike: every test of a server runs with the fast path, without it, over TLS."""
    return request.param


PLAIN = pytest.mark.parametrize("path_taken", ["fast", "slow"], indirect=True)
"""For tests of what is another thing over TLS (``test_tls.py``)."""


@pytest.fixture
def site(
    root: Path, contents: dict[str, bytes], path_taken: str, pair: Pair
) -> Iterator[Callable[..., Site]]:
    """``site(limits={...}, log={...}, listener=...)`` starts a server; it is stopped at the end."""
    running: list[Site] = []

    def start(
        listener: object = ("127.0.0.1", 0),
        authorize: Authorize | None = None,
        **sections: dict[str, object],
    ) -> Site:
        sections.setdefault("log", {"access": "off"})
        context = None
        if path_taken == "tls":
            sections["server"] = {**pair.options, **sections.get("server", {})}
            context = ssl.create_default_context(cafile=pair.certificate)
        cache = FakeCache(root, with_options(**sections))
        server = StreamCacheServer(listener, cache, authorize=authorize)
        server._fast_path = path_taken != "slow"
        server.start()
        running.append(Site(server, cache, contents, context))
        return running[-1]

    yield start
    for each in running:
        each.close_clients()
        for gate in each.cache.gates.values():
            gate.fail(OSError("test is over"))
        each.server.stop(timeout=0)
        assert each.server.connections == 0
        assert all(delegate.closed.is_set() for delegate in each.cache.delegates)
        assert all(found.closed for found in each.cache.founds)
        each.cache.close()
