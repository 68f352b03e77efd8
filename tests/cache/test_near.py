"""Copies of a source as near as memory: the worker that reads a step writes it."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from streamcache.cache import writes
from streamcache.cache.allotment import Allotment
from streamcache.cache.pace import Pace
from streamcache.cache.partial import Partial
from streamcache.cache.session import CopySession
from streamcache.cache.states import State
from streamcache.cache.writes import Writes
from streamcache.errors import SourceUnavailable
from streamcache.source import scheduler as scheduler_module
from streamcache.source import step as step_module
from streamcache.source.base import Fingerprint, SourceFile
from tests.cache.fakes import BLOCK, World

FILM = "film.mp4"
SIZE = 40 * BLOCK + 7
PATIENCE = 0.05  # s
Patch = pytest.MonkeyPatch


@pytest.fixture
def near(make_world: Callable[..., World], quick_disk: None) -> World:
    return make_world(near=True, in_flight=1)


@pytest.fixture
def held_puts(monkeypatch: Patch) -> Iterator[threading.Event]:
    """What the workers that read write into the partial waits for this; nobody else's does."""
    go, put, write = threading.Event(), Partial.put, Partial.write
    direct = threading.local()

    def held(self: Partial, *args: Any) -> None:
        assert getattr(direct, "ours", False) or go.wait(20)
        put(self, *args)

    def written(self: Partial, *args: Any) -> None:
        direct.ours = True
        try:
            write(self, *args)
        finally:
            direct.ours = False

    monkeypatch.setattr(Partial, "put", held)
    monkeypatch.setattr(Partial, "write", written)
    monkeypatch.setattr(Writes, "patience", PATIENCE)
    yield go
    go.set()


