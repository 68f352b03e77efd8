"""Partials that nobody works on: kept to be continued, the oldest dropped first."""

from __future__ import annotations

import pytest

from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.partial import PartialHeader
from streamcache.cache.partials import Partials
from tests.cache.fakes import World


def name(number: int, key: str = "ab") -> str:
    return f"{key * 16}.{number:032x}"


@pytest.fixture
def idle(world: World) -> Partials:
    return Partials(world.store, world.disk)


def left_behind(world: World, idle: Partials, partial: str) -> int:
    """A partial of one block; the bytes it takes."""
    header = PartialHeader(world.store.boot, "s", "p", partial[33:], 4 * BLOCK, 1, 2, 3)
    files = world.store.create_partial(partial, header)
    files.write(Extent(0, 1), memoryview(bytes(BLOCK)))
    files.close()
    blocks = world.store.partial_blocks(partial)
    idle.put(partial, world.space.adopt(blocks))
    return blocks


def test_what_is_taken_is_not_dropped(world: World, idle: Partials) -> None:
    blocks = left_behind(world, idle, name(1))
    assert world.space.reserved == blocks
    reservation = idle.take(name(1))
    assert reservation is not None
    assert idle.take(name(1)) is None
    assert idle.drop_oldest(1 << 40) == 0
    assert len(world.partials()) == 2
    idle.put(name(1), reservation)
    idle.drop(name(1))
    assert (world.partials(), world.space.used) == ([], 0)
    idle.drop(name(1))


def test_they_are_found_by_key(world: World, idle: Partials) -> None:
    for partial in (name(1), name(2), name(3, "cd")):
        left_behind(world, idle, partial)
    assert sorted(idle.of("ab" * 16)) == [name(1), name(2)]
    assert idle.of("ef" * 16) == []
    assert len(idle) == 3
    idle.drop_oldest(1 << 40)


def test_the_oldest_go_until_there_is_room(world: World, idle: Partials) -> None:
    blocks = [left_behind(world, idle, name(number)) for number in range(4)]
    freed = idle.drop_oldest(blocks[0] + 1)
    assert freed == blocks[0] + blocks[1]
    assert idle.of("ab" * 16) == [name(2), name(3)]
    assert world.space.reserved == blocks[2] + blocks[3]
    assert idle.drop_oldest(1 << 40) == blocks[2] + blocks[3]
    assert (len(idle), world.space.used, world.partials()) == (0, 0, [])


def test_what_cannot_be_removed_stays_in_the_account(
    world: World, idle: Partials, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = left_behind(world, idle, name(1))

    def fail(_: str) -> None:
        raise PermissionError("no")

    with monkeypatch.context() as broken:
        broken.setattr(world.store, "drop_partial", fail)
        with pytest.raises(PermissionError):
            idle.drop(name(1))
        with pytest.raises(PermissionError):
            idle.drop_oldest(1)
    assert world.space.reserved == blocks
    assert idle.drop_oldest(1) == blocks
