"""A world for each test that asks for one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

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
def world(make_world: Callable[..., World]) -> World:
    """One with plenty of room, its gate open."""
    return make_world()


@pytest.fixture
def another() -> Iterator[AnotherProcess]:
    """A second process."""
    with AnotherProcess() as process:
        yield process
