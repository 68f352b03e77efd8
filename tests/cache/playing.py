"""A film, and a client that plays it while it is copied."""

from __future__ import annotations

from streamcache.cache.session import CopySession
from tests import content
from tests.cache.fakes import BLOCK, Client, World

FILM = "film.mp4"
SIZE = 40 * BLOCK + 7


def expected(stop: int = SIZE, start: int = 0, name: str = FILM) -> bytes:
    return content.content(name, start, stop)


def playing(world: World, size: int = SIZE) -> tuple[CopySession, Client]:
    """A session with one client that has got the first block; all other reads wait at the gate."""
    world.gate.shut()
    session = world.session(FILM, size)
    client = world.client(session)
    client.get(0, BLOCK)
    world.settle()
    world.gate.let(0)
    world.settle()
    assert client.answers[0].complete
    return session, client
