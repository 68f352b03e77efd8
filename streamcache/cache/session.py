"""``CopySession``: copies a source file once, and serves it at the same time.

Greenlets, all in the hub's thread: ``_do_copy`` leads the session through its states (see
``states.py``) and lets go of everything at the end; each step of the scheduler calls ``arrived`` or
``failed`` in a greenlet of its own; readers call ``read``. Threads get descriptors, offsets and
buffers only (I3), and those belong to the call until it returns (I4): the session closes nothing
while a step is under way.

A reader in want of bytes asks for the block that it needs; whatever is read is kept and counts as
copied, so the source gives each byte once. No reader drives the copy: a slow one slows nobody, and
one that leaves stops nothing. Sessions of other processes may copy the same version: each takes
blocks that nobody has (``claims.py``), and ``_follow`` learns of theirs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator

import gevent
from gevent.event import Event as Flag

from streamcache.cache.allotment import AHEAD, LOCK_WAIT, Allotment
from streamcache.cache.blockmap import BLOCK, BlockMap, Extent
from streamcache.cache.claims import Claims
from streamcache.cache.following import Borrowed, Following
from streamcache.cache.locks import KeyLock
from streamcache.cache.names import key_of
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.pace import Pace
from streamcache.cache.partial import PartialHeader
from streamcache.cache.publication import Look, Published, publish
from streamcache.cache.reading import DELIVERED_BYTES, PendingRead, Reader, Ready, Waiting
from streamcache.cache.reopening import Reopening
from streamcache.cache.resources import Resources
from streamcache.cache.states import Event, State, after
from streamcache.cache.writes import Writes
from streamcache.errors import (
    CacheError,
    Closed,
    NoSpace,
    SourceChanged,
    SourceError,
    SourceTimeout,
    StreamCacheError,
)
from streamcache.source.base import Change, Fingerprint, SourceFile, Version
from streamcache.source.feed import Piece

_READY_BYTES = 4 * 1024 * 1024  # at most in one answer, so that the reader's position is known
_READ_AHEAD = 32 * 1024 * 1024  # bytes before a reader that are copied before the rest
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
        self._seen: Fingerprint = file.fingerprint
        self._room = Allotment(
            name,
            file.version.size,
            store=resources.store,
            space=resources.space,
            disk=resources.disk,
            keys=resources.keys,
        )
        self._lock = lock
        self._claims = Claims(self.map, self._present)
        self._on_change = on_change
        self._on_published = on_published
        self._continues = continues  # there is a partial, not yet open
        self._waiting = Waiting()
        self._writes = Writes(self._room, self._waiting, resources.health, path)
        self._following = Following(
            self._claims,
            self._waiting,
            self.map,
            patience=resources.config.copy.claim_timeout,
            demand=lambda block: self._r.scheduler.demand(self, block * BLOCK, seek=False),
            freed=self.schedule,
        )
        self._reopening = Reopening(resources.source, resources.meta, file)
        self.failure: StreamCacheError | None = None  # why missing blocks cannot be read
        self.pace = Pace(0)  # of what nobody reads
        self._keep_partial = True
        self._sharing = False  # outdated, but several readers go on to share the bytes
        self._retried: set[int] = set()  # extents whose second try is their last
        self._steps = 0  # under way
        self.started = time.monotonic()
        self._lent = -1  # the partial's descriptor, when its readers outlive the rest
        self._gone = False  # all but what readers may still hold was let go
        self._allocated = Flag()  # the question of space is settled
        self._copied = Flag()  # the map is complete, or copying has ended
        self._closed = Flag()
        self._quiet = Flag()  # no step is under way
        self._quiet.set()
        self._greenlet = gevent.spawn(self._do_copy)
        if file.ahead is not None and file.ahead.offset < file.version.size:
            piece = self._claim(file.ahead.offset // BLOCK, BLOCK)
            assert piece is not None  # nobody else has any yet
            gevent.spawn(self.arrived, piece, file.ahead.data, file.fingerprint)

    def __repr__(self) -> str:
        return (
            f"<CopySession {self.path!r} {self.state.value} {self.map.present}/{self.map.count}"
            f" readers={len(self.readers)} waiting={len(self._waiting)} steps={self._steps}>"
        )

    # -- readers

    @contextlib.contextmanager
    def lease(self) -> Iterator[Reader]:
        """A reader's hold on the session."""
        reader = self.inc_ref()
        try:
            yield reader
        finally:
            self.dec_ref(reader)

    def inc_ref(self, client: str = "") -> Reader:
        """One reader more; a session that is closed takes none (Closed)."""
        if self.state is State.CLOSED:
            raise Closed(f"{self.path}: the copy session is closed")
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
                raise Closed(f"{self.path}: the copy session is closed")
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
        if self.map.is_free(offset // BLOCK):
            seek = offset != reader.expected
            self._r.scheduler.demand(self, offset // BLOCK * BLOCK, seek=seek)
        elif self._claims.others:
            self._following.hurry()
        timeout = self._r.config.source.timeout
        with reader.waiting(self._r.counters.delegated_wait):
            try:
                read.result.wait(timeout=timeout)
            finally:
                self._waiting.leave(read)
        if not read.result.ready():
            raise SourceTimeout(f"{self.path}: no bytes within {timeout} s")
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
        log.debug("session %s -> %s event=%s path=%r", before, self.state, event, self.path)
        if self.state is State.COPYING:
            self.schedule()
        elif self.state is State.DETACHED:
            self._room.give_up()
            self._detached(event)
        elif self.state is State.CLOSED:
            self._room.give_up()
            if before in (State.NEW, State.COPYING):
                self._r.counters.copies_cancelled += 1
            self._r.scheduler.remove(self)
            self._waiting.fail(Closed(f"{self.path}: the copy session is closed"))
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
        self._allocated.set()
        self._copied.set()
        self.schedule()
        if not self.readers:
            self.handle_event(Event.IDLE)

    def schedule(self) -> None:
        """Tell the scheduler whether there is something to copy without being asked."""
        if self.state is State.COPYING or self._shared:
            self._r.scheduler.add(self, idle=not self.readers)
        else:
            self._r.scheduler.remove(self)

    @property
    def _shared(self) -> bool:
        """Detached, but several read: they share the bytes until one is left."""
        return (
            self.state is State.DETACHED
            and self._sharing
            and len(self.readers) > 1
            and self.failure is None
        )

    @property
    def _keeps(self) -> bool:
        """Whether bytes that arrive now go into the partial."""
        wanted = self._keep_partial or self._sharing
        return wanted and self._room.partial is not None and self._writes.welcome

    # -- the scheduler's feed

    @property
    def file(self) -> SourceFile:
        """The open source file."""
        return self._file

    def demanded(self, offset: int, length: int) -> Piece | None:
        """Claim what a reader waits for, if it still does."""
        block = offset // BLOCK
        stop = self._waiting.stop_of(block)
        if self.state is State.CLOSED or not stop:
            return None
        if not self.map.is_free(block):
            return self._borrow(block)
        wanted = -(-stop // BLOCK) * BLOCK - offset  # what comes after can wait
        if not self._keeps:
            wanted = min(wanted, DELIVERED_BYTES)
        return self._claim(block, min(length, wanted))

    def sequential(self, length: int) -> Piece | None:
        """Claim what comes next: before the readers, else the lowest missing block."""
        if not (self.state is State.COPYING or self._shared):
            return None
        if not (self.readers or self.pace.allows(min(length, self.version.size), self.schedule)):
            return None
        while self._keeps and self._room.affords(max(1, length // BLOCK)):
            block = self._next_block()
            if block < 0:
                return None
            piece = self._claim(block, length)
            if piece is not None:
                return piece
        if self._writes.welcome:
            self._grow()
        return None

    def _next_block(self) -> int:
        """The free block nearest before a reader, within reach; else the lowest."""
        best, distance = -1, _READ_AHEAD // BLOCK
        ranges = {(r.position // BLOCK, -(-r.stop // BLOCK)) for r in self.readers}
        for position, stop in ranges:
            block = self.map.next_free(position, min(stop, position + distance))
            if block >= 0:
                best, distance = block, block - position
        return best if best >= 0 else self.map.next_free(0)

    def _claim(self, block: int, length: int) -> Piece | None:
        extent = self._claims.claim(block, max(1, length // BLOCK))
        self._following.begin()
        if extent is None:
            return None
        self._room.spend(len(extent))
        if not self._room.affords(AHEAD // BLOCK):
            self._grow()
        self._begin_step()
        return Piece(extent.start * BLOCK, self.map.length(extent))

    def _borrow(self, block: int) -> Piece | None:
        if not self._following.is_late(block):
            return None
        self._following.borrow(block)
        self._begin_step()
        return Borrowed(block * BLOCK, self.map.length(Extent(block, block + 1)))

    def _begin_step(self) -> None:
        self._steps += 1
        self._quiet.clear()

    def _released(self) -> None:
        """A step is over."""
        self._steps -= 1
        if not self._steps:
            self._quiet.set()
        self.schedule()

    @property
    def seen(self) -> Fingerprint:
        """What the source file was at the last look."""
        return self._seen

    def arrived(self, piece: Piece, data: memoryview, now: Fingerprint) -> None:
        """A step's bytes: keep them if they are of our version, and wake who waits. Switches."""
        extent, kept, ours = (
            Extent.of(piece.offset, piece.length),
            False,
            not isinstance(piece, Borrowed),
        )
        try:
            if self._is_changed(now) or len(data) < piece.length:
                self._fail(SourceChanged(f"{self.path}: changed at the source while it was read"))
                return
            self._retried.discard(extent.start)
            if len(data) <= BLOCK or self.state is State.NEW:
                self._waiting.deliver(extent, data)  # a seek is answered first, then kept
            kept = ours and self._store(extent, data)
        finally:
            if kept:
                self._claims.filled(extent)
                self._present(extent)
            else:
                if ours:
                    self._missed(extent)
                else:
                    self._following.return_borrowed(extent.start)
                self._waiting.deliver(extent, data)  # nobody, if all were told that it failed
            self._released()

    def _missed(self, extent: Extent) -> None:
        self._claims.missed(extent)
        self._room.spend(-len(extent))

    def _present(self, extent: Extent) -> None:
        """These blocks are present now, by us or by others."""
        self._waiting.present(extent)
        if self.map.complete:
            self._copied.set()

    def failed(self, piece: Piece, error: StreamCacheError) -> None:
        """A step could not read: once more, then its readers get the error and the copy ends."""
        extent = Extent.of(piece.offset, piece.length)
        again = extent.start not in self._retried and self.state is not State.CLOSED
        if again:
            self._retried.add(extent.start)
            log.info("source read failed, trying again path=%r error=%s", self.path, error)
            try:
                now = self._reopening.prepare(error, self._seen)
                if now is not None and self._is_changed(now):
                    raise SourceChanged(f"{self.path}: replaced at the source")
            except SourceChanged as changed:
                again, error = False, changed
        if isinstance(piece, Borrowed):
            self._following.return_borrowed(extent.start)
        else:
            self._missed(extent)
        if again:
            self._following.demand_for(extent)
        elif self.state is not State.CLOSED:
            self._fail(error)
        self._released()

    def _fail(self, error: StreamCacheError) -> None:
        if self.failure is None:
            self.failure = error
            log.warning("copy failed path=%r error=%s", self.path, error)
        self._waiting.fail(error)
        self.handle_event(Event.COPY_FAILED)

    def _is_changed(self, now: Fingerprint) -> bool:
        """Whether the open file is another version than the one we serve (I8).

        Grown with the same inode counts as appended to: what we serve of it is the same, but a
        later open finds another version, so this one is not published.
        """
        change = self._seen.compare(now)
        if change is Change.REWRITTEN:
            return True
        self._seen = now
        if change is Change.APPENDED:
            self.handle_event(Event.OUTDATED)
        return False

    def _store(self, extent: Extent, data: memoryview) -> bool:
        """Write into the partial; False: it is not kept. Switches."""
        if self.state is State.NEW:
            self._allocated.wait(max(0.0, self.started + _FIRST_WRITE_WAIT - time.monotonic()))
        if not (self._keeps and self._claims.may_write(extent)):
            return False
        if not self._room.affords(0):
            self._grow()
            return False
        if self._writes.write(extent, data):
            return True
        self.handle_event(Event.SPACE_DENIED)
        return False

    # -- space

    def _grow(self) -> None:
        if self.state is State.COPYING:
            gevent.spawn(self._do_grow)

    def _do_grow(self) -> None:
        """Greenlet: more room, or the copy ends."""
        try:
            if self._room.grow():
                self.schedule()
        except NoSpace as full:
            log.info("copy has no room path=%r reason=%s", self.path, full)
            self.handle_event(Event.SPACE_DENIED)

    def _alloc_cache_space(self) -> None:
        """Reserve, then open the partial: SPACE_GRANTED or SPACE_DENIED. Switches."""
        header = PartialHeader.of(self._file, self.path, self._r.source.id, self._r.store.boot)
        try:
            if self.state is not State.NEW:
                return
            lock = self._lock or self._r.keys.acquire(key_of(self.name), LOCK_WAIT)
            self._lock = lock
            present = self._room.open(header, lock)
            assert self._room.partial is not None
            self._claims.attach(self._room.partial, present)
        except (CacheError, OSError) as error:
            log.info("not cached path=%r reason=%s", self.path, error)
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
        self._following.end()
        self._claims.detach()
        try:
            self._room.let_go(keep=keep)
        except (OSError, CacheError, Closed) as error:
            # Its reservation stands until a look through what is left finds it unused.
            log.warning("partial not settled path=%r error=%s", self.path, error)

    # -- the copy

    def _do_copy(self) -> None:
        """Greenlet: the session's life from its first to its last moment."""
        self._r.counters.copies_started += 1
        try:
            self._alloc_cache_space()
            if self.map.complete:
                self._copied.set()
            self._copied.wait()
            self._quiet.wait()
            if self.state is State.COPYING:
                self._publish()
            self._closed.wait()
        except Exception:
            log.exception("copy session broke path=%r", self.path)
            self.failure = self.failure or Closed(f"{self.path}: internal error")
            self._keep_partial = False
            self.handle_event(Event.SHUTDOWN)
        finally:
            self._quiet.wait()
            try:
                self._let_go()
            finally:
                self.ended.set()
                self._on_change(self)

    def _publish(self) -> None:
        """All blocks are present: an object, if it is still true."""
        look = Look(self._r.source, self._r.meta, self._file, self.path)
        try:
            done = publish(
                self._room,
                self.version.mtime_ns,
                wanted=lambda: self.state is State.COPYING,
                is_still=lambda: look.is_still(self._seen),
            )
        except (CacheError, OSError) as error:
            if isinstance(error, SourceError):
                self._fail(error)
            else:
                log.warning("copy not published path=%r error=%s", self.path, error)
                self._r.health.failed(error)
                self.handle_event(Event.SPACE_DENIED)
        except StreamCacheError as error:
            self._fail(error)
        else:
            if done is not None:
                self._complete(done)

    def _complete(self, done: Published) -> None:
        self.handle = self._r.objects.adopt(self.name, self.version, done.fd)
        if done.lock is not None:
            self._r.counters.copies_finished += 1
            self._on_published(self, done.blocks, done.lock)
        log.info("copy complete path=%r bytes=%d name=%s", self.path, self.version.size, self.name)
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
