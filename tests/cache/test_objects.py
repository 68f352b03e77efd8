"""Open objects: shared descriptors, leases, and how an object goes that somebody reads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import gevent
import pytest

from streamcache.cache import stored as files
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.stored import ObjectFolder
from streamcache.source.base import Version
from tests.cache.fakes import World

SIZE = 5000


def version(number: int) -> Version:
    return Version(f"{number:032x}", SIZE, 1)


def stored(world: World, number: int = 1) -> tuple[str, Version]:
    """An object on disk, in the account."""
    name = f"{'ab' * 16}.{number:032x}"
    path = world.root / "cache" / "objects" / "ab" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes([number]) * SIZE)
    os.utime(path, ns=(0, version(number).mtime_ns))
    on_disk = path.stat().st_blocks * 512
    world.ledger.add(name, "a.mp4", SIZE, on_disk)
    world.published.append((name, on_disk))
    return name, version(number)


def gone(world: World, name: str) -> None:
    """It has left the catalog; the test's own list follows."""
    world.published = [entry for entry in world.published if entry[0] != name]
    assert world.space.objects == sum(on_disk for _, on_disk in world.published)


def evicted(world: World, name: str) -> None:
    """What the Evictor does after ``Objects.evict``."""
    world.ledger.remove([name])
    gone(world, name)


def trash(world: World) -> list[str]:
    return os.listdir(world.root / "cache" / "trash")


def copy_in_another_process(world: World, name: str) -> int:
    """A reader's descriptor of a description that is not this cache's, as in another process."""
    fd = world.store.objects.open(name, version(1))
    assert fd >= 0
    return fd


def leased(world: World, number: int = 1) -> ObjectHandle:
    handle = world.objects.lease(*stored(world, number))
    assert handle is not None
    return handle


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_readers_share_one_descriptor(world: World) -> None:
    name, of = stored(world)
    first, second = world.objects.lease(name, of), world.objects.lease(name, of)
    assert first is second is not None
    assert first.leases == 2
    assert os.pread(first.fd, 2, SIZE - 2) == b"\1\1"
    assert world.objects.leased() == {name}
    world.objects.release(first)
    assert world.objects.leased() == {name}
    world.objects.release(first)
    assert world.objects.leased() == set()


def test_two_that_open_at_once_share_it_too(world: World) -> None:
    name, of = stored(world)
    both = [gevent.spawn(world.objects.lease, name, of) for _ in range(2)]
    handles = [greenlet.get() for greenlet in both]
    assert handles[0] is handles[1]
    for handle in handles:
        world.objects.release(handle)


def test_what_is_not_there_is_none(world: World) -> None:
    assert world.objects.lease(f"{'ab' * 16}.{'0' * 32}", version(0)) is None


def test_an_object_of_another_size_is_no_object(world: World) -> None:
    name, _of = stored(world)
    assert world.objects.lease(name, Version(f"{1:032x}", SIZE + 1, 1)) is None
    assert not (world.root / "cache" / "objects" / "ab" / name).exists()
    evicted(world, name)


def test_a_released_object_stays_open_for_the_next(world: World) -> None:
    handle = leased(world)
    fd = handle.fd
    world.objects.release(handle)
    again = world.objects.lease(handle.name, handle.version)
    assert again is handle
    assert again.fd == fd
    world.objects.release(again)


def test_only_so_many_stay_open(make_world: Callable[..., World]) -> None:
    world = make_world(keep=2)
    handles = [leased(world, number) for number in range(4)]
    fds = [handle.fd for handle in handles]
    for handle in handles:
        world.objects.release(handle)
    world.settle()
    assert [is_open(fd) for fd in fds] == [False, False, True, True]


def test_eviction_takes_nothing_that_is_leased(world: World) -> None:
    read, idle = leased(world, 1), leased(world, 2)
    world.objects.release(idle)
    never = stored(world, 3)[0]
    names = [read.name, idle.name, never]
    assert world.objects.evict(names) == [idle.name, never]
    for name in (idle.name, never):
        evicted(world, name)
    assert os.pread(read.fd, 1, 0) == b"\1"
    world.objects.release(read)


