"""The room that one copy asks for: there is none, or no more, or the disk does not take it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

import gevent
import pytest

from streamcache.cache import allotment, steps
from streamcache.cache.partial import Partial
from streamcache.cache.space import footprint
from streamcache.cache.states import Event, State
from streamcache.errors import NoSpace
from tests.cache.fakes import BLOCK, World
from tests.cache.playing import FILM, SIZE, playing

Patch = pytest.MonkeyPatch


@pytest.fixture
def world(either_world: World) -> World:
    """Whoever writes what is copied, it comes to the same."""
    return either_world


@pytest.fixture
def small_steps(monkeypatch: Patch) -> int:
    """Room is asked for in steps of a megabyte; what one step and a half is for a footprint."""
    monkeypatch.setattr(allotment, "STEP", 1 << 20)
    monkeypatch.setattr(steps, "AHEAD", 1 << 18)
    return 3 << 19


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


def test_footprint_is_never_less_than_what_a_partial_takes(world: World) -> None:
    session = world.session(FILM, SIZE)
    client = world.client(session)
    world.settle()
    assert world.space.objects <= footprint(SIZE)
    client.leave()
    with pytest.raises(NoSpace):
        world.space.draw(session.name, 1, world.space.limit + 1)
