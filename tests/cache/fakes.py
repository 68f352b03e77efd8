"""A source whose reads wait at a gate, and all that a session needs around it.

The source is the real one over real files (so it cannot lie about what a file system does), with
a gate, a log and faults on demand before each of its calls. ``World.settle`` lets everything run
until only the gate holds it: no test needs to sleep.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent

from streamcache.cache import reopening as reopening_module
from streamcache.cache.account import Reserved
from streamcache.cache.health import Health
from streamcache.cache.ledger import Ledger
from streamcache.cache.locks import KeyLock, KeyLocks
from streamcache.cache.names import name_of
from streamcache.cache.objects import Objects
from streamcache.cache.reading import Ready
from streamcache.cache.removal import Removal
from streamcache.cache.resources import Resources
from streamcache.cache.session import CopySession
from streamcache.cache.space import Space
from streamcache.cache.states import Event, State
from streamcache.cache.store import Store
from streamcache.cache.workers import WorkerPool
from streamcache.config import Config
from streamcache.config.cache import CacheConfig
from streamcache.config.copy import CopyConfig
from streamcache.config.source import SourceConfig
from streamcache.errors import SourceUnavailable
from streamcache.source.base import SourceFile
from streamcache.source.filesystem import FileSystemSource
from streamcache.source.rate import START_STEP
from streamcache.source.scheduler import Scheduler
from streamcache.stats import Counters
from tests import content

BLOCK = content.BLOCK
_STUCK = 20.0  # s until a test that waits for something counts as failed
_END = 3.0  # s for sessions to end
_QUIET_ROUNDS = 6  # turns of the loop without work after which nothing will move by itself


class Gate:
    """Where worker threads wait until the test lets them through, by the offset they read."""

    def __init__(self) -> None:
        self.is_open = True
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, threading.Event]] = []

    @property
    def waiting(self) -> list[int]:
        """The offsets of those who wait, in order."""
        with self._lock:
            return sorted(offset for offset, _ in self._waiting)

    def pass_through(self, offset: int) -> None:
        """Worker thread: wait."""
        with self._lock:
            if self.is_open:
                return
            turn = threading.Event()
            self._waiting.append((offset, turn))
        if not turn.wait(_STUCK):
            raise AssertionError(f"the gate stayed shut at {offset}")

    def shut(self) -> None:
        """From now on reads wait."""
        self.is_open = False

    def open(self) -> None:
        """Let all through, also those that come."""
        with self._lock:
            self.is_open = True
            waiting, self._waiting = self._waiting, []
        for _, turn in waiting:
            turn.set()

    def let(self, *offsets: int, count: int = 0) -> None:
        """Let those at these offsets through, or the ``count`` lowest."""
        with self._lock:
            self._waiting.sort(key=lambda visit: visit[0])
            chosen = [visit for visit in self._waiting if visit[0] in offsets]
            chosen = chosen or self._waiting[:count]
            self._waiting = [visit for visit in self._waiting if visit not in chosen]
        if offsets and len(chosen) < len(offsets):
            raise AssertionError(f"nobody waits at {offsets}")
        for _, turn in chosen:
            turn.set()


class GatedSource(FileSystemSource):
    """The real source, with a gate before each read."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.gate = Gate()
        self.reads: list[tuple[int, int]] = []  # (offset, bytes) that came from the source
        self.opened: list[SourceFile] = []
        self._lock = threading.Lock()
        self._faults: list[tuple[int | None, int]] = []  # (offset, errno), each used once
        self._broken = 0  # errno of every read from now on

    def fail(self, code: int = errno.EIO, *, at: int | None = None, times: int = 1) -> None:
        """The next reads (at this offset) fail."""
        self._faults += [(at, code)] * times

    def break_down(self, code: int = errno.EIO) -> None:
        """Every read fails from now on; 0: no longer."""
        self._broken = code
        self._faults.clear()

    def open(self, path: str, ahead: int | None = None) -> SourceFile:
        file = super().open(path, ahead)
        with self._lock:
            self.opened.append(file)
            if file.ahead is not None:
                self.reads.append((file.ahead.offset, len(file.ahead.data)))
        return file

    def read_into(self, file: SourceFile, buffer: memoryview, offset: int) -> int:
        self.gate.pass_through(offset)
        with self._lock:
            code = self._broken or self._take_fault(offset)
        if code:
            raise SourceUnavailable(code, os.strerror(code), "read")
        count = super().read_into(file, buffer, offset)
        with self._lock:
            self.reads.append((offset, count))
        return count

    def _take_fault(self, offset: int) -> int:
        for fault in self._faults:
            if fault[0] in (None, offset):
                self._faults.remove(fault)
                return fault[1]
        return 0

    @property
    def open_files(self) -> int:
        """Files that were opened and not closed."""
        return sum(file.fd >= 0 for file in self.opened)

    @property
    def bytes_read(self) -> int:
        """Bytes that came from the source."""
        return sum(count for _, count in self.reads)

    def read_twice(self, *, since: int = 0) -> list[int]:
        """Offsets of reads that overlap an earlier one, of those after the first ``since``."""
        seen: list[tuple[int, int]] = []
        twice = []
        for start, count in self.reads[since:]:
            if any(start < stop and begin < start + count for begin, stop in seen):
                twice.append(start)
            seen.append((start, start + count))
        return twice