def test_what_is_being_evicted_takes_no_reader(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, of = stored(world)
    go = threading.Event()
    remove = world.store.objects.remove_unread
    monkeypatch.setattr(
        world.store.objects, "remove_unread", lambda names: (go.wait(20), remove(names))[1]
    )
    evicting = gevent.spawn(world.objects.evict, [name])
    gevent.sleep(0)
    assert world.objects.lease(name, of) is None
    assert not world.objects.discard(name)
    go.set()
    assert evicting.get() == [name]
    evicted(world, name)


def test_an_open_that_meets_an_eviction_gets_nothing_or_all(world: World) -> None:
    for number in range(20):
        name, of = stored(world, number)
        opening = gevent.spawn(world.objects.lease, name, of)
        evicting = gevent.spawn(world.objects.evict, [name])
        handle = opening.get()
        if name in evicting.get():
            evicted(world, name)
        if handle is not None:
            assert os.pread(handle.fd, SIZE, 0) == bytes([number]) * SIZE
            world.objects.release(handle)


def test_an_object_that_must_go_leaves_its_readers_what_they_read(world: World) -> None:
    handle = leased(world)
    fd, name = handle.fd, handle.name
    on_disk = os.fstat(fd).st_blocks * 512
    assert world.objects.discard(name)
    gone(world, name)
    assert world.space.trash == on_disk, "its bytes count until they are free (I13)"
    assert world.objects.lease(name, handle.version) is None
    assert os.pread(fd, SIZE, 0) == b"\1" * SIZE
    world.objects.release(handle)
    world.settle()
    assert world.space.trash == 0
    assert not is_open(fd)
    assert trash(world) == []


def test_an_object_that_must_go_and_is_not_read_goes_at_once(world: World) -> None:
    name, _of = stored(world)
    assert world.objects.discard(name)
    gone(world, name)
    assert world.space.trash == 0


@pytest.mark.parametrize("keep", [0, 8])
def test_the_last_reader_may_leave_while_the_object_is_taken_away(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    world = make_world(keep=keep)
    handle = leased(world)
    fd = handle.fd
    go = threading.Event()
    remove = world.store.objects.remove
    monkeypatch.setattr(
        world.store.objects, "remove", lambda *args: (go.wait(20), remove(*args))[1]
    )
    taking = gevent.spawn(world.objects.discard, handle.name)
    gevent.sleep(0)
    world.objects.release(handle)
    go.set()
    assert taking.get()
    gone(world, handle.name)
    world.settle()
    assert world.space.trash == 0
    assert not is_open(fd)
    assert trash(world) == []


def test_an_object_that_somebody_removed_is_not_in_the_trash(world: World) -> None:
    handle = leased(world)
    (world.root / "cache" / "objects" / "ab" / handle.name).unlink()
    assert world.objects.discard(handle.name)
    assert world.space.trash == 0
    gone(world, handle.name)
    world.objects.release(handle)
    assert world.objects.lease(handle.name, handle.version) is None


def test_trash_that_cannot_be_renamed_stays_an_object(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = leased(world)

    def fails(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(world.store.objects, "remove", fails)
    with pytest.raises(PermissionError):
        world.objects.discard(handle.name)
    assert world.space.trash == 0
    again = world.objects.lease(handle.name, handle.version)
    assert again is handle
    world.objects.release(handle)
    world.objects.release(handle)


def test_a_new_object_of_a_name_that_was_discarded_is_another(world: World) -> None:
    old = leased(world)
    world.objects.discard(old.name)
    gone(world, old.name)
    new = leased(world)
    assert new is not old
    world.objects.release(old)
    assert os.pread(new.fd, 1, 0) == b"\1"
    world.objects.release(new)
    world.settle()
    assert world.space.trash == 0


def test_nobody_joins_what_was_opened_before_a_discard_and_heard_of_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, of = stored(world)
    opened, go, really = threading.Event(), threading.Event(), ObjectFolder.open

    def held(self: ObjectFolder, name: str, version: Version) -> int:
        fd = really(self, name, version)
        opened.set()
        assert go.wait(20)  # this thread has no core for a moment
        return fd

    monkeypatch.setattr(ObjectFolder, "open", held)
    early = gevent.spawn(world.objects.lease, name, of)
    world.until(opened.is_set)
    assert world.objects.discard(name)
    gone(world, name)
    go.set()
    assert early.get(timeout=20) is None
    assert world.objects.lease_open(name) is None
    world.settle()
    world.objects.empty_trash(trash(world))
    assert trash(world) == []


def test_a_lease_does_not_wait_for_the_discards_of_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, of = stored(world)
    other, _ = stored(world, 2)
    opens, really = [], ObjectFolder.open

    def slow(self: ObjectFolder, name: str, version: Version) -> int:
        opens.append(name)
        time.sleep(0.05)
        return really(self, name, version)

    monkeypatch.setattr(ObjectFolder, "open", slow)
    lease = gevent.spawn(world.objects.lease, name, of)
    world.until(lambda: opens)
    assert world.objects.discard(other)
    gone(world, other)
    handle = lease.get(timeout=20)
    assert opens == [name]
    world.objects.release(handle)


def test_an_object_that_may_have_lost_its_name_is_joined_by_nobody(world: World) -> None:
    name, of = stored(world)
    handle = world.objects.adopt(name, of, world.store.objects.open(name, of), joined=False)
    assert world.objects.lease_open(name) is None
    other = world.objects.lease(name, of)
    assert other is not None
    assert other is not handle
    world.objects.release(handle)
    world.objects.release(other)


# -- other processes


def test_what_another_process_reads_is_not_evicted(world: World) -> None:
    name, of = stored(world)
    other = copy_in_another_process(world, name)
    assert world.objects.evict([name]) == []
    handle = world.objects.lease(name, of)
    assert handle is not None, "it is as it was"
    world.objects.release(handle)
    os.close(other)
    assert world.objects.evict([name]) == [name]
    evicted(world, name)


def test_what_another_process_reads_counts_until_that_one_leaves(world: World) -> None:
    name, of = stored(world)
    other = copy_in_another_process(world, name)
    on_disk = os.fstat(other).st_blocks * 512
    assert world.objects.discard(name)
    gone(world, name)
    assert world.space.trash == on_disk
    assert world.objects.lease(name, of) is None
    world.objects.empty_trash(trash(world))
    assert world.space.trash == on_disk, "it is read"
    os.close(other)
    world.objects.empty_trash(trash(world))
    assert (world.space.trash, trash(world)) == (0, [])


def test_what_another_process_took_away_is_not_leased_again(world: World) -> None:
    """It was open here, without a reader: nothing kept it."""
    handle = leased(world)
    world.objects.release(handle)
    assert world.store.objects.remove_unread([handle.name]) == [handle.name]
    evicted(world, handle.name)
    assert world.objects.lease(handle.name, handle.version) is None
    world.until(lambda: handle.fd < 0)


def test_what_another_process_is_taking_away_is_not_leased_again(world: World) -> None:
    handle = leased(world)
    world.objects.release(handle)
    remover = os.open(f"/proc/self/fd/{handle.fd}", os.O_RDONLY)
    assert files._is_free(remover)
    assert world.objects.lease_open(handle.name) is None
    os.close(remover)


@pytest.mark.parametrize("read", [False, True], ids=["idle", "read"])
@pytest.mark.parametrize("end", ["evict", "discard", "take", "removed", "close"])
def test_what_ends_is_good_for_no_reader_any_more(world: World, end: str, read: bool) -> None:
    """Who relies on ``good_until`` does not look at the index."""
    handle = leased(world)
    name = handle.name
    handle.good_until = 1e9
    if not read:
        world.objects.release(handle)
    if end == "evict":
        expected = not read
        assert world.objects.evict([name]) == ([name] if expected else [])
        if expected:
            evicted(world, name)
    elif end == "discard":
        expected = world.objects.discard(name)
        gone(world, name)
    elif end == "close":
        world.objects.close()
        expected = True
    else:
        os.unlink(world.store.objects.path(name))
        evicted(world, name)
        expected = not (end == "take" and read)  # a lease kept it, from other processes too
        if end == "take":
            world.objects.take(handle)
            world.objects.release(handle)
        else:
            world.objects.let_go_of_removed()
    assert (handle.good_until == 0.0) == expected
    if read:
        world.objects.release(handle)
    world.settle()


def test_descriptors_of_what_others_removed_are_closed(world: World) -> None:
    """Its blocks are free only then (I13)."""
    kept, removed, read = leased(world, 1), leased(world, 2), leased(world, 3)
    for handle in (kept, removed):
        world.objects.release(handle)
    fds = kept.fd, removed.fd
    world.store.objects.remove_unread([removed.name])
    evicted(world, removed.name)
    world.objects.let_go_of_removed()
    world.settle()
    assert [is_open(fd) for fd in fds] == [True, False]
    world.objects.release(read)


def test_nobody_joins_who_reads_what_another_process_removed(world: World) -> None:
    """Its blocks are in no account: a row of readers must not keep them for ever (I13)."""
    handle = leased(world)
    name, of = handle.name, handle.version
    world.objects.release(handle)
    hot = world.objects.peek(name)
    assert hot is handle
    assert world.store.objects.remove_unread([name]) == [name]
    evicted(world, name)
    world.objects.take(hot)
    assert os.pread(hot.fd, SIZE, 0) == bytes([1]) * SIZE
    assert world.objects.peek(name) is None
    assert world.objects.lease(name, of) is None
    world.objects.release(hot)
    world.until(lambda: hot.fd < 0)


def test_nobody_joins_who_reads_what_was_removed_by_hand(world: World) -> None:
    handle = leased(world)
    os.unlink(world.store.objects.path(handle.name))
    evicted(world, handle.name)
    world.objects.let_go_of_removed()
    assert os.pread(handle.fd, SIZE, 0) == bytes([1]) * SIZE
    assert world.objects.lease(handle.name, handle.version) is None
    world.objects.release(handle)
    world.until(lambda: handle.fd < 0)


def test_a_lease_that_is_given_up_here_keeps_that_of_another_process(world: World) -> None:
    handle = leased(world)
    other = copy_in_another_process(world, handle.name)
    world.objects.release(handle)
    assert world.objects.evict([handle.name]) == []
    os.close(other)


def test_what_is_still_read_at_the_end_is_closed_when_it_is_released(world: World) -> None:
    handle = leased(world)
    idle = leased(world, 2)
    world.objects.release(idle)
    fds = handle.fd, idle.fd
    world.objects.close()
    world.until(lambda: not is_open(fds[1]))
    assert is_open(fds[0])
    world.disk.close()
    assert world.disk.join(20)
    world.objects.release(handle)
    world.until(lambda: not is_open(fds[0]))
