"""The end of a copy that several sessions made: one publishes it, whoever dies on the way."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable

import gevent
import pytest

from streamcache.cache import locks
from streamcache.cache.allotment import Allotment
from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.partial import Partial
from streamcache.cache.publication import Published, publish
from streamcache.cache.space import footprint
from streamcache.errors import CacheBusy, NoSpace, SourceChanged
from tests.cache.fakes import World
from tests.cache.rooms import SIZE, Process, fill, name, recovery

MTIME = 1_234_567_890_123_456_789


def yes() -> bool:
    return True


def go(
    room: Allotment, *, wanted: Callable[[], bool] = yes, is_still: Callable[[], bool] = yes
) -> Published | None:
    return publish(room, MTIME, wanted=wanted, is_still=is_still)


@pytest.fixture
def processes(world: World) -> list[Process]:
    return [Process(world) for _ in range(2)]


@pytest.fixture
def rooms(processes: list[Process]) -> list[Allotment]:
    """Of two processes; between them they have copied everything."""
    opened = [process.open() for process in processes]
    fill(opened[0], 0, 3)
    fill(opened[1], 3, 5)
    return opened


def enter(world: World, done: Published) -> None:
    """As ``Removal.enter``; and the descriptor is closed."""
    assert done.lock is not None
    with done.lock:
        world.ledger.add(name(), "film.mp4", SIZE, done.on_disk)
        world.store.partials.drop_map(name())
    world.published.append((name(), done.on_disk))
    os.close(done.fd)


def leave(*rooms: Allotment) -> None:
    for room in rooms:
        room.let_go(keep=True)


def settled(world: World) -> bool:
    return (world.partials(), world.kept) == ([], {})


@pytest.fixture
def seals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was made durable."""
    sealed: list[str] = []
    seal = Partial.seal

    def note(self: Partial, mtime_ns: int, path: str) -> None:
        sealed.append(self.name)
        seal(self, mtime_ns, path)

    monkeypatch.setattr(Partial, "seal", note)
    return sealed


def test_of_two_exactly_one_publishes(
    world: World, rooms: list[Allotment], seals: list[str]
) -> None:
    both = [gevent.spawn(go, room) for room in rooms]
    done = [greenlet.get(timeout=10) for greenlet in both]
    assert seals == [name()]
    (ours,) = [end for end in done if end.lock is not None]
    (theirs,) = [end for end in done if end.lock is None]
    assert os.fstat(ours.fd).st_ino == os.fstat(theirs.fd).st_ino
    assert os.fstat(ours.fd).st_mtime_ns == MTIME
    assert (ours.on_disk, theirs.on_disk) == (os.fstat(ours.fd).st_blocks * 512, 0)
    enter(world, ours)
    assert world.store.objects.remove_unread([name()]) == [], (
        "the other one has the lock of a reader"
    )
    os.close(theirs.fd)
    leave(*rooms)
    assert settled(world)


def test_in_one_process_too(world: World, processes: list[Process], seals: list[str]) -> None:
    process = processes[0]
    opened = [process.open() for _ in range(3)]
    fill(opened[0])
    greenlets = [gevent.spawn(go, room) for room in opened]
    done = [greenlet.get(timeout=10) for greenlet in greenlets]
    assert seals == [name()]
    (ours,) = [end for end in done if end.lock is not None]
    for end in done:
        if end is not ours:
            os.close(end.fd)
    enter(world, ours)
    leave(*opened)
    assert settled(world)


def test_who_comes_later_finds_it_done(world: World, rooms: list[Allotment]) -> None:
    enter(world, go(rooms[0]))
    later = go(rooms[1], is_still=pytest.fail)
    assert later.lock is None
    os.close(later.fd)
    leave(*rooms)
    assert settled(world)


def test_what_was_removed_meanwhile_is_not_published_again(
    world: World, rooms: list[Allotment]
) -> None:
    """No Evictor takes it, as the other session reads it; somebody else may."""
    enter(world, go(rooms[0]))
    assert world.store.objects.remove_unread([name()]) == []
    path = world.root / "cache" / "objects" / name()[:2] / name()
    path.unlink()
    world.ledger.remove([name()])
    world.published.clear()
    with pytest.raises(CacheBusy, match="lost its name"):
        go(rooms[1])
    leave(*rooms)
    assert settled(world)


