"""A session under any order of events: right bytes, every read settled, nothing left (I8, I11)."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from streamcache.cache import allotment, steps, writes
from streamcache.cache.partial import Partial
from streamcache.cache.session import CopySession
from streamcache.cache.states import Event, State
from streamcache.cache.workers import WorkerPool
from streamcache.errors import Closed, SourceChanged, SourceUnavailable
from streamcache.source import step
from tests import content
from tests.cache.fakes import BLOCK, Client, SteadyRate, World

FILM = "film.mp4"
SIZES = st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 12 * BLOCK + 7, 30 * BLOCK])
ROOM = 64 << 20
PICKS = st.integers(0, 1 << 20)  # one of some, whatever there are
RARELY = st.integers(0, 3).map(lambda number: number == 0)
FAIR_ERRORS = (Closed, SourceChanged, SourceUnavailable)


class IllDisk(WorkerPool):
    """A disk on which the next write, sync or rename may fail, whichever worker does it."""

    ill = False

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if function.__name__ in ("seal", "publish"):
            self.fail_if_ill()
        return super().call(function, *args, **options)

    def fail_if_ill(self) -> None:
        if self.ill:
            self.ill = False
            raise OSError(errno.ENOSPC, "no space left on device")


class Sessions(RuleBasedStateMachine):
    """One file, one session after the other, and everything that can happen to them.

    What a session has come to is up to its threads as well. So no rule has a precondition, and none
    draws by what it finds, or hypothesis would be misled: what cannot be done is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(allotment, "STEP", 8 * BLOCK)
        self.patch.setattr(steps, "AHEAD", 2 * BLOCK)
        self.world: World | None = None

    @initialize(
        size=SIZES,
        in_flight=st.integers(1, 4),
        ahead=st.sampled_from([None, 0]),
        near=st.booleans(),
        slow=st.booleans(),
    )
    def begin(self, size: int, in_flight: int, ahead: int | None, near: bool, slow: bool) -> None:
        self.size = size
        self.patch.setattr(step, "_LONGEST", 0.0 if slow else 1e9)
        self.patch.setattr(writes, "_QUICK", 1e9)
        self.patch.setattr(SteadyRate, "copied", 12 * BLOCK)
        self.world = World(room=ROOM, in_flight=in_flight, disk=IllDisk, near=near)
        disk, put = self.world.disk, Partial.put
        assert isinstance(disk, IllDisk)

        def put_if_well(partial: Partial, offset: int, data: memoryview) -> None:
            disk.fail_if_ill()
            put(partial, offset, data)

        self.patch.setattr(Partial, "put", put_if_well)
        self.source, self.gate = self.world.source, self.world.gate
        self.gate.shut()
        self.version = 0
        self.write()
        self.open(ahead)

    def write(self) -> None:
        """Another version takes the name."""
        self.version += 1
        self.content = f"{FILM} {self.version}"
        self.world.write(FILM, self.size, content_name=self.content)
        self.on_source = self.content

    def open(self, ahead: int | None) -> None:
        self.session: CopySession = self.world.session(FILM, ahead=ahead)
        self.content = self.on_source
        self.spoiled = False  # the open file was changed
        self.replaced = False  # the name leads to another
        self.trouble = False  # something happened after which a byte may be read twice
        self.began = len(self.source.reads)
        self.clients: list[Client] = []
        self.world.settle()

    @property
    def live(self) -> bool:
        return self.session.state is not State.CLOSED

    # -- readers

    @rule(ahead=st.sampled_from([None, 0]))
    def reader_comes(self, ahead: int | None) -> None:
        if not self.live:
            self.next_session(ahead)
        if self.live and len(self.clients) < 5:  # an empty file is copied by now
            self.clients.append(self.world.client(self.session, content_name=self.content))

    @rule(which=PICKS, first=PICKS, length=PICKS, goes_on=st.booleans())
    def reader_reads(self, which: int, first: int, length: int, goes_on: bool) -> None:
        if not self.clients or not self.size:
            return
        client = self.clients[which % len(self.clients)]
        if any(answer.waits for answer in client.answers):
            return  # one read at a time
        start = first % self.size
        stop = start + 1 + length % (self.size - start)
        if client.answers and goes_on:
            start = min(client.answers[-1].offset, self.size - 1)
            stop = self.size
        client.get(start, stop)
        self.world.settle()

    @rule(which=PICKS)
    def reader_leaves(self, which: int) -> None:
        if self.clients:
            self.clients.pop(which % len(self.clients)).leave()
            self.world.settle()

    # -- the source

    @rule(count=st.integers(1, 6))
    def reads_come_back(self, count: int) -> None:
        # One after the other, or chance would say in which order, and hypothesis be misled.
        for _ in range(count):
            self.gate.let(count=1)
            self.world.settle()

    @rule()
    def all_reads_come_back(self) -> None:
        while self.gate.waiting:
            self.reads_come_back(1)

    @rule()
    def a_read_fails(self) -> None:
        if self.live:
            self.source.fail(errno.EIO)

    @rule(times=st.integers(2, 9))
    def reads_fail_and_fail(self, times: int) -> None:
        if self.gate.waiting:
            self.source.fail(errno.ESTALE, times=times)

    @rule(how=st.sampled_from(["shrink", "grow", "rewrite", "touch"]))
    def the_open_file_changes(self, how: str) -> None:
        # Once: that a file grew and was rewritten besides cannot be told from an append.
        if not self.live or self.replaced or self.spoiled:
            return
        path = self.world.path(FILM)
        self.spoiled = self.trouble = True
        self.on_source = "nothing any more"
        with open(path, "r+b") as file:
            if how == "shrink":
                file.truncate(self.size // 2)
            elif how == "grow":
                file.seek(0, os.SEEK_END)
                file.write(b"more")
            elif how == "rewrite" and self.size:
                file.seek(self.size - 1)
                file.write(b"\0")
        os.utime(path)
        self.must_not_be_published()

    @rule()
    def the_file_is_replaced(self) -> None:
        if not self.live:
            return
        content_name = self.content
        self.write()
        self.content = content_name
        self.replaced = True
        self.must_not_be_published()

    def must_not_be_published(self) -> None:
        self.unpublished = self.session.state in (State.NEW, State.COPYING)

    unpublished = False

    # -- the cache

    @rule()
    def the_disk_fails(self) -> None:
        if self.live:
            self.world.disk.ill = True
            self.trouble = True

    @rule()
    def there_is_no_more_room(self) -> None:
        if self.live:
            self.world.space.resize(self.world.space.used)
            self.trouble = True

    @rule(event=st.sampled_from([Event.OUTDATED, Event.IDLE, Event.SHUTDOWN]), really=RARELY)
    def it_ends(self, event: Event, really: bool) -> None:
        if event is Event.IDLE and self.session.readers:
            event = Event.OUTDATED
        if really and self.live:
            self.trouble |= event is Event.OUTDATED
            self.session.handle_event(event)
            self.world.settle()

    def next_session(self, ahead: int | None) -> None:
        """Once the last one has let go of everything, as its readers and steps must."""
        for client in self.clients:
            client.leave()
        self.clients = []  # what they were told is ready is theirs no longer
        self.world.settle()
        self.all_reads_come_back()
        assert self.session.ended.is_set()
        self.look()
        if self.spoiled or self.session.handle is not None:
            self.write()
        self.world.disk.ill = False
        self.world.health._recover()
        self.world.space.resize(ROOM)
        self.source.break_down(0)
        self.unpublished = False
        self.open(ahead)

    # -- what holds

    @invariant()
    def look(self) -> None:
        if self.world is None:
            return
        session = self.session
        for client in self.clients:
            for answer in client.answers:
                if answer.error is not None:
                    assert isinstance(answer.error, FAIR_ERRORS), answer
                assert answer.waits or answer.complete or answer.error is not None
                if not self.gate.waiting:
                    assert not answer.waits, "it waits for what nobody reads (I11)"
            self.check_ready(client)
        if not self.trouble:
            assert self.source.read_twice(since=self.began) == []
        if session.ended.is_set():
            assert not self.gate.waiting
            assert self.source.open_files == 0
        assert self.world.space.used <= max(self.world.space.limit, ROOM)
        stored = self.world.object_of(session, self.content)
        assert stored in (None, "whole")
        if stored:
            assert not self.unpublished, "published although it is no longer true (I5)"

    def check_ready(self, client: Client) -> None:
        """What a reader was told is ready is so until it leaves."""
        pieces = [piece for answer in client.answers for piece in answer.pieces]
        for ready in pieces[-1:]:
            if ready.fd >= 0:
                data = os.pread(ready.fd, ready.length, ready.offset)
                assert content.verify(self.content, ready.offset, data) is None
                assert len(data) == ready.length

    def teardown(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.patch.undo)
            if self.world is not None:
                stack.callback(self.world.close)
                self.gate.open()
                self.world.settle()
                self.look()


TestSessionModel = Sessions.TestCase
TestSessionModel.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,  # each would be shrunk, which takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
