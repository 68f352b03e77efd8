"""What was written is made durable beside further writes, and nothing is published before that."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator

import gevent
import pytest

from streamcache.cache import writes
from streamcache.cache.partial import Partial
from streamcache.cache.session import CopySession
from streamcache.cache.states import Event, State
from streamcache.errors import SourceBusy
from tests.cache.fakes import BLOCK, World

FILM = "film.mp4"
EACH = 8 * BLOCK  # bytes between two syncs
SIZE = 5 * EACH + 7
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def small_files_are_synced_too(monkeypatch: Patch) -> None:
    monkeypatch.setattr(writes, "SYNC_BYTES", EACH)


class Syncs:
    """The syncs of all partials; they wait in their threads until they are let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.under_way = 0
        self.most = 0  # under way at once
        self.error: OSError | None = None  # what the next ones end with
        self._lock = threading.Lock()
        self._go = threading.Event()

    def sync(self, fd: int) -> None:
        with self._lock:
            self.begun += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        assert self._go.wait(20)
        with self._lock:
            self.under_way -= 1
        if self.error is not None:
            raise self.error

    def release(self) -> None:
        self._go.set()

    def fail(self) -> None:
        self.error = OSError(errno.EIO, "no")
        self.release()


@pytest.fixture
def syncs(monkeypatch: Patch) -> Iterator[Syncs]:
    held = Syncs()
    monkeypatch.setattr(os, "fdatasync", held.sync)
    yield held
    held.release()


def blocks_written(world: World, session: CopySession) -> int:
    """Once no more are: all that moves now is what is held."""
    while True:
        before = session.map.present
        for _ in range(20):
            gevent.sleep(0.002)
        if session.map.present == before and world.disk.pending <= 1:
            return before


def whole(world: World, session: CopySession) -> bool:
    return world.object_of(session) == "whole" and world.source.read_twice() == []


def nothing_is_left(world: World, session: CopySession) -> bool:
    return world.object_of(session) is None and world.partials() == [] and not world.kept


def test_it_is_made_durable_on_the_way(world: World, syncs: Syncs) -> None:
    syncs.release()
    session = world.session(FILM, SIZE)
    world.settle()
    assert whole(world, session)
    assert 2 <= syncs.begun <= 5
    assert syncs.most == 1


def test_what_is_smaller_is_synced_at_its_end_alone(world: World, syncs: Syncs) -> None:
    session = world.session(FILM, EACH - BLOCK)
    world.settle()
    assert whole(world, session)
    assert syncs.begun == 0


def test_the_copy_goes_on_beside_a_sync_until_as_much_again_was_written(
    world: World, syncs: Syncs
) -> None:
    session = world.session(FILM, SIZE)
    world.until(lambda: syncs.begun)
    present = blocks_written(world, session)
    begun = 5 * 4  # steps of four blocks that had begun by then
    assert 2 * EACH // BLOCK <= present <= 2 * EACH // BLOCK + begun
    assert session.map.count > present
    assert syncs.most == 1
    syncs.release()
    world.settle()
    assert whole(world, session)


def test_a_sync_that_hangs_holds_no_reader(world: World, syncs: Syncs, monkeypatch: Patch) -> None:
    monkeypatch.setattr(writes, "_PATIENCE", 0.02)
    session = world.session(FILM, SIZE)
    client = world.client(session)
    answer = client.get(0, SIZE)
    world.until(lambda: not answer.waits)
    assert answer.complete
    assert syncs.begun == syncs.under_way == 1
    assert session.state is State.COPYING
    syncs.release()
    world.settle()
    assert world.object_of(session) == "whole"
    client.leave()


