"""Room in the cache: reserve before writing, commit or release on every way out.

Runs in the hub's thread only and does no I/O. Three kinds of bytes (disk blocks) are counted:
objects, reservations (each belongs to a partial) and trash; their sum grows by reservation only up
to the limit (I13). Who finds no room waits in one fair queue while the Evictor works, and is
settled exactly once.
"""

from __future__ import annotations

import logging
import math
from typing import Final

from gevent.event import AsyncResult, Event

from streamcache.errors import NoSpace

BLOCK: Final = 4096  # bytes that a file system hands out at once
MAP_ROOM: Final = 64 * 1024  # bytes for the block map and the file system's own

log = logging.getLogger(__name__)


def footprint(size: int) -> int:
    """Disk bytes that a file of `size` bytes may take while it is copied (I13)."""
    return -(-size // BLOCK) * BLOCK + size // 512 + MAP_ROOM


class Space:
    """The account of one cache directory. Usage is unknown until `set_usage`."""

    def __init__(
        self,
        limit: int,
        *,
        high: float = 0.95,
        low: float = 0.85,
        cleanup: bool = True,
        max_file_size: int = 0,
    ) -> None:
        if not 0 < low <= high <= 1:
            raise ValueError("watermarks: 0 < low <= high <= 1")
        self._high, self._low = high, low
        self.resize(limit)
        self.cleanup = cleanup
        self.max_file_size = max_file_size
        self.objects = 0
        self.reserved = 0
        self.trash = 0
        self.known = False
        self.evicting = False  # an Evictor runs: waiting makes sense
        self.pressure = Event()  # set when the Evictor should look
        self._waiters: dict[_Waiter, None] = {}  # in the order of arrival
        self._waiting = 0  # bytes they wait for

    def __repr__(self) -> str:
        return (
            f"<Space used={self.used}/{self.limit} objects={self.objects} reserved={self.reserved}"
            f" trash={self.trash} waiters={len(self._waiters)}{'' if self.known else ' unknown'}>"
        )

    @property
    def used(self) -> int:
        """Bytes of all kinds."""
        return self.objects + self.reserved + self.trash

    @property
    def waiters(self) -> int:
        """Reservations that wait for room."""
        return len(self._waiters)

    def fits(self, size: int) -> bool:
        """Whether a file of `size` bytes could be cached: now, if nothing is ever evicted."""
        if self.max_file_size and size > self.max_file_size:
            return False
        if not self.cleanup and self.used >= self.high_mark:
            return False
        room = self.limit if self.cleanup else self.limit - self.used
        return footprint(size) <= room

    def reserve(self, amount: int, *, timeout: float | None = None) -> Reservation:
        """Promise `amount` bytes. Switches when there is no room yet: the Evictor makes it.

        Raises NoSpace at once for what can never fit (nothing is evicted for it), while usage is
        unknown, and when full with `cleanup` off; later when nothing more can be evicted, or after
        `timeout` seconds.
        """
        reservation = self.begin()
        self._obtain(reservation, amount, timeout)
        return reservation

    def begin(self) -> Reservation:
        """A reservation of nothing yet, to be grown. Raises NoSpace when full, `cleanup` off."""
        if not self.cleanup and self.used >= self.high_mark:
            raise NoSpace(f"the cache is full and cleanup is off: {self!r}")
        return Reservation(self)

    def adopt(self, blocks: int) -> Reservation:
        """A reservation for a partial that was found on disk: its bytes are there, room or not."""
        reservation = Reservation(self)
        self._grant(reservation, blocks)
        return reservation

    def resize(self, limit: int) -> None:
        """Another limit, in bytes. Above it the Evictor goes to work."""
        self.limit = limit
        self.high_mark = math.floor(limit * self._high)
        self.low_mark = math.floor(limit * self._low)

    def set_usage(self, objects: int) -> None:
        """The catalog is whole and says how many bytes the objects take."""
        self.objects = objects
        self.known = True
        self._changed()

    def lose_usage(self) -> None:
        """The catalog is being rebuilt: until `set_usage` nothing can be reserved."""
        self.known = False
        self.refuse_waiters("usage is not known")

    def object_found(self, blocks: int) -> None:
        """An object of that many bytes is there that was not counted."""
        self.objects += blocks

    def object_removed(self, blocks: int) -> None:
        """An object of that many bytes is gone (what `Catalog.remove` returned)."""
        self.objects = self._less("objects", self.objects, blocks)
        self._changed()

    def trash_added(self, blocks: int) -> None:
        """Something not accounted for yet was found in trash/."""
        self.trash += blocks

    def trash_freed(self, blocks: int) -> None:
        """That much of trash/ is gone."""
        self.trash = self._less("trash", self.trash, blocks)
        self._changed()

    @property
    def pressed(self) -> bool:
        """Whether the Evictor should start a round."""
        if not (self.known and self.cleanup):
            return False
        return bool(self._waiters) or self.used > self.high_mark

    @property
    def surplus(self) -> int:
        """Bytes that a round of eviction still has to free.

        Down to the low mark, or below it as far as those who wait need.
        """
        if not (self.known and self.cleanup):
            return 0
        target = min(self.low_mark, self.limit - min(self._waiting, self.limit))
        return max(0, self.used - target)

    def refuse_waiters(self, reason: str) -> None:
        """Settle all who wait with NoSpace: there is nothing more to free."""
        while self._waiters:
            self._settle(next(iter(self._waiters)), reason)

    def _obtain(self, owner: Reservation, amount: int, timeout: float | None) -> None:
        if amount < 0:
            raise ValueError("amount < 0")
        if not self.known:
            raise NoSpace("usage is not known while the catalog is rebuilt")
        if owner.amount + amount > self.limit:
            raise NoSpace(f"{owner.amount + amount} bytes can never fit into {self.limit}")
        if not self._waiters and self.used + amount <= self.limit:
            self._grant(owner, amount)
            assert self.used <= self.limit  # I13
            if self.used > self.high_mark:
                self.pressure.set()
            return
        if not (self.cleanup and self.evicting):
            raise NoSpace(f"no room for {amount} bytes: {self!r}")
        self._wait(_Waiter(owner, amount), timeout)

    def _wait(self, waiter: _Waiter, timeout: float | None) -> None:
        self._waiters[waiter] = None
        self._waiting += waiter.amount
        self.pressure.set()
        try:
            reason = waiter.outcome.wait(timeout)
        except BaseException:
            # Killed, or timed out from outside. What was granted meanwhile goes back.
            if waiter in self._waiters:
                self._settle(waiter, "left")
                self._changed()
            elif waiter.outcome.value is None:
                waiter.owner.shrink_to(max(0, waiter.owner.amount - waiter.amount))
            raise
        if waiter in self._waiters:
            reason = f"no room within {timeout} s"
            self._settle(waiter, reason)
            self._changed()
        elif waiter.owner.settled:
            reason = "released"
        if reason is not None:
            raise NoSpace(f"no room for {waiter.amount} bytes: {reason}")

    def _settle(self, waiter: _Waiter, reason: str | None) -> None:
        """End of a wait: None grants it, a reason refuses it. The only place that does."""
        del self._waiters[waiter]
        self._waiting -= waiter.amount
        if reason is None:
            self._grant(waiter.owner, waiter.amount)
        waiter.outcome.set(reason)

    def _changed(self) -> None:
        """There may be room now: serve those who wait, first come first."""
        while self._waiters and self.known:
            waiter = next(iter(self._waiters))
            if self.used + waiter.amount > self.limit:
                return
            self._settle(waiter, None)
            assert self.used <= self.limit  # I13

    def _grant(self, owner: Reservation, amount: int) -> None:
        owner.amount += amount
        self.reserved += amount

    def _withdraw(self, owner: Reservation, reason: str) -> None:
        for waiter in [waiter for waiter in self._waiters if waiter.owner is owner]:
            self._settle(waiter, reason)

    def _less(self, kind: str, before: int, blocks: int) -> int:
        if blocks > before:
            log.error("space account off kind=%s counted=%d removed=%d", kind, before, blocks)
        return max(0, before - blocks)


class Reservation:
    """Bytes promised to one partial. Ends by `commit` or `release`."""

    __slots__ = ("_space", "amount", "settled")

    def __init__(self, space: Space) -> None:
        self._space = space
        self.amount = 0
        self.settled = False

    def __repr__(self) -> str:
        return f"<Reservation {self.amount}{' settled' if self.settled else ''}>"

    def grow(self, amount: int, *, timeout: float | None = None) -> None:
        """Promise `amount` bytes more. Switches and raises as `Space.reserve` does; NoSpace leaves
        what was promised before, and so does `release` by another greenlet meanwhile.
        """
        self._check()
        self._space._obtain(self, amount, timeout)

    def withdraw(self) -> None:
        """Who waits for it to grow waits no longer (NoSpace); what was promised stays."""
        self._space._withdraw(self, "withdrawn")
        self._space._changed()

    def shrink_to(self, amount: int) -> None:
        """Give back what is above `amount` bytes."""
        if amount < self.amount:
            self._space.reserved -= self.amount - amount
            self.amount = amount
            self._space._changed()

    def commit(self, blocks: int) -> None:
        """The partial became an object that takes `blocks` bytes on disk."""
        self._check()
        space = self._space
        space.objects += blocks
        self.release()
        if space.used > space.high_mark:
            space.pressure.set()

    def release(self) -> None:
        """The partial is gone from the disk, or was never there. Idempotent."""
        if not self.settled:
            self.settled = True
            self._space._withdraw(self, "released")
            self.shrink_to(0)

    def _check(self) -> None:
        if self.settled:
            raise RuntimeError("the reservation is settled")


class _Waiter:
    """Somebody who waits for room. The outcome is None (granted) or the reason why not."""

    __slots__ = ("amount", "outcome", "owner")

    def __init__(self, owner: Reservation, amount: int) -> None:
        self.owner = owner
        self.amount = amount
        self.outcome: AsyncResult[str | None] = AsyncResult()
