"""What dead processes leave: settled, entered, dropped, and nothing that somebody uses."""

from __future__ import annotations

import os
from pathlib import Path

import gevent
import pytest

from streamcache.cache import allotment
from streamcache.cache.space import footprint
from streamcache.errors import CacheBusy, CacheError, NoSpace, SourceBusy
from streamcache.source.base import Version
from tests.cache.another import AnotherProcess
from tests.cache.fakes import World
from tests.cache.rooms import COUNT, SIZE, Process, fill, left_behind, name, recovery


def published(world: World, partial: str = name(), *, path: bool = True) -> int:
    """An object whose process died before the catalog knew; its bytes."""
    process = Process(world)
    room = process.open(partial)
    fill(room)
    room.seal(1)
    fd, on_disk, _ = room.publish()
    os.close(fd)
    process.end()
    return on_disk


def names_of(world: World) -> dict[str, int]:
    return {partial: row.bytes for partial, row in world.kept.items()}


# -- partials


def test_a_partial_of_a_dead_process_is_settled(world: World) -> None:
    on_disk = left_behind(world, settled=False)
    assert names_of(world) == {name(): footprint(SIZE)}
    sweeper = recovery(world)
    sweeper.sweep()
    assert names_of(world) == {name(): on_disk}
    assert len(world.partials()) == 2
    for _ in range(2):
        sweeper.sweep()
        assert names_of(world) == {name(): on_disk}
    process = Process(world)
    room = process.open()
    assert room.partial.present(0, COUNT) == b"\1\0\0\0\0"
    process.end()
    sweeper.sweep()
    assert names_of(world) == {name(): on_disk}, "it was drawn for, and left, once more"


def test_what_is_in_order_is_not_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(world)
    sweeper = recovery(world)
    sweeper.sweep()
    sweeper.sweep()
    looks: list[str] = []
    monkeypatch.setattr(world.store.partials, "settle", looks.append)
    sweeper.sweep()
    assert looks == []


def test_an_unsound_partial_of_a_dead_process_goes(world: World) -> None:
    left_behind(world, settled=False)
    with open(world.store.partials.map_path(name()), "r+b") as file:
        file.write(b"\0")
    recovery(world).sweep()
    assert (world.partials(), names_of(world)) == ([], {})


def test_a_reservation_without_files_ends(world: World) -> None:
    world.space.draw(name(), 1 << 20, 1 << 20, timeout=0)
    recovery(world).sweep()
    assert names_of(world) == {}


def test_a_partial_in_no_account_goes(world: World) -> None:
    """We cannot tell whether there is room for it."""
    left_behind(world)
    world.space.settle(name(), world.kept[name()].generation, 0)
    recovery(world).sweep()
    assert world.partials() == []


def test_what_somebody_works_on_is_left_alone(world: World) -> None:
    process = Process(world)
    room = process.open()
    fill(room, 0, 1)
    before = world.partials()
    sweeper = recovery(world)
    sweeper.sweep()
    assert sweeper.drop_oldest(1 << 40) == 0
    assert (world.partials(), names_of(world)) == (before, {name(): footprint(SIZE)})
    fill(room, 1, COUNT)
    process.end()
    sweeper.sweep()
    assert names_of(world) == {name(): world.on_disk(name())}


def test_what_somebody_has_the_key_of_is_left_alone(world: World) -> None:
    """It is about to be begun, renamed or removed."""
    left_behind(world, settled=False)
    with Process(world).keys.acquire("ab" * 16):
        sweeper = recovery(world)
        sweeper.sweep()
        assert sweeper.drop_oldest(1 << 40) == 0
        assert names_of(world) == {name(): footprint(SIZE)}
    sweeper.sweep()
    assert names_of(world) == {name(): world.on_disk(name())}


def test_nothing_is_dropped_while_usage_is_unknown(world: World) -> None:
    left_behind(world)
    before = world.partials()
    kept = names_of(world)
    world.space.lose_usage()
    recovery(world).sweep()
    assert world.partials() == before
    world.space.refresh()
    assert world.space.known
    assert names_of(world) == kept


