"""Copies without their sessions: rooms of several processes, some of which end badly."""

from __future__ import annotations

import os

from streamcache.cache.allotment import Allotment
from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.locks import KeyLocks
from streamcache.cache.names import key_of
from streamcache.cache.partial import PartialHeader
from streamcache.cache.recovery import Recovery
from tests import content
from tests.cache.fakes import World

SIZE = 4 * BLOCK + 10
COUNT = 5
FILM = "film.mp4"


def name(number: int = 1, key: str = "ab") -> str:
    return f"{key * 16}.{number:032x}"


class Process:
    """Another process on the cache directory of a world: what it locks ends with it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lock = os.open(world.store._path("lock"), os.O_RDWR | os.O_CLOEXEC)
        self.keys = KeyLocks()
        self.keys.use(self.lock)
        self.rooms: list[Allotment] = []
        world.processes.append(self)

    def room(self, partial: str = name(), size: int = SIZE) -> Allotment:
        """Of one session, not open."""
        world = self.world
        made = Allotment(
            partial, size, store=world.store, space=world.space, disk=world.disk, keys=self.keys
        )
        self.rooms.append(made)
        return made

    def header(self, partial: str = name(), size: int = SIZE) -> PartialHeader:
        """Of all partials of that name."""
        return PartialHeader(self.world.store.boot, "s", FILM, partial[33:], size, 1, 2, 3)

    def open(self, partial: str = name(), size: int = SIZE) -> Allotment:
        """The same, open."""
        room = self.room(partial, size)
        with self.keys.acquire(key_of(partial)) as lock:
            room.open(self.header(partial, size), lock)
        return room

    def end(self) -> None:
        """As by SIGKILL. Idempotent."""
        for room in self.rooms:
            if room.partial is not None:
                room.partial.close()
                room.partial = None
        self.rooms.clear()
        self.keys.use(-1)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def fill(room: Allotment, start: int = 0, stop: int = COUNT) -> None:
    """Write these blocks."""
    data = content.content(FILM, start * BLOCK, min(stop * BLOCK, room._size))
    room.spend(stop - start)
    room.write(Extent(start, stop), memoryview(data))


def left_behind(world: World, partial: str = name(), *, settled: bool = True) -> int:
    """A partial of one block that nobody works on; the bytes it takes."""
    process = Process(world)
    room = process.open(partial)
    fill(room, 0, 1)
    if settled:
        room.let_go(keep=True)
    process.end()
    return world.on_disk(partial)


def recovery(world: World) -> Recovery:
    """Another one: it has seen nothing yet."""
    return Recovery(world.store, world.ledger, world.space, world.objects, world.keys, world.disk)
