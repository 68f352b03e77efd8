"""One copy: who gets which bytes when, and who is told what when it ends."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import gevent
import pytest

from streamcache.cache.partial import Partial
from streamcache.cache.session import CopySession
from streamcache.cache.states import Event, State
from streamcache.errors import Closed, SourceTimeout, SourceUnavailable
from tests.cache.fakes import BLOCK, Client, World
from tests.cache.playing import FILM, SIZE, expected, playing

Patch = pytest.MonkeyPatch


@pytest.fixture
def world(either_world: World) -> World:
    """Whoever writes what is copied, it comes to the same."""
    return either_world


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
