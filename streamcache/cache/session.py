"""``CopySession``: copies a source file once, and serves it at the same time.

Greenlets, all in the hub's thread: ``_do_copy`` leads the session through its states (see
``states.py``) and lets go of everything at the end; those of its steps (``steps.py``); readers call
``read``. Threads get descriptors, offsets and buffers only (I3), and those belong to the call until
it returns (I4): the session closes nothing while a step is under way.

A reader in want of bytes asks for the block that it needs. No reader drives the copy: a slow one
slows nobody, and one that leaves stops nothing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

import gevent
from gevent.event import Event as Flag

from streamcache.cache.allotment import Allotment
from streamcache.cache.blockmap import BLOCK, BlockMap
from streamcache.cache.locks import KeyLock
from streamcache.cache.names import key_of
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.pace import Pace
from streamcache.cache.partial import PartialHeader
from streamcache.cache.publication import Look, Published, publish
from streamcache.cache.reading import PendingRead, Reader, Ready, Waiting
from streamcache.cache.resources import Resources
from streamcache.cache.states import Event, State, after
from streamcache.cache.steps import Steps
from streamcache.cache.workers import is_there
from streamcache.cache.writes import Writes
from streamcache.errors import (
    CacheError,
    Closed,
    SourceChanged,
    SourceError,
    SourceTimeout,
    StreamCacheError,
)
from streamcache.source.base import SourceFile, Version

_READY_BYTES = 4 * 1024 * 1024  # at most in one answer, so that the reader's position is known
_FIRST_WRITE_WAIT = 1.0  # s from the start for which bytes wait for the partial, to be kept

log = logging.getLogger(__name__)


class CopySession:
    """One copy of one version of a file. Made and used in the hub's thread."""

    def __init__(
        self,
        resources: Resources,
        *,
        name: str,
        path: str,
        file: SourceFile,
        lock: KeyLock | None = None,
        continues: bool = False,
        on_change: Callable[[CopySession], None],
        on_published: Callable[[CopySession, int, KeyLock], None],
    ) -> None:
        """``file`` and ``lock``, the key's, are owned from now on. ``continues``: there may be a
        partial. ``on_change`` is called after each change of ``state``, whenever the last reader
        leaves, and at the very end; ``on_published`` with the object's bytes on disk and the lock
        that keeps its name until the catalog knows it. Neither may switch.
        """
        self.name = name
        self.path = path
        self.version: Version = file.version
        self.state = State.NEW
        self.map = BlockMap(file.version.size)
        self.readers: set[Reader] = set()
        self.handle: ObjectHandle | None = None  # the object, once complete
        self.ended = Flag()  # everything was let go
        self._r = resources
        self._file = file
        self._room = Allotment(
            name,
            file.version.size,
            store=resources.store,
            space=resources.space,
            disk=resources.disk,
            keys=resources.keys,
        )
        self._lock = lock
        self._on_change = on_change
        self._on_published = on_published
        self._continues = continues  # there is a partial, not yet open
        self._waiting = Waiting()
        self._writes = Writes(
            self._room,
            self._waiting,
            resources.health,
            path,
            on_loss=self._lose,
            on_synced=self.schedule,
        )
        self._steps = Steps(
            self,
            resources,
            file=file,
            blocks=self.map,
            room=self._room,
            waiting=self._waiting,
            writes=self._writes,
        )
        self.failure: StreamCacheError | None = None  # why missing blocks cannot be read
        self.pace = Pace(0)  # of what nobody reads
        self._keep_partial = True
        self._sharing = False  # outdated, but several readers go on to share the bytes
        self.started = time.monotonic()
        self.resumed = 0  # bytes that its partial had already
        self._lent = -1  # the partial's descriptor, when its readers outlive the rest
        self._gone = False  # all but what readers may still hold was let go
        self._allocated = Flag()  # the question of space is settled
        self._copied = Flag()  # the map is complete, or copying has ended
        self._closed = Flag()
        self._greenlet = gevent.spawn(self._do_copy)
        self._steps.begin()

    def __repr__(self) -> str:
        return (
            f"<CopySession {self.path!r} {self.state.value} {self.map.present}/{self.map.count}"
            f" readers={len(self.readers)} waiting={len(self._waiting)}"
            f" steps={self._steps.under_way}>"
        )

    # -- readers

    def inc_ref(self, client: str = "") -> Reader:
        """One reader more; a session that is closed takes none (Closed)."""
        if self.state is State.CLOSED:
            raise Closed(f"/{self.path}: the copy session is closed")
        reader = Reader(client)
        self.readers.add(reader)
        self.schedule()
        return reader

    def dec_ref(self, reader: Reader) -> None:
        """One reader less. Idempotent; does not switch."""
        if reader not in self.readers:
            return
        self.readers.remove(reader)
        if not self.readers and self._gone:
            self._take_back()
        if not self.readers and self.state in (State.DETACHED, State.COMPLETE):
            self.handle_event(Event.IDLE)
            return
        self.schedule()
        if not self.readers:
            self._on_change(self)

    def read(self, reader: Reader, offset: int, stop: int) -> Ready:
        """Bytes from ``offset`` on, at least one, at most up to ``stop``. Switches until there are.

        Raises SourceTimeout, SourceUnavailable, SourceChanged or Closed.
        """
        waited = 0  # bytes that are not there yet when they are due
        while True:
            if self.state is State.CLOSED:
                raise Closed(f"/{self.path}: the copy session is closed")
            reader.position, reader.stop = offset, stop
            if self._continues:
                # What the partial has need not be read again: it is open in a moment.
                self._allocated.wait(_FIRST_WRITE_WAIT)
                self._continues = False
                continue
            count = self.map.ready(offset, stop) if self._fd >= 0 else 0
            if count:
                if self.handle is None:
                    count = min(count, _READY_BYTES)
                reader.expected = offset + count
                return Ready(self._fd, offset, count, fetched=min(count, waited))
            waited = waited or self.map.missing(offset, stop)
            data = self._delegated_read(reader, offset, stop)
            if data:
                reader.expected = offset + len(data)
                return Ready(-1, offset, len(data), data, fetched=len(data))

    def _delegated_read(self, reader: Reader, offset: int, stop: int) -> memoryview | None:
        """Wait for the block at ``offset``; None: it is present now."""
        if self.failure is not None:
            raise self.failure
        if (late := self._writes.find(offset, stop)) is not None:
            return late
        read = PendingRead(offset, stop)
        self._waiting.add(read)
        self._r.counters.delegated_reads += 1
        self._steps.want(offset // BLOCK, seek=offset != reader.expected)
        timeout = self._r.config.source.timeout
        with reader.waiting(self._r.counters.delegated_wait):
            try:
                there = is_there(read.result, timeout)
            finally:
                self._waiting.leave(read)
        if not there:
            raise SourceTimeout(f"/{self.path}: no bytes within {timeout} s")
        return read.result.get()

    @property
    def _fd(self) -> int:
        return self._room.fd if self.handle is None else self.handle.fd

    @property
    def read_up(self) -> bool:
        """Nothing is left to ask the source for: every block is present, or on its way."""
        return self.map.present + self.map.claimed == self.map.count

    # -- events

    def handle_event(self, event: Event) -> None:
        """The one place where the state changes. Does not switch."""
        before, self.state = self.state, after(self.state, event)
        if self.state is before:
            return
        form = "session changes path=%r from=%s to=%s cause=%r"
        log.debug(form, f"/{self.path}", before.value, self.state.value, event.value)
        if self.state is State.COPYING:
            self.schedule()
        elif self.state is State.DETACHED:
            self._room.give_up()
            self._detached(event)
        elif self.state is State.CLOSED:
            self._room.give_up()
            if before in (State.NEW, State.COPYING):
                self._r.counters.copies_cancelled += 1
            self._r.scheduler.remove(self._steps)
            self._waiting.fail(Closed(f"/{self.path}: the copy session is closed"))
            self._allocated.set()
            self._copied.set()
            self._closed.set()
        self._on_change(self)

    def _detached(self, event: Event) -> None:
        if event is Event.COPY_FAILED:
            self._r.counters.copies_failed += 1
        else:
            self._r.counters.copies_cancelled += 1
        # What is sound of this version may be continued later; after all else it is of no use.
        self._keep_partial = event is Event.COPY_FAILED and not isinstance(
            self.failure, SourceChanged
        )
        self._sharing = event is Event.OUTDATED
        if event is Event.OUTDATED:
            log.info(
                "copy given up, file changed or purged path=%r present=%d bytes=%d readers=%d",
                *(f"/{self.path}", self.map.present_bytes, self.version.size, len(self.readers)),
            )
        self._allocated.set()
        self._copied.set()
        self.schedule()
        if not self.readers:
            self.handle_event(Event.IDLE)

    def schedule(self) -> None:
        """Tell the scheduler whether there is something to copy without being asked."""
        if self.goes_on:
            self._r.scheduler.add(self._steps, idle=not self.readers)
        else:
            self._r.scheduler.remove(self._steps)

    # -- what its steps ask and tell

    @property
    def goes_on(self) -> bool:
        """Whether it is copied also where nobody waits for it.

        Detached, if several read: they share the bytes until one is left.
        """
        shared = self.state is State.DETACHED and self._sharing and len(self.readers) > 1
        return self.state is State.COPYING or (shared and self.failure is None)

    @property
    def keeps(self) -> bool:
        """Whether bytes that arrive now go into the partial."""
        wanted = self._keep_partial or self._sharing
        return wanted and self._room.partial is not None and self._writes.welcome

    def fail(self, error: StreamCacheError) -> None:
        """What is missing cannot be read: who waits gets the error, and the copy ends."""
        if self.failure is None:
            self.failure = error
            log.warning("copy failed path=%r error=%s", f"/{self.path}", error)
        self._waiting.fail(error)
        self.handle_event(Event.COPY_FAILED)

    def all_present(self) -> None:
        """Nothing is missing any more."""
        self._copied.set()

    def await_room(self) -> None:
        """Wait for the partial, for a second from the start. Switches."""
        self._allocated.wait(max(0.0, self.started + _FIRST_WRITE_WAIT - time.monotonic()))

    # -- space

    def _alloc_cache_space(self) -> None:
        """Reserve, then open the partial: SPACE_GRANTED or SPACE_DENIED. Switches."""
        header = PartialHeader.of(self._file, self.path, self._r.source.id, self._r.store.boot)
        try:
            if self.state is not State.NEW:
                return
            lock = self._lock or self._r.keys.acquire(key_of(self.name))
            self._lock = lock
            present = self._room.open(header, lock)
            assert self._room.partial is not None
            self._steps.attach(self._room.partial, present)
            if there := self.map.present_bytes:
                self.resumed = there
                form = "copy resumed path=%r present=%d bytes=%d"
                log.info(form, f"/{self.path}", there, self.version.size)
        except (CacheError, OSError) as error:
            log.info("not cached path=%r reason=%s", f"/{self.path}", error)
            self._r.health.failed(error)
            self.handle_event(Event.SPACE_DENIED)
        else:
            self.handle_event(Event.SPACE_GRANTED)
        finally:
            if self._lock is not None:
                self._lock.release()
            self._allocated.set()

    def _release_cache_space(self) -> None:
        """The partial stays for the next session, or goes with its reservation. Switches."""
        keep = self._keep_partial and self.map.present > 0
        self._steps.detach()
        try:
            self._room.let_go(keep=keep)
        except (OSError, CacheError, Closed) as error:
            # Its reservation stands until a look through what is left finds it unused.
            log.warning("partial not settled path=%r error=%s", f"/{self.path}", error)

    def _lose(self) -> None:
        """What was written may not be there any more: its readers get it from the source again.

        Does not switch.
        """
        self._steps.detach()  # nobody tells us any more what the map on disk has
        self.map.forget()
        self.handle_event(Event.SPACE_DENIED)

    # -- the copy

    def _do_copy(self) -> None:
        """Greenlet: the session's life from its first to its last moment."""
        self._r.counters.copies_started += 1
        try:
            self._alloc_cache_space()
            if self.map.complete:
                self._copied.set()
            self._copied.wait()
            self._wait_until_quiet()
            if self.state is State.COPYING:
                self._publish()
            self._closed.wait()
        except Exception:
            log.exception("copy session broke path=%r", f"/{self.path}")
            self.failure = self.failure or Closed(f"/{self.path}: internal error")
            self._keep_partial = False
            self.handle_event(Event.SHUTDOWN)
        finally:
            self._wait_until_quiet()
            try:
                self._let_go()
            finally:
                self.ended.set()
                self._on_change(self)

    def _wait_until_quiet(self) -> None:
        """Until no step and no sync is under way: who publishes must know what they found."""
        self._steps.quiet.wait()
        self._writes.synced.wait()

    def _publish(self) -> None:
        """All blocks are present: an object, if it is still true.

        No byte of an empty file can be another's, so nothing but its open asks the source.
        """
        look = Look(self._r.source, self._r.meta, self._file, self.path)
        try:
            with self._r.objects.watch(self.name) as watch:
                done = publish(
                    self._room,
                    self.version.mtime_ns,
                    wanted=lambda: self.state is State.COPYING,
                    is_still=lambda: not self.version.size or look.is_still(self._steps.seen),
                )
        except SourceError as error:  # an OSError, too
            self.fail(error)
        except (CacheError, OSError) as error:
            log.warning("copy not published path=%r error=%s", f"/{self.path}", error)
            self._r.health.failed(error)
            if self._room.lost:
                self._lose()
            else:
                self.handle_event(Event.SPACE_DENIED)
        except StreamCacheError as error:
            self.fail(error)
        else:
            if done is not None:
                # What another process published nobody's lock keeps at its name.
                self._complete(done, joined=done.lock is not None or not watch.discarded)

    def _complete(self, done: Published, *, joined: bool) -> None:
        self.handle = self._r.objects.adopt(self.name, self.version, done.fd, joined=joined)
        if done.lock is not None:
            self._r.counters.copies_finished += 1
            self._on_published(self, done.on_disk, done.lock)
        form = "copy complete path=%r bytes=%d name=%s"
        log.info(form, f"/{self.path}", self.version.size, self.name)
        self.handle_event(Event.ALL_COPIED)
        if not self.readers:
            self.handle_event(Event.IDLE)

    def _let_go(self) -> None:
        """Give everything back, once no step is under way. Switches."""
        self._gone = True
        if self.readers:
            self._lent = self._room.lend()
        else:
            self._take_back()
        try:
            self._release_cache_space()
        finally:
            self._r.meta.post(self._file.close)

    def _take_back(self) -> None:
        """What readers were told is ready, perhaps on its way to a socket: nobody reads it now."""
        fd, self._lent = self._lent, -1
        if fd >= 0:
            self._r.disk.post(os.close, fd)
        if self.handle is not None:
            self._r.objects.release(self.handle)
