"""What was written is made durable beside further writes, and nothing is published before that."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator

import gevent
import pytest

from streamcache.cache import writes
from streamcache.cache.partial import Partial
from streamcache.cache.session import CopySession
from streamcache.cache.states import Event, State
from streamcache.cache.writes import Writes
from streamcache.errors import SourceBusy, SourceChanged
from tests.cache.fakes import BLOCK, Answer, Client, World

FILM = "film.mp4"
EACH = 32 * BLOCK  # bytes between two syncs: more than is ever in flight
SIZE = 5 * EACH + 7
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def small_files_are_synced_too(monkeypatch: Patch) -> None:
    monkeypatch.setattr(writes, "SYNC_BYTES", EACH)
    monkeypatch.setattr(Writes, "patience", 20.0)  # nothing is late because the machine is busy


@pytest.fixture
def world(either_world: World) -> World:
    """Whoever writes what is copied, it comes to the same."""
    return either_world


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


def nothing_more_is_written(world: World, session: CopySession, syncs: Syncs) -> None:
    """All that moves now is what is held."""
    world.until(
        lambda: (
            session._steps.quiet.is_set()
            and not world.reads.pending
            and world.disk.pending == syncs.under_way
        )
    )


def held_up(world: World, syncs: Syncs) -> CopySession:
    """A copy that has written all it may beside its sync."""
    session = world.session(FILM, SIZE)
    world.until(lambda: syncs.begun)
    nothing_more_is_written(world, session, syncs)
    return session


def waits_for_the_sync(world: World, session: CopySession) -> tuple[Client, Answer]:
    """A reader, for whom a step has its bytes and waits to write them."""
    client = world.client(session)
    answer = client.get(4 * EACH, 4 * EACH + BLOCK)
    world.until(lambda: session._steps.under_way and not world.reads.pending)
    for _ in range(10):
        gevent.sleep(0)
    assert session._steps.under_way == 1
    assert not world.reads.pending
    return client, answer


def writes_of(monkeypatch: Patch) -> list[object]:
    """What is written into partials from now on."""
    written: list[object] = []
    monkeypatch.setattr(Partial, "put", lambda _self, offset, _data: written.append(offset))
    return written


def lose(fd: int) -> None:
    """A sync that fails, and the pages that it was for are gone."""
    os.pwrite(fd, bytes(4 * BLOCK), 0)
    raise OSError(errno.EIO, "no")


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
    session = held_up(world, syncs)
    present = session.map.present
    assert present == 2 * EACH // BLOCK
    assert session.map.count > present
    assert syncs.most == 1
    syncs.release()
    world.settle()
    assert whole(world, session)


def test_a_sync_that_hangs_holds_no_reader(
    world: World, syncs: Syncs, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    session = held_up(world, syncs)
    monkeypatch.setattr(Writes, "patience", 0.02)
    client = world.client(session)
    answer = client.get(0, SIZE)
    world.until(lambda: not answer.waits)
    assert answer.complete
    assert syncs.begun == syncs.under_way == 1
    assert session.state is State.COPYING
    assert not session.keeps, "each of its reads waited for the sync"
    assert caplog.text.count(f"cache disk is slow to sync path='/{FILM}' unsynced=") == 1
    syncs.release()
    world.settle()
    assert world.object_of(session) == "whole"
    client.leave()


def test_a_write_that_hangs_holds_no_reader(
    make_world: Callable[..., World], monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its bytes come from memory, also to who comes meanwhile; then they are kept."""
    caplog.set_level(logging.INFO)
    go, put = threading.Event(), Partial.put

    def held(self: Partial, offset: int, data: memoryview) -> None:
        assert go.wait(20)
        put(self, offset, data)

    monkeypatch.setattr(Partial, "put", held)
    monkeypatch.setattr(Writes, "patience", 0.02)
    world = make_world()
    session = world.session(FILM, SIZE)
    first, second = world.client(session), world.client(session)
    answer = first.get(0, 2 * BLOCK)
    world.until(lambda: answer.complete)
    again = second.get(BLOCK, 2 * BLOCK)
    world.until(lambda: again.complete)
    assert session.map.present == 0
    assert f"cache disk is slow to write path='/{FILM}' bytes=" in caplog.text
    go.set()
    first.leave()
    second.leave()
    world.settle()
    assert whole(world, session)