def test_a_new_partial_of_the_name_is_another_one(
    world: World, processes: list[Process], rooms: list[Allotment]
) -> None:
    """It is not published for one that has lost its name, and not dropped by it."""
    world.store.partials.drop(name())
    new = processes[0].open()
    with pytest.raises(CacheBusy, match="lost its name"):
        go(rooms[1])
    rooms[1].let_go(keep=False)
    assert len(world.partials()) == 2
    fill(new)
    enter(world, go(new))
    leave(new, rooms[0])
    assert settled(world)


# -- one that fails


def test_what_could_not_be_made_durable_is_published_by_nobody(
    world: World, rooms: list[Allotment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync tells of lost data once: the other one would hear nothing (I5)."""

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no"):
            go(rooms[0])
    with pytest.raises(CacheBusy, match="durable"):
        go(rooms[1])
    leave(rooms[0])
    with pytest.raises(CacheBusy, match="durable"):
        go(rooms[1])
    leave(rooms[1])
    assert world.partials() == [], "nobody goes on with it"
    assert settled(world)


def test_what_could_not_be_made_durable_on_the_way_is_published_by_nobody(
    world: World,
    processes: list[Process],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = processes[0].open()

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    one.write(Extent(0, 1), memoryview(bytes(BLOCK)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="no"):
            one.sync()
    with pytest.raises(CacheBusy, match=r"not quite|durable"):
        two = processes[1].open()
        fill(two)
        go(two)
    leave(one)
    assert settled(world)


def test_poison_is_for_the_next_process_too(
    world: World, processes: list[Process], rooms: list[Allotment]
) -> None:
    rooms[0].partial.poison()
    for process in processes:
        process.end()
    after = Process(world)
    room = after.open()
    assert room.partial.present(0, 5) == bytes(5)
    leave(room)


def test_one_that_the_source_has_changed_for_leaves_it_to_the_other(
    world: World, rooms: list[Allotment]
) -> None:
    """It has its own look, and does not wait until the first one is closed."""
    with pytest.raises(SourceChanged):
        go(rooms[0], is_still=lambda: False)
    done = gevent.spawn(go, rooms[1]).get(timeout=5)
    enter(world, done)
    leave(*rooms)
    assert settled(world)


def test_one_that_is_not_wanted_any_more_leaves_it_to_the_other(
    world: World, rooms: list[Allotment]
) -> None:
    answers = iter([True, False, False])
    assert go(rooms[0], wanted=lambda: next(answers)) is None
    assert go(rooms[1], wanted=lambda: False) is None
    done = gevent.spawn(go, rooms[1]).get(timeout=5)
    enter(world, done)
    leave(*rooms)
    assert settled(world)


def test_one_that_cannot_rename_leaves_it_to_the_other(
    world: World, rooms: list[Allotment], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EACCES, "no")

    with monkeypatch.context() as patch:
        patch.setattr(world.store.objects, "publish", fail)
        with pytest.raises(OSError, match="no"):
            go(rooms[0])
    enter(world, gevent.spawn(go, rooms[1]).get(timeout=5))
    leave(*rooms)
    assert settled(world)


def test_a_key_that_is_held_for_long_is_waited_for(
    world: World,
    processes: list[Process],
    rooms: list[Allotment],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request holds it while the source is slow; the copy is not thrown away for that."""
    monkeypatch.setattr(locks, "LOCK_WAIT", 0.01)
    lock = processes[1].keys.acquire("ab" * 16)
    publishing = gevent.spawn(go, rooms[0])
    gevent.sleep(0.05)
    assert not publishing.ready()
    lock.release()
    enter(world, publishing.get(timeout=5))
    leave(*rooms)
    assert settled(world)


def test_a_key_that_is_held_is_not_waited_for_by_what_is_not_wanted(
    world: World, processes: list[Process], rooms: list[Allotment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_WAIT", 0.01)
    wanted = [True]
    with processes[1].keys.acquire("ab" * 16):
        publishing = gevent.spawn(go, rooms[0], wanted=lambda: wanted[0])
        gevent.sleep(0.02)
        wanted[0] = False
        assert publishing.get(timeout=5) is None
    rooms[0].let_go(keep=False)
    rooms[1].let_go(keep=False)
    assert settled(world)


# -- one that dies


@pytest.mark.parametrize("when", ["before", "sealing", "sealed"])
def test_when_the_publisher_dies_before_the_rename_the_other_publishes(
    world: World,
    processes: list[Process],
    rooms: list[Allotment],
    when: str,
) -> None:
    assert rooms[0].partial.try_publish()
    if when != "before":
        rooms[0].seal(MTIME)
    waiting = gevent.spawn(go, rooms[1])
    gevent.sleep(0.02)
    assert not waiting.ready()
    processes[0].end()
    enter(world, waiting.get(timeout=5))
    leave(rooms[1])
    assert settled(world)


@pytest.mark.parametrize("stays", [True, False])
def test_when_the_publisher_dies_after_the_rename_the_object_is_entered(
    world: World, processes: list[Process], rooms: list[Allotment], stays: bool
) -> None:
    """Before the catalog knows of it; the other one may be there or not."""
    done = go(rooms[0])
    on_disk = os.fstat(done.fd).st_blocks * 512
    os.close(done.fd)
    processes[0].end()
    assert world.space.objects == 0
    if stays:
        other = go(rooms[1])
        assert other.lock is None
        os.close(other.fd)
    leave(rooms[1])
    recovery(world).sweep()
    assert (world.space.objects, world.space.reserved) == (on_disk, 0)
    world.published.append((name(), on_disk))
    assert settled(world)


def test_nothing_is_dropped_between_the_rename_and_the_row(
    world: World, rooms: list[Allotment]
) -> None:
    """A sweep, and one that leaves, find the key taken."""
    done = go(rooms[0])
    recovery(world).sweep()
    assert recovery(world).drop_oldest(1 << 40) == 0
    leaving = gevent.spawn(leave, rooms[1])
    gevent.sleep(0.02)
    assert world.partials() == [f"{name()}.map"]
    enter(world, done)
    leaving.get(timeout=5)
    leave(rooms[0])
    assert settled(world)


# -- leaving


def test_the_last_one_to_leave_settles(world: World, processes: list[Process]) -> None:
    rooms = [processes[0].open(), processes[0].open(), processes[1].open()]
    fill(rooms[0], 0, 1)
    reserved = world.kept[name()].bytes
    rooms[0].let_go(keep=False)
    assert world.kept[name()].bytes == reserved
    rooms[1].let_go(keep=True)
    assert world.kept[name()].bytes == reserved
    assert world.store.partials.remove(name()) is None
    rooms[2].let_go(keep=True)
    assert world.kept[name()].bytes == world.on_disk(name())


def test_one_ends_while_another_of_its_version_begins(
    world: World, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process: the end of the first must not take the room of the second."""
    process = processes[0]
    first = process.open()
    fill(first, 0, 1)
    held, go_on = threading.Event(), threading.Event()
    open_partial = world.store.partials.open

    def slow(*args: object) -> object:
        held.set()
        go_on.wait(10)
        return open_partial(*args)

    with monkeypatch.context() as patch:
        patch.setattr(world.store.partials, "open", slow)
        beginning = gevent.spawn(process.open)
        world.until(held.is_set)
        ending = gevent.spawn(first.let_go, keep=True)
        gevent.sleep(0.02)
        assert not ending.ready(), "the key is the new one's"
        go_on.set()
        second = beginning.get(timeout=5)
    ending.get(timeout=5)
    assert second.partial.present(0, 5) == b"\1\0\0\0\0"
    assert second.affords(4)
    assert world.kept[name()].bytes == footprint(SIZE)
    fill(second, 1, 5)
    enter(world, go(second))
    leave(second)
    assert settled(world)


def test_what_gave_up_draws_nothing(world: World, processes: list[Process]) -> None:
    room = processes[0].room()
    room.give_up()
    with pytest.raises(NoSpace), processes[0].keys.acquire("ab" * 16) as lock:
        room.open(processes[0].header(), lock)
    leave(room)
    assert settled(world)