def test_a_disk_that_hangs_below_the_worker_that_reads_holds_up_no_reader(
    near: World, held_puts: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Those who wait, and those who come, get its bytes past the cache; then they are kept."""
    caplog.set_level(logging.INFO)
    session = near.session(FILM, SIZE)
    client, later = near.client(session), near.client(session)
    near.until(lambda: session.state is State.COPYING)
    answer = client.get(0, SIZE)
    near.until(lambda: answer.complete)
    assert not session._writes.welcome
    blocks = range(session.map.count)
    assert any(session._writes.is_stalled(block) for block in blocks)
    again = later.get(0, BLOCK)
    near.until(lambda: again.complete)
    assert session.state is State.COPYING
    assert f"cache disk holds up a copied step path='/{FILM}' bytes=" in caplog.text
    held_puts.set()
    near.settle()
    assert near.object_of(session) == "whole"
    assert session._writes.welcome
    assert not any(session._writes.is_stalled(block) for block in blocks)
    client.leave()
    later.leave()


def copied_by_its_reader(near: World) -> CopySession:
    """A session of which 8 blocks are there, and a worker is about to read and write the next."""
    near.gate.shut()
    session = near.session(FILM, SIZE)
    for block in (0, 4):
        near.settle()
        near.gate.let(block * BLOCK)
    near.settle()
    assert near.gate.waiting == [8 * BLOCK]
    assert all(step.sink is not None for step in near.scheduler._steps.busy)
    return session


def test_what_a_worker_leaves_as_it_takes_too_long_is_read_by_another(
    near: World, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(step_module, "_LONGEST", 0.0)
    near.scheduler._rate.copied = 16 * BLOCK  # four slices
    session = copied_by_its_reader(near)
    client = near.client(session)
    answer = client.get(20 * BLOCK, 21 * BLOCK)
    near.settle()
    assert near.gate.waiting == [8 * BLOCK], "it is claimed"
    near.gate.let(8 * BLOCK)
    near.settle()
    assert session.map.ready(8 * BLOCK, SIZE) == 4 * BLOCK
    assert 20 * BLOCK in near.gate.waiting
    near.gate.open()
    near.settle()
    assert answer.complete
    assert near.source.read_twice() == []
    assert session._room._written == session.map.count
    assert near.object_of(session) == "whole"
    client.leave()


def test_what_was_written_of_a_file_that_grows_meanwhile_is_kept(near: World) -> None:
    """The worker cannot know that it is still ours; we do, a moment later."""
    session = copied_by_its_reader(near)
    client, other = near.client(session), near.client(session)
    with open(near.path(FILM), "ab") as file:
        file.write(b"more")
    answers = [client.get(0, SIZE), other.get(0, SIZE)]
    near.gate.open()
    near.settle()
    assert all(answer.complete for answer in answers)
    assert near.source.read_twice() == []
    assert near.object_of(session) is None


def counted(counts: dict[str, int], name: str) -> Callable[..., object]:
    """The method of partials of this name, whose calls are counted."""
    real: Callable[..., object] = getattr(Partial, name)

    def call(*args: Any) -> object:
        counts[name] += 1
        return real(*args)

    return call


def test_a_disk_that_is_slow_is_left_to_its_own_workers(near: World, monkeypatch: Patch) -> None:
    """They may be held up; who reads the source may not."""
    monkeypatch.setattr(writes, "_QUICK", 0.0)
    counts = {"put": 0, "write": 0}
    for name in counts:
        monkeypatch.setattr(Partial, name, counted(counts, name))
    session = near.session(FILM, SIZE)
    near.settle()
    assert near.object_of(session) == "whole"
    assert counts["put"] == counts["write"] > 1


def test_what_a_worker_wrote_before_its_look_failed_still_takes_room(
    near: World, monkeypatch: Patch
) -> None:
    """Never more is on the disk than was reserved."""
    near.scheduler._rate.copied = 16 * BLOCK  # four slices
    session = copied_by_its_reader(near)

    def fail(file: SourceFile) -> Fingerprint:
        raise SourceUnavailable(errno.EIO, "no", file.path)

    monkeypatch.setattr(near.source, "fingerprint", fail)
    near.gate.open()
    near.until(lambda: session.failure is not None)
    assert session._room._written >= session.map.present + 16
    near.settle()


class Held:
    """A method of partials that waits in its worker from a certain offset on."""

    def __init__(self, monkeypatch: Patch, method: str, offset: int) -> None:
        self.there = threading.Event()
        self.go = threading.Event()
        real = getattr(Partial, method)

        def held(partial: Partial, at: int, *args: Any) -> None:
            if at >= offset:
                self.there.set()
                assert self.go.wait(20)
            real(partial, at, *args)

        monkeypatch.setattr(Partial, method, held)


def grow(near: World) -> None:
    """As somebody does who appends to the file while it is copied."""
    with open(near.path(FILM), "ab") as file:
        file.write(b"more")


def on_disk(session: CopySession) -> int:
    """Blocks that are present for everybody."""
    partial = session._room.partial
    assert partial is not None
    return partial.present(0, session.map.count).count(1)


@pytest.fixture
def impatient(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Writes, "patience", PATIENCE)


@pytest.mark.usefixtures("impatient")
def test_a_copy_goes_on_after_a_write_that_hung_and_a_look_that_failed(
    near: World, held_puts: threading.Event, monkeypatch: Patch
) -> None:
    session = near.session(FILM, SIZE)
    near.until(lambda: not session._writes.welcome)
    look, failures = near.source.fingerprint, [SourceUnavailable(errno.EIO, "no", FILM)]

    def fail_once(file: SourceFile) -> Fingerprint:
        if failures:
            raise failures.pop()
        return look(file)

    monkeypatch.setattr(near.source, "fingerprint", fail_once)
    held_puts.set()
    near.until(lambda: near.object_of(session) == "whole")
    assert failures == []
    near.settle()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("where", ["put", "mark"])
def test_a_disk_that_hangs_after_a_long_read_holds_up_no_reader(
    near: World, monkeypatch: Patch, where: str
) -> None:
    """Nobody was to be told at the time when it is looked at first: the source had it."""
    held = Held(monkeypatch, where, 8 * BLOCK)
    session = copied_by_its_reader(near)
    client = near.client(session)
    answer = client.get(8 * BLOCK, 9 * BLOCK)
    gevent.sleep(3 * PATIENCE)
    near.gate.open()
    near.until(lambda: answer.complete)
    assert held.there.is_set()
    held.go.set()
    near.until(lambda: near.object_of(session) == "whole")
    near.settle()
    client.leave()


@pytest.mark.usefixtures("impatient")
def test_a_mark_of_ours_that_hangs_holds_up_no_reader(near: World, monkeypatch: Patch) -> None:
    session = copied_by_its_reader(near)
    clients = [near.client(session), near.client(session)]
    grow(near)
    held = Held(monkeypatch, "mark", 8 * BLOCK)
    answer = clients[0].get(8 * BLOCK, 9 * BLOCK)
    near.gate.open()
    near.until(lambda: answer.complete)
    assert held.there.is_set()
    held.go.set()
    near.settle()
    for client in clients:
        client.leave()


@pytest.mark.usefixtures("quick_disk")
def test_a_disk_that_hangs_takes_no_more_threads_than_are_in_flight(
    make_world: Callable[..., World], monkeypatch: Patch, held_puts: threading.Event
) -> None:
    monkeypatch.setattr(Writes, "patience", 2 * scheduler_module._HELD_UP)
    near = make_world(near=True, in_flight=2)
    for number in range(8):
        near.session(f"film {number}", SIZE)
    near.until(lambda: any(not session._writes.welcome for session in near.sessions))
    other = near.session("other", SIZE)
    client = near.client(other)
    answer = client.get(0, SIZE)
    near.until(lambda: answer.complete)
    assert sum(step.sink is not None for step in near.scheduler._steps.busy) == 2
    held_puts.set()
    near.settle()
    client.leave()


def test_a_look_that_comes_late_does_not_say_that_an_appended_file_was_rewritten(
    near: World, monkeypatch: Patch
) -> None:
    """The worker looked before the append, and another look is here before it."""
    held = Held(monkeypatch, "mark", 8 * BLOCK)
    session = copied_by_its_reader(near)
    clients = [near.client(session), near.client(session)]
    near.gate.open()
    near.until(held.there.is_set)
    grow(near)
    last = clients[1].get(30 * BLOCK, 31 * BLOCK)
    near.until(lambda: last.complete)
    assert session.state is State.DETACHED
    held.go.set()
    answers = [client.get(0, SIZE) for client in clients]
    near.settle()
    assert all(answer.complete for answer in answers)
    for client in clients:
        client.leave()


def test_what_was_read_before_a_sector_that_is_bad_is_kept(near: World) -> None:
    near.scheduler._rate.copied = 24 * BLOCK
    session = copied_by_its_reader(near)
    client = near.client(session)
    near.source.fail(at=28 * BLOCK, times=9)
    near.gate.open()
    near.until(lambda: session.failure is not None)
    answer = client.get(0, 28 * BLOCK)
    near.until(lambda: answer.complete)
    client.leave()
    near.settle()


def test_a_rate_is_charged_for_what_is_copied(near: World, monkeypatch: Patch) -> None:
    """And not for what a step leaves to the next one."""
    monkeypatch.setattr(step_module, "_LONGEST", 0.0)
    near.scheduler._rate.copied = 128 * BLOCK
    charged: list[int] = []
    monkeypatch.setattr(Pace, "charge", lambda _self, count: charged.append(count))
    session = near.session(FILM, 320 * BLOCK)
    near.settle()
    assert near.object_of(session) == "whole"
    assert sum(charged) == session.map.size
    assert min(charged) < 0


def test_memory_that_is_short_below_a_write_is_no_fault_of_the_source(
    near: World, monkeypatch: Patch
) -> None:
    session = copied_by_its_reader(near)
    client = near.client(session)

    def put(_self: Partial, _offset: int, _data: memoryview) -> None:
        raise MemoryError

    monkeypatch.setattr(Partial, "put", put)
    answer = client.get(0, SIZE)
    near.gate.open()
    near.until(lambda: answer.complete)
    assert near.counters.source_errors == 0
    assert not near.health.degraded, "nor of the disk"
    client.leave()
    near.settle()


def test_a_name_more_while_a_worker_copies_is_no_change(near: World) -> None:
    """The worker leaves it to us to say so, to other processes as well."""
    session = copied_by_its_reader(near)
    os.link(near.path(FILM), near.path("another name"))
    near.gate.let(8 * BLOCK)
    near.settle()
    assert session.map.present == on_disk(session) == 12
    near.gate.open()
    near.settle()
    assert near.object_of(session) == "whole"
    assert near.source.read_twice() == []


def test_what_we_mark_when_a_sync_has_failed_is_not_kept(near: World, monkeypatch: Patch) -> None:
    session = copied_by_its_reader(near)
    client = near.client(session)
    os.link(near.path(FILM), near.path("another name"))
    mark = Allotment.mark

    def marked(room: Allotment, *args: Any, **more: Any) -> None:
        mark(room, *args, **more)
        room.lost = True
        session._lose()

    monkeypatch.setattr(Allotment, "mark", marked)
    near.gate.let(8 * BLOCK)
    near.settle()
    assert session.map.ready(8 * BLOCK, SIZE) == 0
    near.gate.open()
    near.settle()
    client.leave()
    near.settle()