@pytest.mark.parametrize("reads", [True, False])
def test_one_that_fails_while_more_is_written_drops_the_copy(
    world: World, syncs: Syncs, reads: bool
) -> None:
    """The kernel tells of lost data once: no further sync would hear of it."""
    session = world.session(FILM, SIZE)
    client = world.client(session)
    answer = client.get(0, SIZE) if reads else None
    world.until(lambda: syncs.begun)
    world.until(lambda: session.map.present > EACH // BLOCK)
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
    session = held_up(world, syncs)
    client, answer = waits_for_the_sync(world, session)
    written = writes_of(monkeypatch)
    syncs.fail()
    world.settle()
    assert written == []
    assert answer.complete
    client.leave()
    world.settle()
    assert nothing_is_left(world, session)


def test_a_copy_that_was_given_up_writes_nothing_that_waited_for_a_sync(
    world: World, syncs: Syncs, monkeypatch: Patch
) -> None:
    session = held_up(world, syncs)
    client, _ = waits_for_the_sync(world, session)
    written = writes_of(monkeypatch)
    session.fail(SourceChanged("it changed"))
    client.leave()
    syncs.release()
    world.settle()
    assert session.ended.is_set()
    assert written == []


def test_what_waited_for_a_sync_is_not_kept_when_the_cache_was_closed_meanwhile(
    syncs: Syncs, capfd: pytest.CaptureFixture[str]
) -> None:
    world = World()
    session = held_up(world, syncs)
    present = session.map.present
    waits_for_the_sync(world, session)
    session.handle_event(Event.SHUTDOWN)
    world.disk.close()
    syncs.release()
    world.until(session.ended.is_set)
    assert session.map.present == present
    assert not world.health.degraded
    world.close(check=False)
    assert "Traceback" not in capfd.readouterr().err


def test_a_copy_that_waits_for_its_sync_holds_up_no_other(world: World, syncs: Syncs) -> None:
    session = held_up(world, syncs)
    other = world.session("other.mp4", EACH - BLOCK)
    world.until(lambda: other.state is State.CLOSED)
    assert world.object_of(other) == "whole"
    assert session.state is State.COPYING
    syncs.release()
    world.settle()
    assert world.object_of(session) == "whole"


def test_an_outdated_copy_whose_sync_failed_reads_nothing_that_nobody_waits_for(
    world: World, syncs: Syncs
) -> None:
    """It could not keep it, so it would read it again and again."""
    session = world.session(FILM, SIZE)
    clients = [world.client(session), world.client(session)]
    world.until(lambda: syncs.begun)
    nothing_more_is_written(world, session, syncs)
    session.handle_event(Event.OUTDATED)
    syncs.fail()
    world.settle()
    read = world.source.bytes_read
    world.health._recover()
    session.schedule()
    world.settle()
    assert world.source.bytes_read == read
    answer = clients[0].get(0, SIZE)
    world.settle()
    assert answer.complete
    assert world.source.bytes_read <= read + SIZE
    for client in clients:
        client.leave()


def test_an_outdated_copy_that_cannot_be_written_reads_nothing_that_nobody_waits_for(
    world: World, monkeypatch: Patch
) -> None:
    """Also if that says nothing of the disk."""
    world.gate.shut()
    session = world.session(FILM, SIZE)
    clients = [world.client(session), world.client(session)]
    world.settle()
    session.handle_event(Event.OUTDATED)

    def full(_self: Partial, _offset: object, _data: object) -> None:
        raise OSError(errno.ENOMEM, "no")

    monkeypatch.setattr(Partial, "put", full)
    world.gate.open()
    world.settle()
    assert not world.health.degraded
    assert 0 < world.source.bytes_read < SIZE
    for client in clients:
        client.leave()


@pytest.mark.parametrize("at_the_end", [False, True])
def test_after_one_that_failed_no_reader_gets_what_may_be_lost(
    world: World, syncs: Syncs, monkeypatch: Patch, at_the_end: bool
) -> None:
    """The kernel may have dropped it: then other bytes are read there, which are no error (I6)."""
    if at_the_end:
        monkeypatch.setattr(os, "fsync", lose)
    else:
        monkeypatch.setattr(os, "fdatasync", lose)
    session = world.session(FILM, EACH - BLOCK if at_the_end else SIZE)
    client = world.client(session)
    world.until(lambda: session.state is State.DETACHED)
    world.settle()
    read = world.source.bytes_read
    answer = client.get(0, 4 * BLOCK)
    world.until(lambda: not answer.waits)
    assert answer.complete
    assert world.source.bytes_read == read + 4 * BLOCK
    client.leave()
    world.settle()
    assert nothing_is_left(world, session)


def test_nothing_is_published_while_a_sync_is_under_way(world: World, syncs: Syncs) -> None:
    session = world.session(FILM, 2 * EACH - BLOCK)
    world.until(lambda: session.map.complete)
    nothing_more_is_written(world, session, syncs)
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
    session = held_up(world, syncs)
    present = session.map.present
    session.handle_event(Event.SHUTDOWN)
    for _ in range(10):
        gevent.sleep(0)
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