@pytest.mark.parametrize("reads", [True, False])
def test_one_that_fails_while_more_is_written_drops_the_copy(
    world: World, syncs: Syncs, reads: bool
) -> None:
    """The kernel tells of lost data once: no further sync would hear of it."""
    session = world.session(FILM, SIZE)
    client = world.client(session)
    answer = client.get(0, SIZE) if reads else None
    world.until(lambda: syncs.begun)
    world.until(lambda: session.map.present > EACH // BLOCK + 4)
    syncs.fail()
    world.until(lambda: session.state is State.DETACHED)
    world.settle()
    assert syncs.begun == 1
    assert answer is None or answer.complete
    assert world.health.degraded
    client.leave()
    world.settle()
    assert session.ended.is_set()
    assert nothing_is_left(world, session)


def test_after_one_that_failed_nothing_is_written_that_waited_for_it(
    world: World, syncs: Syncs, monkeypatch: Patch
) -> None:
    session = world.session(FILM, SIZE)
    world.until(lambda: syncs.begun)
    blocks_written(world, session)
    written: list[object] = []
    monkeypatch.setattr(Partial, "write", lambda _self, extent, _data: written.append(extent))
    syncs.fail()
    world.settle()
    assert written == []
    assert nothing_is_left(world, session)


def test_nothing_is_published_while_a_sync_is_under_way(world: World, syncs: Syncs) -> None:
    session = world.session(FILM, 2 * EACH - BLOCK)
    world.until(lambda: session.map.complete)
    blocks_written(world, session)
    assert session.state is State.COPYING
    assert world.object_of(session) is None
    syncs.release()
    world.settle()
    assert whole(world, session)


def test_nothing_is_published_if_that_one_fails(world: World, syncs: Syncs) -> None:
    session = world.session(FILM, 2 * EACH - BLOCK)
    client = world.client(session)
    world.until(lambda: session.map.complete)
    syncs.fail()
    world.settle()
    assert session.state is State.DETACHED
    assert world.source.bytes_read == session.version.size
    client.leave()
    world.settle()
    assert nothing_is_left(world, session)


@pytest.mark.parametrize("fails", [False, True])
def test_a_copy_that_ends_meanwhile_closes_nothing_before_it_is_over(
    world: World, syncs: Syncs, fails: bool
) -> None:
    """And its partial is there for the next one, unless it was not made durable (I4)."""
    session = world.session(FILM, SIZE)
    world.until(lambda: syncs.begun)
    present = blocks_written(world, session)
    session.handle_event(Event.SHUTDOWN)
    blocks_written(world, session)
    assert not session.ended.is_set()
    assert session._room.fd >= 0
    if fails:
        syncs.fail()
    else:
        syncs.release()
    world.settle()
    assert session.ended.is_set()
    assert session.state is State.CLOSED
    syncs.error = None
    if fails:
        world.health._recover()
    read = world.source.bytes_read
    again = world.session(FILM)
    world.settle()
    assert world.object_of(again) == "whole"
    again_read = world.source.bytes_read - read
    assert again_read == SIZE if fails else again_read <= SIZE - present * BLOCK


def test_no_thread_for_it_is_no_failure(world: World, syncs: Syncs, monkeypatch: Patch) -> None:
    """The sync at the end is for all of it."""

    def busy(_self: Partial) -> None:
        raise SourceBusy("disk: too many calls wait already")

    monkeypatch.setattr(Partial, "sync", busy)
    session = world.session(FILM, SIZE)
    world.settle()
    assert whole(world, session)
    assert not world.health.degraded


def test_one_that_fails_makes_the_partial_unreadable_for_others(world: World, syncs: Syncs) -> None:
    """Another process, which has not heard of it, must not publish what may be lost (I5)."""
    world.gate.shut()
    session = world.session(FILM, SIZE)
    world.settle()
    while session.map.present < EACH // BLOCK:
        world.gate.let(count=1)
        for _ in range(5):
            gevent.sleep(0.001)
    world.until(lambda: syncs.begun)
    partial = session._room.partial
    assert partial is not None
    assert not partial.is_poisoned
    client = world.client(session)
    syncs.fail()
    world.until(lambda: session.state is State.DETACHED)
    assert partial.is_poisoned
    client.leave()
    world.gate.open()
