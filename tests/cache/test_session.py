"""One copy: who gets which bytes when, what is kept, and what is left when it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import gevent
import pytest

from streamcache.cache import allotment, steps
from streamcache.cache import session as session_module
from streamcache.cache.partial import Partial
from streamcache.cache.session import CopySession
from streamcache.cache.space import footprint
from streamcache.cache.states import Event, State
from streamcache.errors import Closed, NoSpace, SourceChanged, SourceTimeout, SourceUnavailable
from tests import content
from tests.cache.fakes import BLOCK, Client, World

FILM = "film.mp4"
SIZE = 40 * BLOCK + 7
Patch = pytest.MonkeyPatch


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


@pytest.fixture
def world(either_world: World) -> World:
    """Whoever writes what is copied, it comes to the same."""
    return either_world


@pytest.fixture
def far(make_world: Callable[..., World]) -> World:
    """One in which several steps of a copy are in flight."""
    return make_world()


@pytest.fixture
def small_steps(monkeypatch: Patch) -> int:
    """Room is asked for in steps of a megabyte; what one step and a half is for a footprint."""
    monkeypatch.setattr(allotment, "STEP", 1 << 20)
    monkeypatch.setattr(steps, "AHEAD", 1 << 18)
    return 3 << 19


@pytest.fixture
def held_writes(monkeypatch: Patch) -> Iterator[threading.Event]:
    """Writes into the partial wait for this."""
    go = threading.Event()
    put = Partial.put

    def held(self: Partial, *args: Any) -> None:
        assert go.wait(20)
        put(self, *args)

    monkeypatch.setattr(Partial, "put", held)
    yield go
    go.set()


def broken(monkeypatch: Patch, method: str, code: int, *, after: int = 0) -> list[int]:
    """``Partial.method`` fails once it was called ``after`` times; the list of its calls."""
    calls: list[int] = []
    real = getattr(Partial, method)

    def call(self: Partial, *args: object) -> object:
        calls.append(len(calls))
        if len(calls) > after:
            raise OSError(code, os.strerror(code))
        return real(self, *args)

    monkeypatch.setattr(Partial, method, call)
    return calls


# -- the whole of it


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, SIZE])
@pytest.mark.parametrize("ahead", [None, 0])
def test_a_file_is_read_copied_and_published(world: World, size: int, ahead: int | None) -> None:
    session = world.session(FILM, size, ahead=ahead)
    client = world.client(session)
    answer = client.get(0, size)
    world.settle()
    assert answer.complete
    assert session.state is State.COMPLETE
    assert world.object_of(session) == "whole"
    assert world.source.bytes_read == size
    assert world.published == [(session.name, world.space.objects)]
    client.leave()
    world.settle()
    assert session.state is State.CLOSED
    assert session.ended.is_set()


def test_a_file_larger_than_four_gibibytes_is_served_at_its_end(world: World) -> None:
    size = (4 << 30) + BLOCK + 1
    world.path(FILM).touch()
    os.truncate(world.path(FILM), size)
    os.utime(world.path(FILM), (1, 1))
    world.gate.shut()
    session = world.session(FILM)
    client = world.client(session)
    got = gevent.spawn(session.read, client.reader, size - 1, size)
    world.settle()
    world.gate.let(size - 1)
    ready = got.get()
    assert (ready.offset, ready.length, bytes(ready.data)) == (size - 1, 1, b"\0")
    session.handle_event(Event.SHUTDOWN)
    client.leave()


def test_the_objects_modification_time_is_the_sources(world: World) -> None:
    path = world.write(FILM, SIZE)
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    session = world.session(FILM)
    client = world.client(session)
    world.settle()
    assert world.file_in_cache(session).stat().st_mtime_ns == 1_234_567_890_123_456_789
    client.leave()


def test_the_object_is_made_durable_before_it_gets_its_name(
    world: World, monkeypatch: Patch
) -> None:
    order: list[str] = []

    def record(owner: object, name: str) -> None:
        real: Callable[..., object] = getattr(owner, name)

        def call(*args: object, **options: object) -> object:
            order.append(name)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((os, "utime"), (os, "fsync"), (world.source, "stat"), (os, "rename")):
        record(owner, name)
    world.write(FILM, SIZE)
    order.clear()
    session = world.session(FILM)
    world.settle()
    folder = ["fsync"]  # of objects/, in which a folder was made
    assert order == ["utime", "fsync", "stat", *folder, "rename", "fsync"]
    assert session.state is State.CLOSED


@pytest.mark.parametrize("seed", range(6))
def test_each_source_byte_is_read_once_however_readers_come_seek_and_leave(
    world: World, seed: int
) -> None:
    random = Random(seed)
    world.gate.shut()
    session = world.session(FILM, SIZE)
    clients: list[Client] = [world.client(session)]
    for _ in range(30):
        act = random.randrange(4)
        if act == 0:
            clients.append(world.client(session))
        elif act == 1 and len(clients) > 1:
            clients.pop(random.randrange(len(clients))).leave()
        elif act == 2:
            start = random.randrange(SIZE)
            random.choice(clients).get(start, random.randint(start + 1, SIZE))
        else:
            world.gate.let(count=random.randint(1, 3))
        world.settle()
    world.gate.open()
    world.settle()
    assert all(answer.complete for client in clients for answer in client.answers)
    assert world.source.read_twice() == []
    assert world.source.bytes_read == SIZE
    assert world.object_of(session) == "whole"
    for client in clients:
        client.leave()


# -- order


def test_a_seek_goes_to_the_source_at_once_and_alone_while_steps_are_in_flight(
    far: World,
) -> None:
    _session, client = playing(far)
    before = far.gate.waiting
    assert len(before) == 4
    sought = client.get(30 * BLOCK + 5, 31 * BLOCK)
    far.settle()
    assert far.gate.waiting == [*before, 30 * BLOCK]
    far.gate.let(before[0])
    far.settle()
    assert far.gate.waiting == [*before[1:], 30 * BLOCK], "sequential while a seek waits"
    far.gate.let(30 * BLOCK)
    far.settle()
    assert sought.complete
    assert len(far.gate.waiting) == 4


def test_copying_goes_on_where_the_reader_is(far: World) -> None:
    _session, client = playing(far)
    client.get(20 * BLOCK, SIZE)
    far.settle()
    far.gate.let(20 * BLOCK)
    far.settle()
    far.gate.let(*(offset for offset in far.gate.waiting if offset < 20 * BLOCK))
    far.settle()
    assert far.gate.waiting[0] == 21 * BLOCK
    assert len(far.gate.waiting) == 4


def test_the_first_block_is_answered_before_it_is_kept(
    world: World, held_writes: threading.Event
) -> None:
    session = world.session(FILM, SIZE)
    client = world.client(session)
    answer = client.get(0, 10)
    world.until(lambda: not answer.waits)
    assert answer.complete
    assert session.map.present == 0
    held_writes.set()
    world.settle()
    assert session.map.complete
    assert world.source.bytes_read == SIZE
    client.leave()


def test_who_comes_while_the_first_block_is_being_kept_gets_it_too(
    world: World, held_writes: threading.Event
) -> None:
    session = world.session(FILM, BLOCK)
    first, second = world.client(session), world.client(session)
    answer = first.get(0, 10)
    world.until(lambda: not answer.waits)
    late = second.get(5, 20)
    gevent.sleep(0)
    assert late.waits
    held_writes.set()
    world.settle()
    assert late.complete
    assert world.source.bytes_read == BLOCK
    first.leave()
    second.leave()


def test_a_slow_reader_slows_nobody(world: World) -> None:
    session = world.session(FILM, SIZE)
    slow, quick = world.client(session), world.client(session)
    slow.get(0, 1)
    answer = quick.get(0, SIZE)
    world.settle()
    assert answer.complete
    assert session.state is State.COMPLETE
    slow.leave()
    quick.leave()


# -- leases


def test_without_a_reader_the_copy_finishes(world: World) -> None:
    session, client = playing(world)
    client.leave()
    world.gate.open()
    world.settle()
    assert session.ended.is_set()
    assert world.object_of(session) == "whole"
    assert (world.counters.copies_started, world.counters.copies_finished) == (1, 1)


def test_a_lease_is_given_back_once(world: World) -> None:
    session, client = playing(world)
    reader = session.inc_ref()
    assert session.readers == {client.reader, reader}
    session.dec_ref(reader)
    session.dec_ref(reader)
    assert session.readers == {client.reader}


def test_a_complete_session_ends_with_its_last_reader(world: World) -> None:
    session = world.session(FILM, SIZE)
    first, second = world.client(session), world.client(session)
    world.settle()
    first.leave()
    world.settle()
    assert session.state is State.COMPLETE
    assert second.get(0, SIZE).greenlet.join() is None
    assert second.answers[0].complete
    second.leave()
    world.settle()
    assert session.ended.is_set()
    assert not world.objects.leased()


def test_a_closed_session_takes_no_reader(world: World) -> None:
    session = world.session(FILM, SIZE)
    session.handle_event(Event.SHUTDOWN)
    with pytest.raises(Closed):
        session.inc_ref()


def test_the_owner_is_told_of_states_and_of_the_last_reader(world: World) -> None:
    session, client = playing(world)
    world.changes.clear()
    client.leave()
    assert world.changes == [(session, State.COPYING)]
    world.gate.open()
    world.settle()
    states = [state for _, state in world.changes[1:]]
    assert states == [State.COMPLETE, State.CLOSED, State.CLOSED]


def test_idle_stops_the_copy_and_keeps_what_there_is(world: World) -> None:
    session, client = playing(world)
    client.leave()
    session.handle_event(Event.IDLE)
    world.gate.open()
    world.settle()
    assert session.ended.is_set()
    assert list(world.kept) == [session.name]
    assert world.counters.copies_cancelled == 1
    assert world.source.bytes_read < SIZE


# -- every end settles who waits, once (I11)


def waiting_clients(world: World, session: CopySession) -> list[Client]:
    clients = [world.client(session) for _ in range(3)]
    for number, client in enumerate(clients):
        client.get(number * 12 * BLOCK + 1, SIZE)
    world.settle()
    assert all(client.answers[0].waits for client in clients)
    return clients


def test_shutdown_settles_who_waits_with_closed(world: World) -> None:
    world.gate.shut()
    session = world.session(FILM, SIZE)
    clients = waiting_clients(world, session)
    session.handle_event(Event.SHUTDOWN)
    world.settle()
    assert [type(client.answers[0].error) for client in clients] == [Closed] * 3
    assert not session.ended.is_set(), "a step is under way: its descriptor is not closed (I4)"
    assert world.source.open_files == 1
    world.gate.open()
    world.settle()
    assert session.ended.is_set()
    assert world.source.open_files == 0
    again = clients[0].get(0, 1)
    world.settle()
    assert isinstance(again.error, Closed)


def test_a_source_that_fails_for_ever_fails_who_waits_once_tried_again(world: World) -> None:
    world.gate.shut()
    session = world.session(FILM, SIZE)
    clients = waiting_clients(world, session)
    world.source.break_down(errno.EIO)
    world.gate.open()
    world.settle()
    assert [type(client.answers[0].error) for client in clients] == [SourceUnavailable] * 3
    assert session.state is State.DETACHED
    assert world.counters.copies_failed == 1
    late = clients[0].get(0, 1)
    world.settle()
    assert isinstance(late.error, SourceUnavailable)
    for client in clients:
        client.leave()
    world.settle()
    assert session.ended.is_set()
    assert world.partials() == []


def test_what_was_copied_is_still_served_when_the_source_has_failed(world: World) -> None:
    session, client = playing(world)
    world.source.break_down(errno.ESTALE)
    world.gate.open()
    world.settle()
    assert session.state is State.DETACHED
    answer = client.get(0, 2 * BLOCK)
    world.settle()
    assert (answer.offset, type(answer.error)) == (BLOCK, SourceUnavailable)
    client.leave()
    world.settle()
    assert list(world.kept) == [session.name], "sound: the next session goes on with it"


def test_a_read_that_fails_once_is_not_seen_by_its_reader(world: World) -> None:
    world.source.fail(errno.EIO, at=0)
    world.source.fail(errno.EIO, at=20 * BLOCK)
    session = world.session(FILM, SIZE)
    first, second = world.client(session), world.client(session)
    answers = [first.get(0, SIZE), second.get(20 * BLOCK, SIZE)]
    world.settle()
    assert all(answer.complete for answer in answers)
    assert world.object_of(session) == "whole"
    assert world.source.bytes_read == SIZE
    first.leave()
    second.leave()


def test_a_second_fault_much_later_is_a_first_one_again(world: World) -> None:
    """Without room nothing is kept, so the same block may be read for days."""
    world.space.resize(1000)
    session = world.session(FILM, SIZE)
    client = world.client(session)
    for _ in range(3):
        world.source.fail(errno.EIO, at=0)
        answer = client.get(0, BLOCK)
        world.settle()
        assert answer.complete
    client.leave()


def test_a_reader_that_leaves_while_it_waits_leaves_nothing_behind(world: World) -> None:
    session, client = playing(world)
    client.get(30 * BLOCK, SIZE)
    world.settle()
    client.leave()
    world.gate.open()
    world.settle()
    assert session.ended.is_set()
    assert world.source.read_twice() == []
    assert world.object_of(session) == "whole"


def test_a_source_that_hangs_times_out_and_the_bytes_are_kept_when_they_come(
    make_world: Callable[..., World],
) -> None:
    world = make_world(timeout=0.02)
    world.gate.shut()
    session = world.session(FILM, SIZE)
    client = world.client(session)
    answer = client.get(0, SIZE)
    answer.greenlet.join(5)
    assert isinstance(answer.error, SourceTimeout)
    world.gate.open()
    world.settle()
    again = client.get(0, SIZE)
    world.settle()
    assert again.complete
    assert world.source.bytes_read == SIZE
    client.leave()


def test_a_timeout_of_the_embedding_program_is_left_to_it(world: World) -> None:
    session, client = playing(world)
    with gevent.Timeout(0.01) as timeout, pytest.raises(gevent.Timeout) as caught:
        session.read(client.reader, 30 * BLOCK, SIZE)
    assert caught.value is timeout


# -- outdated


def test_outdated_with_one_reader_copies_nothing_more_and_serves_it(world: World) -> None:
    session, client = playing(world)
    in_flight = world.gate.waiting
    session.handle_event(Event.OUTDATED)
    world.gate.open()
    world.settle()
    assert session.state is State.DETACHED
    assert world.source.bytes_read == BLOCK + len(in_flight) * 4 * BLOCK
    answer = client.get(0, SIZE)
    world.settle()
    assert answer.complete
    assert world.object_of(session) is None
    client.leave()
    world.settle()
    assert session.ended.is_set()
    assert world.partials() == []


def test_outdated_with_several_readers_goes_on_so_that_they_share(world: World) -> None:
    session, client = playing(world)
    other = world.client(session)
    session.handle_event(Event.OUTDATED)
    world.gate.open()
    world.settle()
    assert session.map.complete
    answers = [client.get(0, SIZE), other.get(BLOCK, SIZE)]
    world.settle()
    assert all(answer.complete for answer in answers)
    assert world.source.bytes_read == SIZE
    assert world.object_of(session) is None
    client.leave()
    other.leave()
    world.settle()
    assert world.partials() == []


def test_outdated_with_several_readers_stops_when_one_is_left(world: World) -> None:
    session, client = playing(world)
    other = world.client(session)
    session.handle_event(Event.OUTDATED)
    other.leave()
    in_flight = world.gate.waiting
    world.gate.open()
    world.settle()
    assert world.source.bytes_read == BLOCK + len(in_flight) * 4 * BLOCK
    answer = client.get(0, SIZE)
    world.settle()
    assert answer.complete
    client.leave()


def test_outdated_without_a_reader_ends_at_once(world: World) -> None:
    session, client = playing(world)
    client.leave()
    session.handle_event(Event.OUTDATED)
    world.gate.open()
    world.settle()
    assert session.ended.is_set()
    assert world.partials() == []
    assert world.object_of(session) is None


def test_outdated_before_there_was_room_starts_no_copy(world: World) -> None:
    world.gate.shut()
    session = world.session(FILM, SIZE)
    client = world.client(session)
    session.handle_event(Event.OUTDATED)
    world.gate.open()
    world.settle()
    assert world.source.bytes_read == 0
    answer = client.get(0, SIZE)
    world.settle()
    assert answer.complete
    assert world.object_of(session) is None
    client.leave()


@pytest.mark.parametrize("step", ["seal", "stat", "publish"])
@pytest.mark.parametrize("event", [Event.OUTDATED, Event.SHUTDOWN, Event.IDLE])
def test_the_end_of_a_copy_and_its_outdating_do_not_both_happen(
    world: World, monkeypatch: Patch, step: str, event: Event
) -> None:
    """8cfa40ad: finish and cancel of a session were both executed."""
    owner = {"seal": Partial, "stat": world.source, "publish": world.store.objects}[step]
    entered, go = threading.Event(), threading.Event()
    real = getattr(owner, step)

    def held(*args: object) -> object:
        entered.set()
        assert go.wait(20)
        return real(*args)

    monkeypatch.setattr(owner, step, held)
    session = world.session(FILM, SIZE)
    readers = [] if event is Event.IDLE else [world.client(session)]
    world.until(entered.is_set)
    session.handle_event(event)
    go.set()
    world.settle()
    assert (world.object_of(session) is None) == (step != "publish")
    assert len(world.published) == (step == "publish")
    answers = [client.get(0, SIZE) for client in readers]
    world.settle()
    if event is Event.OUTDATED:
        assert all(answer.complete for answer in answers)
    for client in readers:
        client.leave()
    world.settle()
    assert session.ended.is_set()


# -- room


def test_without_room_the_file_is_served_and_nothing_is_kept(world: World) -> None:
    world.space.resize(1000)
    session = world.session(FILM, SIZE)
    client = world.client(session)
    world.settle()
    assert session.state is State.DETACHED
    answer = client.get(0, SIZE)
    world.settle()
    assert answer.complete
    assert all(ready.fd == -1 for ready in answer.pieces)
    assert world.partials() == []
    assert world.space.used == 0
    client.leave()
    world.settle()
    assert session.ended.is_set()


def test_without_room_and_reader_the_session_ends(world: World) -> None:
    world.space.resize(1000)
    session = world.session(FILM, SIZE)
    world.settle()
    assert session.ended.is_set()
    assert world.source.bytes_read == 0


def test_while_room_is_made_readers_are_served_without_delay(world: World) -> None:
    """I14: eviction never makes a client wait."""
    world.space.evicting = True
    blocker = world.fill()
    session = world.session(FILM, SIZE)
    client = world.client(session)
    with gevent.Timeout(0.5):
        answer = client.get(0, 20 * BLOCK)
        answer.greenlet.join()
    assert answer.complete
    assert session.state is State.NEW
    blocker.release()
    world.settle()
    assert session.state is State.COMPLETE
    client.leave()


def test_room_that_comes_starts_the_copy(world: World) -> None:
    world.space.evicting = True
    blocker = world.fill()
    session = world.session(FILM, SIZE)
    world.settle()
    assert session.state is State.NEW
    blocker.release()
    world.settle()
    assert world.object_of(session) == "whole"


@pytest.mark.parametrize("event", [Event.SHUTDOWN, Event.IDLE, Event.OUTDATED])
def test_a_session_that_waits_for_room_can_end(world: World, event: Event) -> None:
    world.space.evicting = True
    blocker = world.fill()
    session = world.session(FILM, SIZE)
    world.settle()
    session.handle_event(event)
    world.settle()
    assert session.ended.is_set()
    assert world.space.waiters == 0
    assert world.space.reserved == blocker.amount
    blocker.release()


def test_room_is_asked_for_in_steps(world: World, small_steps: int) -> None:
    world.gate.shut()
    session = world.session(FILM, 50 * BLOCK)
    client = world.client(session)
    client.get(0, 1)
    world.settle()
    assert world.space.reserved == 1 << 20
    world.gate.open()
    world.settle()
    assert world.object_of(session) == "whole"
    assert world.space.reserved == 0
    client.leave()


def test_a_copy_that_finds_no_more_room_serves_its_readers_and_gives_back(
    make_world: Callable[..., World], small_steps: int
) -> None:
    world = make_world(room=small_steps)
    session = world.session(FILM, SIZE)
    client = world.client(session)
    answer = client.get(0, SIZE)
    world.settle()
    assert answer.complete
    assert session.state is State.DETACHED
    assert world.object_of(session) is None
    client.leave()
    world.settle()
    assert session.ended.is_set()
    assert world.space.used == 0
    assert world.partials() == []


def test_never_more_is_written_than_was_reserved(
    make_world: Callable[..., World], small_steps: int
) -> None:
    world = make_world(room=small_steps)
    session = world.session(FILM, SIZE)
    clients = [world.client(session) for _ in range(5)]
    for number, client in enumerate(clients):
        client.get(number * 8 * BLOCK, SIZE)
    while not session.ended.is_set():
        gevent.sleep(0)
        with contextlib.suppress(FileNotFoundError):
            assert world.on_disk(session.name) <= world.space.reserved
        for client in clients:
            if not client.answers[0].waits:
                client.leave()
    assert all(client.answers[0].complete for client in clients)


def test_a_copy_that_ends_while_it_asks_for_more_room_keeps_only_what_it_takes(
    make_world: Callable[..., World], small_steps: int
) -> None:
    world = make_world(room=4 << 20)
    world.space.evicting = True
    blocker = world.fill(5 << 19)
    session = world.session(FILM, SIZE)
    world.settle()
    assert world.space.waiters == 1, "the copy waits for its next step of room"
    session.handle_event(Event.IDLE)
    world.settle()
    blocker.release()
    world.settle()
    assert world.kept[session.name].bytes == world.on_disk(session.name)


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_cache_that_cannot_be_written_fails_no_reader(
    world: World, monkeypatch: Patch, after: int, code: int
) -> None:
    broken(monkeypatch, "put", code, after=after)
    session = world.session(FILM, SIZE)
    clients = [world.client(session), world.client(session)]
    answers = [clients[0].get(0, SIZE), clients[1].get(30 * BLOCK, SIZE)]
    world.settle()
    assert all(answer.complete for answer in answers)
    assert session.state is State.DETACHED
    assert world.object_of(session) is None
    for client in clients:
        client.leave()
    world.settle()
    assert world.partials() == []


@pytest.mark.parametrize(("step", "times"), [("seal", 2), ("publish", 1)])
def test_a_file_that_cannot_be_made_durable_is_not_published(
    world: World, monkeypatch: Patch, step: str, times: int
) -> None:
    """A failed fsync may have thrown the data away: it is not tried again, and that is not read."""

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(Partial if step == "seal" else world.store.objects, step, fails)
    session = world.session(FILM, SIZE)
    client = world.client(session)
    world.settle()
    assert session.state is State.DETACHED
    answer = client.get(0, SIZE)
    world.settle()
    assert answer.complete
    assert world.source.bytes_read == times * SIZE
    client.leave()
    world.settle()
    assert world.partials() == []
    assert world.object_of(session) is None


def test_a_partial_that_somebody_removed_fails_no_reader(world: World) -> None:
    """S17: the temporary file is removed by another process."""
    session, client = playing(world)
    for name in world.partials():
        (world.root / "cache" / "partial" / name).unlink()
    world.gate.open()
    answer = client.get(0, SIZE)
    world.settle()
    assert answer.complete
    assert session.state is State.DETACHED
    client.leave()
    world.settle()
    assert session.ended.is_set()


def test_a_partial_that_somebody_removed_leaves_no_reservation(world: World) -> None:
    session, client = playing(world)
    for name in world.partials():
        (world.root / "cache" / "partial" / name).unlink()
    client.leave()
    session.handle_event(Event.IDLE)
    world.gate.open()
    world.settle()
    assert session.ended.is_set()
    assert world.space.used == 0
    assert world.source.open_files == 0


# -- the source changes


def test_a_source_that_shrinks_is_never_published(world: World) -> None:
    session, client = playing(world)
    os.truncate(world.path(FILM), 10 * BLOCK)
    answer = client.get(BLOCK, SIZE)
    world.gate.open()
    world.settle()
    assert isinstance(answer.error, SourceChanged)
    assert answer.offset == BLOCK, "no byte after the change (I8)"
    assert session.state is State.DETACHED
    assert world.object_of(session) is None
    client.leave()
    world.settle()
    assert world.partials() == []


def test_a_source_that_is_rewritten_in_place_is_never_mixed(world: World) -> None:
    session, client = playing(world)
    with open(world.path(FILM), "r+b") as file:
        file.seek(5 * BLOCK)
        file.write(b"other")
    answer = client.get(0, SIZE)
    world.gate.open()
    world.settle()
    assert isinstance(answer.error, SourceChanged)
    assert answer.offset == BLOCK
    client.leave()
    world.settle()
    assert session.ended.is_set()
    assert world.partials() == []
    assert world.object_of(session) is None


def test_a_source_that_grows_is_served_as_it_was_and_not_published(world: World) -> None:
    session, client = playing(world)
    with open(world.path(FILM), "ab") as file:
        file.write(b"more")
    answer = client.get(0, SIZE)
    world.gate.open()
    world.settle()
    assert answer.complete
    assert session.state is State.DETACHED
    assert world.object_of(session) is None
    client.leave()
    world.settle()
    assert world.partials() == []


def test_a_source_that_is_replaced_by_rename_cuts_nobody_off(world: World) -> None:
    session, client = playing(world)
    world.write(FILM, SIZE, content_name="other")
    answer = client.get(0, SIZE)
    world.gate.open()
    world.settle()
    assert answer.complete
    assert session.state is State.DETACHED
    assert world.object_of(session) is None
    client.leave()
    world.settle()
    assert world.partials() == []


def test_a_source_that_is_deleted_cuts_nobody_off(world: World) -> None:
    session, client = playing(world)
    world.path(FILM).unlink()
    answer = client.get(0, SIZE)
    world.gate.open()
    world.settle()
    assert answer.complete
    assert session.state is State.DETACHED
    assert world.object_of(session) is None
    assert (world.counters.copies_failed, world.counters.copies_cancelled) == (1, 0)
    client.leave()
    world.settle()
    assert world.partials() == [], "of no use: no session will go on with it"


def test_a_source_that_gets_another_name_is_the_same(world: World) -> None:
    session, client = playing(world)
    os.link(world.path(FILM), world.path("backup.mp4"))
    world.gate.open()
    world.settle()
    assert world.object_of(session) == "whole"
    client.leave()


def test_a_source_that_is_touched_after_its_last_byte_is_not_published(
    world: World, monkeypatch: Patch
) -> None:
    seal = Partial.seal

    def touch_and_seal(self: Partial, mtime_ns: int, path: str) -> None:
        os.utime(world.path(FILM))
        seal(self, mtime_ns, path)

    monkeypatch.setattr(Partial, "seal", touch_and_seal)
    session = world.session(FILM, SIZE)
    world.settle()
    assert session.ended.is_set()
    assert world.object_of(session) is None
    assert world.partials() == []


def test_after_a_change_nobody_gets_a_byte_that_was_not_there_before(world: World) -> None:
    session, client = playing(world)
    other = world.client(session)
    os.truncate(world.path(FILM), 0)
    world.gate.open()
    world.settle()
    answers = [other.get(0, BLOCK), other.get(BLOCK, SIZE), client.get(39 * BLOCK, SIZE)]
    world.settle()
    assert answers[0].complete
    assert [type(answer.error) for answer in answers[1:]] == [SourceChanged] * 2
    client.leave()
    other.leave()


# -- partials


def half_copied(world: World) -> CopySession:
    """A session that stopped with some of its blocks present."""
    session, client = playing(world)
    world.gate.let(count=2)
    world.settle()
    client.leave()
    session.handle_event(Event.IDLE)
    world.gate.open()
    world.settle()
    assert 0 < session.map.present < session.map.count
    assert list(world.kept) == [session.name]
    return session


def test_a_partial_is_continued(world: World) -> None:
    first = half_copied(world)
    assert world.kept[first.name].bytes == world.on_disk(first.name)
    second = world.session(FILM)
    world.settle()
    assert world.object_of(second) == "whole"
    assert world.source.bytes_read == SIZE


def test_who_comes_before_the_partial_is_open_costs_the_source_nothing(world: World) -> None:
    half_copied(world)
    world.gate.shut()
    second = world.session(FILM)
    client = world.client(second)
    answer = client.get(0, SIZE)
    world.settle()
    world.gate.open()
    world.settle()
    assert answer.complete
    assert world.source.bytes_read == SIZE
    client.leave()


def test_a_partial_that_is_complete_is_published_without_reading(
    world: World, monkeypatch: Patch
) -> None:
    entered, go = threading.Event(), threading.Event()
    seal = Partial.seal

    def held(self: Partial, mtime_ns: int, path: str) -> None:
        entered.set()
        assert go.wait(20)
        seal(self, mtime_ns, path)

    monkeypatch.setattr(Partial, "seal", held)
    first = world.session(FILM, SIZE)
    world.until(entered.is_set)
    first.handle_event(Event.IDLE)
    go.set()
    world.settle()
    assert world.source.bytes_read == SIZE
    second = world.session(FILM)
    world.settle()
    assert world.object_of(second) == "whole"
    assert world.source.bytes_read == SIZE


def test_a_partial_of_a_file_that_was_copied_over_itself_is_not_continued(world: World) -> None:
    """The same version by size and time, but another ctime: nobody knows what the bytes are."""
    first = half_copied(world)
    times = os.stat(world.path(FILM))
    with open(world.path(FILM), "r+b") as file:
        file.write(expected())
    os.utime(world.path(FILM), ns=(times.st_atime_ns, times.st_mtime_ns))
    second = world.session(FILM)
    assert second.name == first.name
    world.source.reads.clear()
    world.settle()
    assert world.object_of(second) == "whole"
    assert world.source.bytes_read == SIZE


def test_a_reader_that_waited_for_a_block_of_the_partial_gets_it(
    far: World, monkeypatch: Patch
) -> None:
    """Its demand was not yet started when the partial turned out to have the block."""
    monkeypatch.setattr(session_module, "_FIRST_WRITE_WAIT", 0.0)
    first = half_copied(far)
    assert first.map.ready(0, SIZE) >= 2 * BLOCK
    far.gate.shut()
    busy = far.session("busy", SIZE)
    far.settle()
    assert len(far.gate.waiting) == 4, "the source is busy"
    far.space.evicting = True
    blocker = far.fill()
    second = far.session(FILM)
    client = far.client(second)
    client.reader.expected = BLOCK  # it goes on: no seek, so it waits for its turn
    answer = client.get(BLOCK, 2 * BLOCK)
    far.settle()
    assert answer.waits
    blocker.release()
    far.settle()
    assert answer.complete
    client.leave()
    for session in (busy, second):
        session.handle_event(Event.SHUTDOWN)


def test_who_waits_for_a_partial_that_is_not_opened_any_more_is_told(world: World) -> None:
    half_copied(world)
    world.space.evicting = True
    blocker = world.fill()
    second = world.session(FILM)
    client = world.client(second)
    answer = client.get(0, SIZE)
    world.settle()
    second.handle_event(Event.SHUTDOWN)
    world.settle()
    assert isinstance(answer.error, Closed)
    client.leave()
    blocker.release()


@pytest.mark.parametrize("event", [Event.IDLE, Event.SHUTDOWN])
def test_a_partial_that_was_to_be_continued_is_not_forgotten_when_its_session_ends_first(
    world: World, event: Event
) -> None:
    first = half_copied(world)
    amount = world.kept[first.name].bytes
    second = world.session(FILM)
    second.handle_event(event)
    world.settle()
    assert second.ended.is_set()
    assert world.kept[first.name].bytes == amount


def test_a_partial_that_cannot_be_continued_for_want_of_room_is_dropped_or_kept(
    world: World,
) -> None:
    first = half_copied(world)
    world.space.resize(world.kept[first.name].bytes)
    second = world.session(FILM)
    world.settle()
    assert second.ended.is_set()


def test_a_partial_of_another_version_is_not_touched(world: World) -> None:
    first = half_copied(world)
    world.write(FILM, SIZE, content_name="other")
    os.utime(world.path(FILM), (5, 5))
    second = world.session(FILM)
    assert second.name != first.name
    world.settle()
    assert world.object_of(second, "other") == "whole"
    assert first.name in world.kept


def test_no_block_is_no_partial(world: World) -> None:
    world.gate.shut()
    session = world.session(FILM, SIZE)
    world.settle()
    session.handle_event(Event.IDLE)
    world.source.break_down()
    world.gate.open()
    world.settle()
    assert session.ended.is_set()
    assert world.partials() == []
    assert world.space.used == 0


# -- descriptors


def test_what_is_ready_stays_good_until_its_reader_leaves(world: World) -> None:
    """A response may be in the middle of sendfile when the cache is closed (I8)."""
    session = world.session(FILM, SIZE)
    client = world.client(session)
    world.gate.shut()
    answer = client.get(0, BLOCK)
    world.settle()
    world.gate.let(0)
    world.settle()
    assert answer.complete
    ready = session.read(client.reader, 0, BLOCK)
    assert ready.fd >= 0
    session.handle_event(Event.SHUTDOWN)
    world.gate.open()
    world.settle()
    assert os.pread(ready.fd, BLOCK, 0) == expected(BLOCK)
    client.leave()
    world.settle()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ready.fd)


def test_footprint_is_never_less_than_what_a_partial_takes(world: World) -> None:
    session = world.session(FILM, SIZE)
    client = world.client(session)
    world.settle()
    assert world.space.objects <= footprint(SIZE)
    client.leave()
    with pytest.raises(NoSpace):
        world.space.draw(session.name, 1, world.space.limit + 1)