class SteadyRate:
    """Steps of one size: what is read when must not depend on how fast the machine is."""

    step = copied = START_STEP

    def __init__(self, *, is_near: bool) -> None:
        self.is_near = is_near

    def begin(self) -> float:
        return 0.0

    def end(self, count: int, *, saturated: bool, started: float) -> None:
        pass

    def copied_in(self, count: int, busy: float) -> None:
        pass


class Client:
    """A reader of a session; ``get`` reads in a greenlet of its own."""

    def __init__(self, session: CopySession, name: str) -> None:
        self.session = session
        self.name = name
        self.reader = session.inc_ref()
        self.answers: list[Answer] = []

    def get(self, start: int, stop: int) -> Answer:
        """Read [start, stop) in as many answers as it takes."""
        answer = Answer(self, start, stop)
        self.answers.append(answer)
        return answer

    def leave(self) -> None:
        """Give up what is being read, then the lease, as a connection that breaks."""
        for answer in self.answers:
            answer.greenlet.kill()
        self.session.dec_ref(self.reader)


class Answer:
    """What a reader got of [start, stop), and the error that ended it."""

    def __init__(self, client: Client, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.offset = start  # of the next byte
        self.error: BaseException | None = None
        self.pieces: list[Ready] = []
        self._client = client
        self.greenlet = gevent.spawn(self._run)

    def __repr__(self) -> str:
        return f"<Answer {self.start}..{self.stop} at {self.offset} error={self.error!r}>"

    @property
    def waits(self) -> bool:
        """Neither all there nor failed."""
        return not self.greenlet.ready()

    @property
    def complete(self) -> bool:
        """Every byte came, and was right."""
        return self.offset == self.stop and self.error is None and not self.waits

    def _run(self) -> None:
        client = self._client
        try:
            while self.offset < self.stop:
                ready = client.session.read(client.reader, self.offset, self.stop)
                self.pieces.append(ready)
                self._take(ready)
        except Exception as error:
            self.error = error

    def _take(self, ready: Ready) -> None:
        assert ready.offset == self.offset
        assert 0 < ready.length <= self.stop - self.offset
        if ready.data is None:
            data = os.pread(ready.fd, ready.length, ready.offset)
        else:
            data = bytes(ready.data)
        assert len(data) == ready.length
        wrong = content.verify(self._client.name, self.offset, data)
        assert wrong is None, f"wrong byte at {wrong}"
        self.offset += len(data)


class Filling:
    """Room that somebody else has."""

    def __init__(self, space: Space, amount: int) -> None:
        self._space = space
        self.amount = amount
        self._name = f"{secrets.token_hex(16)}.{'f' * 32}"
        self._draw = space.draw(self._name, amount, amount, timeout=0)

    def release(self) -> None:
        """There is room again."""
        self._space.settle(self._name, self._draw.generation, 0)


class World:
    """A source directory, a cache directory, the threads, and the sessions between them.

    Of a ``near`` source the worker that reads a step of a copy writes it.
    """

    def __init__(
        self,
        *,
        room: int = 1 << 30,
        in_flight: int = 4,
        timeout: float = _STUCK,
        reads: type[WorkerPool] = WorkerPool,
        disk: type[WorkerPool] = WorkerPool,
        meta: type[WorkerPool] = WorkerPool,
        keep: int = 8,
        near: bool = False,
    ) -> None:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.root = Path(tempfile.mkdtemp(prefix="streamcache-", dir=memory))
        (self.root / "source").mkdir()
        self.source = GatedSource(str(self.root / "source"))
        self.gate = self.source.gate
        self.config = Config(
            source=SourceConfig(timeout=timeout), copy=CopyConfig(in_flight=in_flight)
        )
        self.counters = Counters()
        self.reads = reads("source", size=8)
        self.meta = meta("meta", size=2)
        self.disk = disk("disk", size=2)
        self.store = Store(str(self.root / "cache"))
        self.store.prepare()
        self.keys = KeyLocks()
        self.keys.use(self.store.lock)
        self.space = Space(room)
        self.ledger = Ledger.open(self.store, self.space, self.disk, CacheConfig(size=room))
        self.ledger.start()
        self.health = Health(self.store, self.disk)
        self.objects = Objects(self.store, self.ledger, self.disk, self.health, keep=keep)
        self.scheduler = Scheduler(self.source, self.reads, self.counters, in_flight=in_flight)
        self.scheduler._rate = self.scheduler._steps._rate = SteadyRate(is_near=near)
        self.resources = Resources(
            config=self.config,
            counters=self.counters,
            source=self.source,
            scheduler=self.scheduler,
            store=self.store,
            space=self.space,
            objects=self.objects,
            health=self.health,
            keys=self.keys,
            disk=self.disk,
            meta=self.meta,
        )
        self.sessions: list[CopySession] = []
        self.clients: list[Client] = []
        self.changes: list[tuple[CopySession, State]] = []
        self.published: list[tuple[str, int]] = []
        self.processes: list[Any] = []  # see rooms.py
        self.removal = Removal(self.resources, self.ledger)
        self._retry_delay = reopening_module.DELAY
        reopening_module.DELAY = 0.0

    # -- files and sessions

    def write(self, name: str, size: int, *, content_name: str | None = None) -> Path:
        """A file at the source with this content, an hour old."""
        return content.write(self.source.root, name, size, content_name=content_name)

    def path(self, name: str) -> Path:
        """Its path at the source."""
        return Path(self.source.root, name)

    def file_in_cache(self, session: CopySession) -> Path:
        """Where its object is or will be."""
        return self.root / "cache" / "objects" / session.name[:2] / session.name

    def object_of(self, session: CopySession, name: str | None = None) -> str | None:
        """What was published: "whole" (of this content) or what is wrong; None: nothing.

        In words, as a difference of megabytes takes pytest minutes to show.
        """
        path = self.file_in_cache(session)
        if not path.exists():
            return None
        data = path.read_bytes()
        if len(data) != session.version.size:
            return f"{len(data)} bytes"
        wrong = content.verify(name or session.path, 0, data)
        return "whole" if wrong is None else f"wrong byte at {wrong}"

    def partials(self) -> list[str]:
        """Files in partial/."""
        return sorted(os.listdir(self.root / "cache" / "partial"))

    def session(
        self, name: str, size: int | None = None, *, ahead: int | None = None
    ) -> CopySession:
        """A session that copies the file; ``size``: write it first."""
        if size is not None:
            self.write(name, size)
        file = self.meta.call(self.source.open, name, ahead)
        key = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        full = name_of(key, file.version.id)
        session = CopySession(
            self.resources,
            name=full,
            path=name,
            file=file,
            continues=self.space.generation(full) > 0,
            on_change=lambda session: self.changes.append((session, session.state)),
            on_published=self._published,
        )
        self.sessions.append(session)
        return session

    def client(self, session: CopySession, *, content_name: str | None = None) -> Client:
        """One reader more."""
        client = Client(session, content_name or session.path)
        self.clients.append(client)
        return client

    def _published(self, session: CopySession, on_disk: int, lock: KeyLock) -> None:
        self.published.append((session.name, on_disk))
        self.removal.enter(session.name, session.path, session.version.size, on_disk, lock)

    @property
    def kept(self) -> dict[str, Reserved]:
        """What is reserved, by name: of partials left behind, once all sessions have ended."""
        return {row.name: row for row in self.ledger.reservations()}

    def fill(self, amount: int | None = None) -> Filling:
        """Take this room (all that is left) away from the sessions."""
        room = self.space.limit - self.space.used
        return Filling(self.space, room if amount is None else amount)

    def on_disk(self, name: str) -> int:
        """Bytes that a partial takes on disk."""
        folder = self.root / "cache" / "partial"
        files = (folder / f"{name}.{suffix}" for suffix in ("data", "map"))
        return sum(os.stat(file).st_blocks * 512 for file in files)

    # -- time

    def settle(self) -> None:
        """Switch until nothing moves any more but what waits at the gate."""
        deadline = time.monotonic() + _STUCK
        quiet = 0
        while quiet < _QUIET_ROUNDS:
            gevent.sleep(0)
            at_gate = len(self.gate.waiting)
            busy = self.disk.pending or self.meta.pending or self.ledger.pool.pending
            if busy or self.reads.pending > at_gate:
                quiet = 0
                gevent.sleep(0.0002)
                assert time.monotonic() < deadline, "nothing settles"
            else:
                quiet += 1

    def until(self, condition: Callable[[], Any]) -> None:
        """Switch until this is true."""
        deadline = time.monotonic() + _STUCK
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            gevent.sleep(0.0005)

    # -- the end

    def close(self, *, check: bool = True) -> None:
        """End what still runs; ``check``: then nothing may be left but partials."""
        reopening_module.DELAY = self._retry_delay
        self.gate.open()
        try:
            for session in self.sessions:
                session.handle_event(Event.SHUTDOWN)
            gevent.wait([session.ended for session in self.sessions], timeout=_END)
            for client in self.clients:
                client.leave()
            for process in self.processes:
                process.end()
            self.settle()
            if check:
                self._check()
        finally:
            self.removal.close(_END)
            self.objects.close()
            self.ledger.close()
            pools = (self.reads, self.meta, self.disk)
            for pool in pools:
                pool.close()
            ended = [pool.join(_STUCK) for pool in pools]
            self.store.close()
            shutil.rmtree(self.root, ignore_errors=True)
            assert all(ended), pools

    def _check(self) -> None:
        assert all(session.ended.is_set() for session in self.sessions), self.sessions
        assert self.source.open_files == 0
        kept = {name: row.bytes for name, row in self.kept.items()}
        assert self.space.reserved == sum(kept.values())
        assert kept == dict(self.store.partials.room()), "reserved is not what partials take"
        assert self.space.objects == sum(on_disk for _, on_disk in self.published)
        for session in self.sessions:
            assert len(session._waiting) == 0, session
        assert not self.objects.leased()
