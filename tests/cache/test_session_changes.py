"""A copy of a version that is there no more: who reads goes on, and nobody gets a mixture."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from streamcache.cache.partial import Partial
from streamcache.cache.states import Event, State
from streamcache.errors import SourceChanged
from tests.cache.fakes import BLOCK, World
from tests.cache.playing import FILM, SIZE, playing

Patch = pytest.MonkeyPatch


@pytest.fixture
def world(either_world: World) -> World:
    """Whoever writes what is copied, it comes to the same."""
    return either_world


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


def appended_to(world: World) -> None:
    with open(world.path(FILM), "ab") as file:
        file.write(b"more")


def replaced(world: World) -> None:
    world.write(FILM, SIZE, content_name="other")


def deleted(world: World) -> None:
    world.path(FILM).unlink()


@pytest.mark.parametrize(
    ("change", "failed"), [(appended_to, False), (replaced, True), (deleted, True)]
)
def test_a_source_whose_bytes_stay_as_they_were_cuts_nobody_off_and_is_not_published(
    world: World, change: Callable[[World], None], failed: bool
) -> None:
    session, client = playing(world)
    change(world)
    answer = client.get(0, SIZE)
    world.gate.open()
    world.settle()
    assert answer.complete
    assert session.state is State.DETACHED
    assert world.object_of(session) is None
    counts = world.counters.copies_failed, world.counters.copies_cancelled
    assert counts == ((1, 0) if failed else (0, 1))
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
