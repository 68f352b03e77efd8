"""What enters the catalog and what leaves the disk, by the lock of its key."""

from __future__ import annotations

import os

import gevent
import pytest

from streamcache.cache import locks
from streamcache.cache import removal as removal_module
from streamcache.cache.database import CatalogError
from streamcache.source.base import Version
from tests.cache.fakes import World
from tests.cache.rooms import SIZE, Process, fill, left_behind, name


def published(world: World, partial: str = name(), *, enter: bool = True) -> tuple[int, object]:
    """An object and the lock of its key; entered, or not yet."""
    process = Process(world)
    room = process.open(partial)
    fill(room)
    room.seal(1)
    room._keys = world.keys
    fd, on_disk, lock = room.publish()
    os.close(fd)
    process.end()
    if enter:
        world.removal.enter(partial, "film.mp4", SIZE, on_disk, lock)
        world.until(lambda: not world.removal._tasks)
        world.published.append((partial, on_disk))
    return on_disk, lock


def done(world: World) -> None:
    world.until(lambda: not world.removal._tasks)


def test_the_key_is_free_when_the_catalog_knows(world: World) -> None:
    on_disk, _ = published(world)
    assert (world.space.objects, world.space.reserved, world.partials()) == (on_disk, 0, [])
    assert repr(world.keys) == "<KeyLocks held=0>"


def test_a_catalog_that_cannot_be_written_now_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal_module, "_PAUSE", 0.001)
    on_disk, lock = published(world, enter=False)
    add, fails = world.ledger.add, [2]

    def flaky(*args: object) -> None:
        if fails[0]:
            fails[0] -= 1
            assert world.keys.try_acquire("ab" * 16) is None
            raise CatalogError("locked")
        add(*args)

    monkeypatch.setattr(world.ledger, "add", flaky)
    world.removal.enter(name(), "film.mp4", SIZE, on_disk, lock)
    done(world)
    world.published.append((name(), on_disk))
    assert (world.space.objects, world.partials()) == (on_disk, [])


def test_what_cannot_be_entered_keeps_its_journal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal_module, "_PAUSE", 0.001)
    on_disk, lock = published(world, enter=False)

    def fail(*_: object) -> None:
        raise CatalogError("full")

    with monkeypatch.context() as patch:
        patch.setattr(world.ledger, "add", fail)
        world.removal.enter(name(), "film.mp4", SIZE, on_disk, lock)
        done(world)
    assert world.partials() == [f"{name()}.map"]
    assert repr(world.keys) == "<KeyLocks held=0>"
    world.ledger.add(name(), "film.mp4", SIZE, on_disk)
    world.store.partials.drop_map(name())
    world.published.append((name(), on_disk))


def test_objects_and_idle_partials_of_other_versions_go(world: World) -> None:
    published(world, name(1))
    left_behind(world, name(2))
    kept = left_behind(world, name(3))
    other = left_behind(world, name(1, "cd"))
    world.published.clear()
    world.removal.remove_others("ab" * 16, Version(name(3)[33:], SIZE, 1), "f")
    done(world)
    assert {partial: row.bytes for partial, row in world.kept.items()} == {
        name(3): kept,
        name(1, "cd"): other,
    }
    assert world.space.objects == 0
    world.removal.remove_others("ab" * 16, None, "f")
    done(world)
    assert list(world.kept) == [name(1, "cd")]


def test_a_partial_that_somebody_works_on_is_left_to_that_one(world: World) -> None:
    process = Process(world)
    room = process.open()
    before = world.kept
    world.removal.remove([name()], "f")
    done(world)
    assert len(world.partials()) == 2
    assert world.kept == before
    room.let_go(keep=False)
    assert (world.partials(), world.kept) == ([], {})


def test_who_has_the_key_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(world)
    lock = Process(world).keys.acquire("ab" * 16)
    world.removal.remove([name()], "f")
    gevent.sleep(0.02)
    assert len(world.partials()) == 2
    lock.release()
    done(world)
    assert world.partials() == []


def test_who_keeps_the_key_for_too_long_keeps_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(world)
    monkeypatch.setattr(locks, "LOCK_WAIT", 0.01)
    with Process(world).keys.acquire("ab" * 16):
        world.removal.remove([name()], "f")
        done(world)
    assert len(world.partials()) == 2
