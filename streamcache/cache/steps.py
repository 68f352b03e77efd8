"""The steps of a copy: what is read next of its file, and what becomes of what was read.

Hub's thread. A feed of the source's scheduler, which asks ``demanded`` and ``sequential`` what to
read; each step calls ``arrived`` or ``failed`` in a greenlet of its own. Whatever is read is kept,
and counts as copied, so the source gives each byte once. Sessions of other processes may copy the
same version: each takes blocks that nobody has (``claims.py``), and ``Following`` learns of theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Protocol

import gevent
from gevent.event import Event as Flag

from streamcache.cache.allotment import AHEAD, Allotment
from streamcache.cache.blockmap import BLOCK, BlockMap, Extent
from streamcache.cache.claims import Claims
from streamcache.cache.following import Borrowed, Following
from streamcache.cache.pace import Pace
from streamcache.cache.partial import Partial
from streamcache.cache.reading import DELIVERED_BYTES, Reader, Waiting
from streamcache.cache.reopening import Reopening
from streamcache.cache.resources import Resources
from streamcache.cache.states import Event, State
from streamcache.cache.writes import Writes
from streamcache.errors import NoSpace, SourceChanged, StreamCacheError
from streamcache.source.base import Change, Fingerprint, SourceFile
from streamcache.source.feed import Copied, Piece, Sink

_READ_AHEAD = 32 * 1024 * 1024  # bytes before a reader that are copied before the rest

log = logging.getLogger(__name__)


class Copy(Protocol):
    """What the steps need of their session."""

    path: str
    state: State
    pace: Pace

    @property
    def readers(self) -> Collection[Reader]:
        """Who reads from it."""
        ...

    @property
    def goes_on(self) -> bool:
        """Whether it is copied also where nobody waits for it."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether bytes that arrive now go into the partial."""
        ...

    def handle_event(self, event: Event) -> None:
        """Does not switch."""
        ...

    def fail(self, error: StreamCacheError) -> None:
        """What is missing cannot be read. Does not switch."""
        ...

    def all_present(self) -> None:
        """The last block has come."""
        ...

    def schedule(self) -> None:
        """There may be something to copy, or nothing any more. Does not switch."""
        ...

    def await_room(self) -> None:
        """It is new: wait a moment for the partial. Switches."""
        ...