def test_nothing_is_dropped_when_usage_is_lost_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new catalog has no reservations, until they are entered."""
    left_behind(world)
    before = world.partials()

    def lost(partial: str) -> int:
        world.space.lose_usage()
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(world.space, "generation", lost)
        recovery(world).sweep()
    assert world.partials() == before
    world.space.refresh()


def test_the_oldest_partials_go_until_there_is_room(world: World) -> None:
    on_disk = [left_behind(world, name(number)) for number in range(4)]
    sweeper = recovery(world)
    assert sweeper.drop_oldest(on_disk[0] + 1) == on_disk[0] + on_disk[1]
    assert sorted(names_of(world)) == [name(2), name(3)]
    assert world.space.reserved == on_disk[2] + on_disk[3]
    assert sweeper.drop_oldest(1 << 40) == on_disk[2] + on_disk[3]
    assert (world.space.used, world.partials()) == (0, [])


def test_what_cannot_be_removed_stays_in_the_account(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk = left_behind(world)

    def fail(_: str) -> None:
        raise PermissionError("no")

    with monkeypatch.context() as broken:
        broken.setattr(world.store.partials, "remove", fail)
        with pytest.raises(PermissionError):
            recovery(world).drop_oldest(1)
    assert world.space.reserved == on_disk
    assert recovery(world).drop_oldest(1) == on_disk


# -- objects that were published, and whose process died


@pytest.mark.parametrize("how", ["sweep", "drop_oldest"])
def test_an_object_in_no_catalog_is_entered(world: World, how: str) -> None:
    on_disk = published(world)
    assert names_of(world) == {name(): footprint(SIZE)}
    sweeper = recovery(world)
    if how == "sweep":
        sweeper.sweep()
    else:
        assert sweeper.drop_oldest(1 << 40) == 0
    assert (world.space.objects, world.space.reserved) == (on_disk, 0)
    assert world.partials() == []
    world.published.append((name(), on_disk))
    entry = world.ledger.call(world.ledger.catalog.get, name())
    assert (entry.path, entry.size) == ("film.mp4", SIZE)
    handle = world.objects.lease(name(), Version(name()[33:], SIZE, 1))
    assert handle is not None
    world.objects.release(handle)


def test_a_journal_of_an_object_that_is_entered_goes(world: World) -> None:
    """Killed between the catalog's row and the end of the map."""
    on_disk = published(world)
    world.ledger.add(name(), "film.mp4", SIZE, on_disk)
    recovery(world).sweep()
    assert (world.space.objects, world.space.reserved, world.partials()) == (on_disk, 0, [])
    world.published.append((name(), on_disk))


def test_a_journal_without_an_object_goes(world: World) -> None:
    published(world)
    os.unlink(world.store.objects.path(name()))
    recovery(world).sweep()
    assert (world.space.used, world.partials()) == (0, [])


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("waits", [True, False])
def test_who_leaves_a_copy_that_a_dead_process_published_keeps_its_journal(
    world: World, keep: bool, waits: bool
) -> None:
    """Else the object would be in no account (I13), for ever."""
    process, other = Process(world), Process(world)
    other_room = other.open() if not waits else other.room()
    room = process.open()
    fill(room)
    room.seal(1)
    fd, on_disk, _ = room.publish()
    os.close(fd)
    process.end()
    other_room.let_go(keep=keep)
    recovery(world).sweep()
    assert (world.space.objects, world.space.reserved, world.partials()) == (on_disk, 0, [])
    world.published.append((name(), on_disk))


def test_what_is_published_already_is_not_begun_again(world: World) -> None:
    """A session that waited for room without its key comes back to an object."""
    process, other = Process(world), Process(world)
    filling = world.fill()
    room = process.room()
    world.space.evicting = True  # so that it waits

    def open_it() -> None:
        with process.keys.acquire("ab" * 16) as lock:
            room.open(process.header(), lock)

    opening = gevent.spawn(open_it)
    world.until(lambda: world.space.waiters)
    filling.release()
    with other.keys.acquire("ab" * 16):  # the other one was quicker
        world.until(lambda: not world.space.waiters)
        partial, _ = world.store.partials.open(name(), other.header())
        on_disk = world.store.objects.publish(name(), partial.inode)
        partial.close()
        world.ledger.add(name(), "film.mp4", SIZE, on_disk)
        world.store.partials.drop_map(name())
        world.published.append((name(), on_disk))
    with pytest.raises(CacheBusy, match="published"):
        opening.get(timeout=10)
    room.let_go(keep=True)
    assert world.partials() == []
    recovery(world).sweep()
    assert names_of(world) == {}
    world.space.evicting = False


# -- a reservation that is settled while its session waits for room


@pytest.mark.parametrize("blocks_left", [True, False])
def test_what_was_drawn_and_settled_is_drawn_again(
    world: World, monkeypatch: pytest.MonkeyPatch, blocks_left: bool
) -> None:
    """It waited for room without its key; nobody could see that it is at work (I13)."""
    monkeypatch.setattr(allotment, "STEP", 128 * 1024)
    size = 64 * SIZE
    before = 0
    process = Process(world)
    if blocks_left:
        room = process.open(size=size)
        fill(room, 0, 1)
        room.let_go(keep=True)
        before = world.on_disk(name())
    filling = world.fill()
    room = process.room(size=size)
    world.space.evicting = True

    def open_it() -> None:
        with process.keys.acquire("ab" * 16) as lock:
            room.open(process.header(size=size), lock)

    opening = gevent.spawn(open_it)
    world.until(lambda: world.space.waiters)
    with world.keys.acquire("ab" * 16):  # as a sweep that is just at this partial
        filling.release()
        world.until(lambda: not world.space.waiters)
        assert names_of(world) == {name(): before + (128 << 10)}
        recovery(world)._settle(name(), None)
        assert names_of(world) == ({name(): before} if before else {})
    opening.get(timeout=10)
    assert names_of(world) == {name(): before + (128 << 10)}
    assert room._drawn == 128 << 10
    world.space.evicting = False
    room.let_go(keep=True)


