"""What one copy has left is where the next one begins."""

from __future__ import annotations

import os
import threading

import pytest

from streamcache.cache import session as session_module
from streamcache.cache.partial import Partial
from streamcache.cache.session import CopySession
from streamcache.cache.states import Event
from streamcache.errors import Closed
from tests.cache.fakes import BLOCK, World
from tests.cache.playing import FILM, SIZE, expected, playing

Patch = pytest.MonkeyPatch


@pytest.fixture
def world(either_world: World) -> World:
    """Whoever writes what is copied, it comes to the same."""
    return either_world


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
