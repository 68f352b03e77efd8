"""A copy's room on the cache's disk: its reservation, and the partial that it writes into.

Hub's thread; files are touched in the disk pool. Every way out gives the bytes back or hands them
on: to the object (``publish``), or to the next session of this version (``let_go``).
"""

from __future__ import annotations

import contextlib
import logging

from streamcache.cache.blockmap import Extent
from streamcache.cache.partial import Partial, PartialHeader
from streamcache.cache.space import Reservation, Space, footprint
from streamcache.cache.store import Store
from streamcache.cache.workers import WorkerPool
from streamcache.errors import Closed, NoSpace

STEP = (
    256 * 1024 * 1024
)  # bytes reserved at once: a probe of 10,000 titles must not drain the cache
AHEAD = STEP // 4  # bytes left of the reservation when more is asked for
_WAIT = 30.0  # s for room to be made

log = logging.getLogger(__name__)


class Allotment:
    """The room of one copy. Closed by ``let_go``, once no write is under way (I4)."""

    def __init__(
        self,
        name: str,
        size: int,
        *,
        store: Store,
        space: Space,
        disk: WorkerPool,
        adopted: Reservation | None,
    ) -> None:
        """For a file of ``size`` bytes; owns ``adopted``, the reservation of a partial on disk."""
        self._name = name
        self._size = size
        self._store = store
        self._space = space
        self._disk = disk
        self._reservation = adopted
        self._on_disk = 0 if adopted is None else adopted.amount  # bytes before we opened it
        self._partial: Partial | None = None
        self._growing = False
        self._given_up = False

    def __repr__(self) -> str:
        return f"<Allotment {self._name} {self._reservation!r}>"

    @property
    def is_open(self) -> bool:
        """There is a partial to write into."""
        return self._partial is not None

    @property
    def fd(self) -> int:
        """Read-only descriptor of the partial; -1: it is not open."""
        return -1 if self._partial is None else self._partial.read_fd

    def open(self, header: PartialHeader) -> bytes:
        """Reserve, then continue the partial that is there, or begin one. Switches.

        Returns the map bytes of the blocks that are present; b"": none. Raises NoSpace, OSError.
        """
        if self._given_up:
            raise NoSpace("nobody wants it any more")
        if self._reservation is None:
            self._reservation = self._space.begin()
        more = min(STEP, footprint(self._size) - self._reservation.amount)
        self._reservation.grow(max(0, more), timeout=_WAIT)
        self._partial, present = self._disk.call(self._open, header)
        self._on_disk = 0
        return present

    def _open(self, header: PartialHeader) -> tuple[Partial, bytes]:
        """Worker thread."""
        found = self._store.continue_partial(self._name, header)
        return found or (self._store.create_partial(self._name, header), b"")

    def affords(self, size: int) -> bool:
        """Whether ``size`` bytes of the file are within the reservation."""
        if self._reservation is None or self._reservation.settled:
            return False
        return footprint(min(size, self._size)) <= self._reservation.amount

    def grow(self) -> bool:
        """Reserve more, unless that is under way: then False at once. Switches. Raises NoSpace."""
        reservation = self._reservation
        if self._growing or reservation is None or reservation.settled:
            return False
        self._growing = True
        try:
            more = min(STEP, footprint(self._size) - reservation.amount)
            reservation.grow(max(0, more), timeout=_WAIT)
        finally:
            self._growing = False
        return True

    def give_up(self) -> None:
        """Wait for room no longer: ``open`` and ``grow`` raise NoSpace. Does not switch."""
        self._given_up = True
        if self._reservation is not None:
            self._reservation.withdraw()

    def write(self, extent: Extent, data: memoryview) -> None:
        """Data, then map. Switches. Raises OSError."""
        assert self._partial is not None
        self._disk.call(self._partial.write, extent, data)

    def seal(self, mtime_ns: int) -> None:
        """Pin the mtime and make the data durable. Switches. Raises OSError."""
        assert self._partial is not None
        self._disk.call(self._partial.seal, mtime_ns)

    def publish(self) -> tuple[int, int]:
        """Rename to the object: its bytes on disk, and a read-only descriptor that is the
        caller's from now on (readers keep theirs, it is the same). Switches. Raises OSError.
        """
        assert self._partial is not None and self._reservation is not None
        blocks = self._disk.call(self._store.publish, self._name)
        self._reservation.commit(blocks)
        self._reservation = None
        return blocks, self._partial.give_away()

    def lend(self) -> int:
        """The read-only descriptor, which is the caller's from now on; -1: there is none."""
        return -1 if self._partial is None else self._partial.give_away()

    def let_go(self, *, keep: bool) -> Reservation | None:
        """Close everything. Switches.

        ``keep``: leave the partial for the next session, and return its reservation. What was
        published has neither any more.
        """
        self.give_up()
        partial, self._partial = self._partial, None
        reservation, self._reservation = self._reservation, None
        try:
            if partial is not None:
                self._close(partial)
            if reservation is None:
                return None
            if partial is None and self._on_disk:
                reservation.shrink_to(self._on_disk)  # never opened: it is as we found it
                return reservation
            if keep and partial is not None:
                with contextlib.suppress(FileNotFoundError):  # somebody removed it
                    reservation.shrink_to(self._disk.call(self._store.partial_blocks, self._name))
                    return reservation
            self._disk.call(self._store.drop_partial, self._name)
        except OSError as error:
            # What may still be there counts on (I13): dropping it is tried again for room.
            log.warning("partial not let go name=%s error=%s", self._name, error)
            return reservation
        except BaseException:
            if reservation is not None:
                reservation.release()
            raise
        reservation.release()
        return None

    def _close(self, partial: Partial) -> None:
        try:
            self._disk.call(partial.close)
        except Closed:  # the cache is closed: the copy outlived it, held by a source that hung
            partial.close()