def test_what_another_session_published_is_not_evicted_while_a_copy_reads_it(world: World) -> None:
    """It does not know yet that it is an object; unlinked, its blocks were in no account (I13)."""
    process, other = Process(world), Process(world)
    room, others = process.open(), other.open()
    fill(room)
    room.seal(1)
    fd, on_disk, lock = room.publish()
    world.ledger.add(name(), "film", SIZE, on_disk)
    lock.release()
    room.let_go(keep=False)
    os.close(fd)
    assert world.objects.evict([name()]) == []
    read = others.published()
    assert read is not None
    others.let_go(keep=False)
    assert world.objects.evict([name()]) == []
    os.close(read)
    assert world.objects.evict([name()]) == [name()]
    world.ledger.remove([name()])


def test_a_partial_is_let_go_of_although_no_call_can_be_queued(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(world)
    room = process.open()
    fill(room)
    monkeypatch.setattr(world.disk, "max_queue", -1)
    with pytest.raises(SourceBusy):
        room.let_go(keep=True)
    monkeypatch.undo()
    world.until(lambda: world.store.partials.look(name()) is not None)
    recovery(world).sweep()


def test_who_leaves_a_copy_to_others_enters_nothing_for_it_in_a_new_catalog(world: World) -> None:
    """It would be a reservation that nobody settles, for each such file since the start."""
    process, other = Process(world), Process(world)
    room = process.open()
    others = other.open()
    fill(others)
    room.let_go(keep=True)
    assert world.space.drawn == {}
    assert names_of(world) == {name(): footprint(SIZE)}, "others work on it"
    others.let_go(keep=False)


def test_who_gave_up_waiting_leaves_the_partial_as_it_was(world: World) -> None:
    on_disk = left_behind(world)
    filling = world.fill()
    process = Process(world)
    room = process.room()
    with pytest.raises(NoSpace), process.keys.acquire("ab" * 16) as lock:
        room.open(process.header(), lock)
    room.let_go(keep=False)
    filling.release()
    assert names_of(world) == {name(): on_disk}


# -- trash


def test_trash_is_emptied(world: World) -> None:
    path = Path(world.store.root, "trash", "old")
    path.write_bytes(bytes(SIZE))
    world.ledger.trashed(name(), "old", path.stat().st_blocks * 512)
    Path(world.store.root, "trash", "in no account").touch()
    world.ledger.trashed(name(2), "gone", 4096)
    recovery(world).sweep()
    assert world.space.trash == 0
    assert os.listdir(path.parent) == []
    assert world.ledger.trash() == []


def test_trash_that_nobody_reads_is_room_before_any_partial(world: World) -> None:
    kept = left_behind(world)
    path = Path(world.store.root, "trash", "old")
    path.write_bytes(bytes(SIZE))
    on_disk = path.stat().st_blocks * 512
    world.ledger.trashed(name(2), "old", on_disk)
    sweeper = recovery(world)
    assert sweeper.drop_oldest(on_disk) == 0
    assert (world.space.trash, world.space.reserved) == (0, kept)
    assert sweeper.drop_oldest(1) == kept


def test_trash_that_another_process_reads_stays(world: World, another: AnotherProcess) -> None:
    path = Path(world.store.root, "trash", "old")
    path.write_bytes(bytes(SIZE))
    on_disk = path.stat().st_blocks * 512
    another.do(f"fd = os.open({str(path)!r}, os.O_RDONLY)")
    another.do("fcntl.flock(fd, fcntl.LOCK_SH)")
    world.ledger.trashed(name(), "old", on_disk)
    sweeper = recovery(world)
    sweeper.sweep()
    assert (path.exists(), world.space.trash) == (True, on_disk)
    another.kill()
    sweeper.sweep()
    assert (path.exists(), world.space.trash) == (False, 0)


def test_a_partial_of_a_real_process_is_settled_when_that_is_killed(
    world: World, another: AnotherProcess
) -> None:
    world.space.draw(name(), footprint(SIZE), footprint(SIZE), timeout=0)
    header = repr(Process(world).header())
    another.do(f"store = Store({world.store.root!r})")
    another.do(f"partial, _ = store.partials.open({name()!r}, {header})")
    another.do("partial.write(Extent(0, 1), memoryview(bytes(65536)))")
    sweeper = recovery(world)
    sweeper.sweep()
    assert names_of(world) == {name(): footprint(SIZE)}
    another.kill()
    sweeper.sweep()
    assert names_of(world) == {name(): world.on_disk(name())}


def test_an_error_is_raised_and_the_key_is_free(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(world, settled=False)

    def fail(_: str) -> None:
        raise CacheError("no")

    with monkeypatch.context() as patch:
        patch.setattr(world.store.partials, "look", fail)
        with pytest.raises(CacheError):
            recovery(world).sweep()
    recovery(world).sweep()
    assert names_of(world) == {name(): world.on_disk(name())}