class Steps:
    """The steps of one copy."""

    def __init__(
        self,
        copy: Copy,
        resources: Resources,
        *,
        file: SourceFile,
        blocks: BlockMap,
        room: Allotment,
        waiting: Waiting,
        writes: Writes,
    ) -> None:
        """``file`` is open until ``quiet`` is set and no step begins any more (I4)."""
        self.file = file
        self.seen: Fingerprint = file.fingerprint  # what it was at the last look
        self.quiet = Flag()  # no step is under way
        self.quiet.set()
        self._copy = copy
        self._scheduler = resources.scheduler
        self._map = blocks
        self._room = room
        self._waiting = waiting
        self._writes = writes
        self._claims = Claims(blocks, self._present)
        self._following = Following(
            self._claims,
            waiting,
            blocks,
            patience=resources.config.copy.claim_timeout,
            demand=self._demand,
            freed=copy.schedule,
            stalled=writes.is_stalled,
        )
        self._reopening = Reopening(resources.source, resources.meta, file)
        self._sink: Sink | None = None
        self._retried: set[int] = set()  # extents whose second try is their last
        self.under_way = 0  # how many

    def __repr__(self) -> str:
        return f"<Steps {self._copy.path!r} under_way={self.under_way} {self._claims!r}>"

    def begin(self) -> None:
        """What was read together with the open is the first step. Does not switch."""
        ahead, self.file.ahead = self.file.ahead, None  # those bytes go as soon as they are stored
        if ahead is not None and ahead.offset < self._map.size:
            piece = self._claim(ahead.offset // BLOCK, BLOCK)
            assert piece is not None  # nobody else has any yet
            gevent.spawn(self.arrived, piece, ahead.data, self.file.fingerprint)

    def attach(self, partial: Partial, present: bytes) -> None:
        """The partial is open, and this was in its map."""
        self._sink = Sink(
            put=partial.put,
            mark=partial.mark,
            stored=self._stored,
            stalled=self._stalled,
            patience=self._writes.patience,
        )
        self._claims.attach(partial, present)

    def detach(self) -> None:
        """The partial is about to be closed."""
        self._sink = None
        self._following.end()
        self._claims.detach()

    def want(self, block: int, *, seek: bool) -> None:
        """A reader has begun to wait for this block. Does not switch."""
        if self._map.is_free(block) or self._following.is_late(block):
            self._demand(block, seek=seek)
        elif self._claims.others:
            self._following.hurry()

    def _demand(self, block: int, *, seek: bool = False) -> None:
        self._scheduler.demand(self, block * BLOCK, seek=seek)

    # -- what the scheduler asks and tells

    @property
    def sink(self) -> Sink | None:
        """The partial, where a worker may write what it reads next without asking us again."""
        return self._sink if self._copy.keeps and self._writes.quick else None

    def demanded(self, offset: int, length: int) -> Piece | None:
        """Claim what a reader waits for, if it still does."""
        block = offset // BLOCK
        stop = self._waiting.stop_of(block)
        if self._copy.state is State.CLOSED or not stop:
            return None
        if not self._map.is_free(block):
            return self._borrow(block)
        wanted = -(-stop // BLOCK) * BLOCK - offset  # what comes after can wait
        if not self._copy.keeps:
            wanted = min(wanted, DELIVERED_BYTES)
        return self._claim(block, min(length, wanted))

    def sequential(self, length: int) -> Piece | None:
        """Claim what comes next: before the readers, else the lowest missing block."""
        copy = self._copy
        if not (copy.goes_on and self._writes.affords(self._map.claimed * BLOCK)):
            return None
        if not (copy.readers or copy.pace.allows(copy.schedule)):
            return None
        while copy.keeps and self._room.affords(max(1, length // BLOCK)):
            block = self._next_block()
            if block < 0:
                return None
            piece = self._claim(block, length)
            if piece is not None:
                if not copy.readers:
                    copy.pace.charge(piece.length)
                return piece
        if self._writes.welcome:
            self._grow()
        return None

    def _next_block(self) -> int:
        """The free block nearest before a reader, within reach; else the lowest."""
        best, distance = -1, _READ_AHEAD // BLOCK
        ranges = {(r.position // BLOCK, -(-r.stop // BLOCK)) for r in self._copy.readers}
        for position, stop in ranges:
            block = self._map.next_free(position, min(stop, position + distance))
            if block >= 0:
                best, distance = block, block - position
        return best if best >= 0 else self._map.next_free(0)

    def _claim(self, block: int, length: int) -> Piece | None:
        extent = self._claims.claim(block, max(1, length // BLOCK))
        self._following.begin()
        if extent is None:
            return None
        self._room.spend(len(extent))
        if not self._room.affords(AHEAD // BLOCK):
            self._grow()
        self._begin_step()
        return Piece(extent.start * BLOCK, self._map.length(extent))

    def _borrow(self, block: int) -> Piece | None:
        if not self._following.is_late(block):
            return None
        self._following.borrow(block)
        self._begin_step()
        return Borrowed(block * BLOCK, self._map.length(Extent(block, block + 1)))

    def _begin_step(self) -> None:
        self.under_way += 1
        self.quiet.clear()

    def _released(self) -> None:
        """A step is over."""
        self.under_way -= 1
        if not self.under_way:
            self.quiet.set()
        self._copy.schedule()

    def arrived(self, piece: Piece, data: memoryview, now: Fingerprint) -> None:
        """A step's bytes: keep them if they are of our version, and wake who waits. Switches."""
        extent = Extent.of(piece.offset, piece.length)
        ours = not isinstance(piece, Borrowed)
        kept = False
        try:
            if self._is_changed(now) or len(data) < piece.length:
                self._fail_as_changed()
                return
            self._retried.discard(extent.start)
            if len(data) <= BLOCK or self._copy.state is State.NEW:
                self._waiting.deliver(extent, data)  # a seek is answered first, then kept
            kept = ours and self._store(extent, data)
        finally:
            if kept:
                self._claims.filled(extent)
                self._present(extent)
            else:
                if ours:
                    self._claims.missed(extent)
                    self._room.spend(-len(extent))
                else:
                    self._following.return_borrowed(extent.start)
                self._waiting.deliver(extent, data)  # nobody, if all were told that it failed
            self._released()

    def _stored(self, piece: Piece, copied: Copied) -> None:
        """What a step's worker has written counts as present, if it is of our version."""
        extent, kept = Extent.of(piece.offset, piece.length), False
        self._writes.settled(extent)
        try:
            written = self._writes.written(copied)
            if copied.length < piece.length:
                extent = self._shorten(extent, Extent.of(piece.offset, copied.length))
            if copied.now is not None and (
                copied.read < copied.length or (not copied.marked and self._is_changed(copied.now))
            ):
                self._fail_as_changed()
            elif not written:
                self._copy.handle_event(Event.SPACE_DENIED)
            else:
                self._retried.discard(extent.start)
                kept = copied.marked or self._mark(extent)
        finally:
            if kept:
                self._claims.filled(extent)
                self._present(extent)
            else:
                self._claims.missed(extent)  # what was written of it takes the room that it had
                self._following.demand_for(extent)
            self._released()

    def _mark(self, extent: Extent) -> bool:
        try:
            return self._writes.mark(extent, late=lambda: self._hold_up(extent))
        finally:
            self._writes.settled(extent)

    def _shorten(self, extent: Extent, part: Extent) -> Extent:
        """The worker has left the rest: who waits for some of it asks for it again."""
        rest = Extent(part.stop, extent.stop)
        self._claims.shorten(extent, part)
        self._room.spend(-len(rest))
        if not self._copy.readers:
            self._copy.pace.charge(-self._map.length(rest))
        self._following.demand_for(rest)
        return part

    def _stalled(self, piece: Piece) -> None:
        self._hold_up(Extent.of(piece.offset, piece.length))

    def _hold_up(self, extent: Extent) -> None:
        """The cache's disk hangs: its readers get these bytes past it."""
        self._writes.stall(extent)
        self._following.demand_for(extent)

    def _fail_as_changed(self) -> None:
        path = self._copy.path
        self._copy.fail(SourceChanged(f"/{path}: changed at the source while it was read"))

    def _present(self, extent: Extent) -> None:
        """These blocks are present now, by us or by others."""
        self._waiting.present(extent)
        if self._map.complete:
            self._copy.all_present()

    def failed(self, piece: Piece, error: StreamCacheError) -> None:
        """A step could not read: once more, then its readers get the error and the copy ends."""
        extent = Extent.of(piece.offset, piece.length)
        self._writes.settled(extent)
        again = extent.start not in self._retried and self._copy.state is not State.CLOSED
        if again:
            self._retried.add(extent.start)
            log.info(
                "source read failed, trying again path=%r error=%s", f"/{self._copy.path}", error
            )
            try:
                now = self._reopening.prepare(error, self.seen)
                if now is not None and self._is_changed(now):
                    raise SourceChanged(f"/{self._copy.path}: replaced at the source")
            except SourceChanged as changed:
                again, error = False, changed
        if isinstance(piece, Borrowed):
            self._following.return_borrowed(extent.start)
        else:
            self._claims.missed(extent)  # a worker may have written some of it
        if again:
            self._following.demand_for(extent)
        elif self._copy.state is not State.CLOSED:
            self._copy.fail(error)
        self._released()

    def _is_changed(self, now: Fingerprint) -> bool:
        """Whether the open file is another version than the one we serve (I8).

        Grown with the same inode counts as appended to: what we serve of it is the same, but a
        later open finds another version, so this one is not published.
        """
        change = self.seen.compare_any(now)  # a write may lie between the look and us
        if change is Change.REWRITTEN:
            return True
        self.seen = self.seen.newer(now)
        if change is Change.APPENDED:
            self._copy.handle_event(Event.OUTDATED)
        return False

    def _store(self, extent: Extent, data: memoryview) -> bool:
        """Write into the partial; False: it is not kept. Switches."""
        if self._copy.state is State.NEW:
            self._copy.await_room()
        patience = self._writes.await_sync()
        # From here to the write nothing switches: what is closed or lost by now is not written.
        if not (self._copy.keeps and self._claims.may_write(extent)):
            return False
        if not self._room.affords(0):
            self._grow()
            return False
        if self._writes.write(extent, data, patience=patience):
            return True
        self._copy.handle_event(Event.SPACE_DENIED)
        return False

    def _grow(self) -> None:
        if self._copy.state is State.COPYING:
            gevent.spawn(self._do_grow)

    def _do_grow(self) -> None:
        """Greenlet: more room, or the copy ends."""
        try:
            if self._room.grow():
                self._copy.schedule()
        except NoSpace as full:
            log.info("copy has no room path=%r reason=%s", f"/{self._copy.path}", full)
            self._copy.handle_event(Event.SPACE_DENIED)
