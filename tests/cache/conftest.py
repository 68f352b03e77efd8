"""A world, or a cache directory alone, for each test that asks for one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamcache.cache import writes
from streamcache.cache.store import Store
from tests.cache.another import AnotherProcess
from tests.cache.fakes import World


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    """``make_world(room=..., ...)``; at the end nothing of it may be left."""
    with contextlib.ExitStack() as stack:

        def make(**options: object) -> World:
            world = World(**options)
            stack.callback(world.close)
            return world

        yield make


@pytest.fixture
def far(make_world: Callable[..., World]) -> World:
    """One with plenty of room, its gate open; several steps of a copy are in flight."""
    return make_world()


@pytest.fixture
def world(far: World) -> World:
    """The same, where it does not matter how its source is read."""
    return far


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads from a near source may write as well, however busy this machine is."""
    monkeypatch.setattr(writes, "_QUICK", 1e9)


@pytest.fixture(params=[False, True], ids=["far", "near"])
def either_world(
    request: pytest.FixtureRequest, make_world: Callable[..., World], quick_disk: None
) -> World:
    """One with plenty of room and a far source, then one with a near one."""
    return make_world(near=request.param)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A cache directory that is in use, and nothing else."""
    made = Store(str(tmp_path / "cache"))
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def another() -> Iterator[AnotherProcess]:
    """A second process."""
    with AnotherProcess() as process:
        yield process
