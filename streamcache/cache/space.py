"""Room in the cache: draw before writing, settle on every way out.

Hub's thread. The account itself is in the catalog, one truth for all processes that share the
directory; here is its last known state, the marks, and one fair queue of those who wait for room
in this process. Three kinds of bytes (disk blocks) are counted: objects, reservations (each belongs
to a partial) and trash; their sum grows by drawing only, up to the limit (I13).

Who finds no room waits while the Evictor of this process or of another works; the first in the
queue asks again whenever there may be room, and every 50 ms: other processes ring no bell.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from gevent.event import Event

from streamcache.cache.account import Order, Totals
from streamcache.cache.database import CatalogError, CatalogLate
from streamcache.errors import Closed, NoSpace, SourceBusy

_GRAIN: Final = 4096  # bytes that a file system hands out at once
MAP_ROOM: Final = 64 * 1024  # bytes for the block map and the file system's own
PATIENCE: Final = 0.5  # s: copies that are being published now can be evicted in a moment
LOOK: Final = 0.05  # s between looks of who waits for room that another process may make

log = logging.getLogger(__name__)


def footprint(size: int) -> int:
    """Disk bytes that a file of `size` bytes may take while it is copied (I13)."""
    return -(-size // _GRAIN) * _GRAIN + size // 512 + MAP_ROOM


@dataclass(frozen=True, slots=True)
class Draw:
    """Room that was granted."""

    amount: int  # bytes that the caller may write now, on top of what it drew before
    whole: bool  # the reservation is the whole footprint: no further draw is needed
    generation: int  # of the reservation, after this draw


class Books(Protocol):
    """The account in the catalog, as the hub sees it (`Ledger`).

    All but `cancel` switch, and tell the Space what they saw (`Space.looked`). They raise
    CatalogError, Closed and SourceBusy.
    """

    def draw(self, order: Order) -> None:
        """See `Account.draw`."""

    def cancel(self, order: Order) -> None:
        """Take back what was, or is being, granted. Does not switch."""

    def settle(self, name: str, generation: int, on_disk: int) -> None:
        """See `Account.settle`."""

    def generation(self, name: str) -> int:
        """See `Account.generation`."""

    def look(self) -> None:
        """See `Account.look`."""


class Space:
    """The account of one cache directory. Usage is unknown until `looked`."""

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
        self.ceiling: int | None = None  # bytes: what the disk has room for, if that is less
        self.resize(limit)
        self.cleanup = cleanup
        self.max_file_size = max_file_size
        self.objects = 0  # bytes, as are the next two: of the last look, by all processes
        self.reserved = 0
        self.trash = 0
        self.count = 0  # of objects
        self.known = False
        self.evicting = False  # an Evictor runs: waiting makes sense
        self.on_fewer: Callable[[], object] | None = None  # objects went, perhaps by others
        self.pressure = Event()  # set when the Evictor should look
        self.drawn: dict[str, int] = {}  # this process's: name -> bytes of its reservation
        self._books: Books
        self._waiters: dict[_Waiter, None] = {}  # in the order of arrival
        self._waiting = 0  # bytes they wait for

    def __repr__(self) -> str:
        return (
            f"<Space used={self.used}/{self.limit} objects={self.objects} reserved={self.reserved}"
            f" trash={self.trash} waiters={len(self._waiters)}{'' if self.known else ' unknown'}>"
        )

    def use(self, books: Books) -> None:
        """Where the account is kept; before the first draw."""
        self._books = books

    @property
    def used(self) -> int:
        """Bytes of all kinds."""
        return self.objects + self.reserved + self.trash

    @property
    def waiters(self) -> int:
        """Draws of this process that wait for room."""
        return len(self._waiters)

    def refusal(self, size: int) -> str:
        """Why a file of `size` bytes cannot be cached; "": it can. Now, if nothing is evicted."""
        if self.max_file_size and size > self.max_file_size:
            return f"too large: cache.max_file_size is {self.max_file_size} bytes"
        if footprint(size) > self.limit:
            return f"too large: the cache has {self.limit} bytes"
        if self.cleanup:
            return ""
        if self.used >= self.high_mark or footprint(size) > self.limit - self.used:
            return "the cache is full, and cache.cleanup is off"
        return ""

    def draw(self, name: str, amount: int, footprint: int, *, timeout: float | None = None) -> Draw:
        """Reserve `amount` bytes more for the partial `name`, but `footprint` at most in all.

        Over all processes: what another one drew for the same partial counts. Switches. Raises
        NoSpace: at once for what can never fit (nothing is evicted for it), while usage is
        unknown, when full with `cleanup` off (a partial that has a reservation may go on to the
        limit), and when the catalog cannot be written; later when nothing more can be evicted, or
        after `timeout` seconds. What was drawn before stays. Killed meanwhile, nothing was drawn.
        """
        if amount < 0:
            raise ValueError("amount < 0")
        self._check_known()
        if footprint > self.limit:
            raise NoSpace(f"{footprint} bytes can never fit into {self.limit}")
        mark = None if self.cleanup else self.high_mark
        order = Order(name, min(amount, footprint), footprint, self.limit, mark)
        if not self._waiters and self._attempt(order):
            return self._granted(order)
        if not (self.cleanup and self.evicting):
            raise NoSpace(f"no room for {amount} bytes: {self!r}")
        self._wait(order, timeout)
        return self._granted(order)

    def withdraw(self, name: str) -> None:
        """Who waits under this name gets NoSpace; what was drawn stays. Does not switch."""
        for waiter in [waiter for waiter in self._waiters if waiter.name == name]:
            waiter.withdrawn = True
            self._refuse(waiter, "withdrawn")
        self._wake_first()

    def settle(self, name: str, generation: int, on_disk: int) -> None:
        """Nobody works on the partial any more: its reservation becomes `on_disk`; 0: it ends.

        Unless somebody drew since (`generation` is that of the last draw). Switches. A catalog
        that cannot be written now is no error: the reservation is settled by a later sweep.
        """
        self.forget(name)
        try:
            self._books.settle(name, generation, on_disk)
        except (CatalogError, Closed, SourceBusy) as error:
            log.warning("reservation not settled name=%s error=%s", name, error)

    def forget(self, name: str) -> None:
        """This process writes no more into that partial; its reservation is others' to settle."""
        self.drawn.pop(name, None)

    def generation(self, name: str) -> int:
        """Of the reservation; 0: there is none. Switches. Raises CatalogError."""
        return self._books.generation(name)

    def refresh(self) -> None:
        """Look again; each transaction of this process does, too. Switches. Raises CatalogError."""
        self._books.look()

    def resize(self, limit: int) -> None:
        """Another limit, in bytes. Above it the Evictor goes to work."""
        self.size = limit
        self.limit = limit if self.ceiling is None else min(limit, self.ceiling)
        self.high_mark = math.floor(self.limit * self._high)
        self.low_mark = math.floor(self.limit * self._low)

    def set_ceiling(self, ceiling: int | None) -> None:
        """The disk has room for so many bytes of ours; None: for as many as we may take."""
        self.ceiling = ceiling
        self.resize(self.size)
        self.pressure.set()

    def reconfigure(self, *, high: float, low: float, cleanup: bool, max_file_size: int) -> None:
        """Other marks; what they mean for what lies there is the Evictor's. Does not switch."""
        self._high, self._low = high, low
        self.cleanup = cleanup
        self.max_file_size = max_file_size
        self.resize(self.size)
        if not cleanup:
            self.refuse_waiters("nothing is evicted any more")
        self.pressure.set()

    def looked(self, totals: Totals) -> None:
        """What the catalog said just now: usage, or that it does not know."""
        fewer = totals.count < self.count
        self.objects, self.count = totals.objects, totals.count
        self.reserved, self.trash = totals.reserved, totals.trash
        if fewer and self.on_fewer is not None:
            self.on_fewer()
        if totals.complete:
            self.known = True
            self._wake_first()
        else:
            self.lose_usage()

    def lose_usage(self) -> None:
        """The catalog is being rebuilt: until it is complete nothing can be drawn."""
        self.known = False
        self.refuse_waiters("usage is not known")

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
        """Settle all who wait with NoSpace."""
        while self._waiters:
            self._refuse(next(iter(self._waiters)), reason)

    def give_up(self, reason: str) -> None:
        """There is nothing more to free: those who do not fit into what is free get NoSpace.

        Once they have waited for a moment, if others have reservations.
        """
        room = self.limit - self.used
        recent = time.monotonic() - (PATIENCE if self.reserved else 0.0)
        for waiter in list(self._waiters):
            if waiter.amount <= room:
                room -= waiter.amount  # it is about to be granted
            elif waiter.since <= recent:
                self._refuse(waiter, reason)
        self._wake_first()

    def _check_known(self) -> None:
        if not self.known:
            raise NoSpace("usage is not known while the catalog is rebuilt")

    def _attempt(self, order: Order) -> bool:
        """One transaction; whether it granted. Switches. Raises NoSpace."""
        order.limit = self.limit  # while it waited the disk may have got more room, or less
        try:
            self._books.draw(order)
        except (CatalogError, Closed, SourceBusy) as error:
            if isinstance(error, CatalogLate):
                self._books.cancel(order)  # it may be granted still
            raise NoSpace(f"no room can be reserved: {error}") from error
        except BaseException:
            # Killed, or timed out from outside, while the transaction is under way or done.
            self._books.cancel(order)
            raise
        if not order.granted:
            self._check_known()
        return order.granted

    def _granted(self, order: Order) -> Draw:
        self.drawn[order.name] = order.after
        if self.used > self.high_mark:
            self.pressure.set()
        more = order.after - order.before
        return Draw(more, order.after >= order.footprint, order.generation)

    def _wait(self, order: Order, timeout: float | None) -> None:
        """In the queue, until it is granted. Raises NoSpace."""
        waiter = _Waiter(order.name, order.amount)
        end = math.inf if timeout is None else time.monotonic() + timeout
        self._waiters[waiter] = None
        self._waiting += waiter.amount
        self.pressure.set()
        try:
            while waiter.reason is None:
                waiter.woken.clear()
                if order.footprint > self.limit:
                    waiter.reason = f"{order.footprint} bytes can never fit into {self.limit}"
                    break
                first = next(iter(self._waiters)) is waiter
                if first and self._attempt(order):
                    if not waiter.withdrawn:
                        return
                    self._books.cancel(order)
                    break
                left = end - time.monotonic()
                if left <= 0:
                    waiter.reason = f"no room within {timeout} s"
                    break
                self.pressure.set()
                # Who comes later in the queue is woken when it is the first.
                limit = min(left, LOOK) if first else left
                waiter.woken.wait(None if limit == math.inf else limit)
        finally:
            self._leave(waiter)
            self._wake_first()
        raise NoSpace(f"no room for {waiter.amount} bytes: {waiter.reason}")

    def _refuse(self, waiter: _Waiter, reason: str) -> None:
        self._leave(waiter)
        waiter.reason = reason
        waiter.woken.set()

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            del self._waiters[waiter]
            self._waiting -= waiter.amount

    def _wake_first(self) -> None:
        """There may be room now: who came first asks for it."""
        first = next(iter(self._waiters), None)
        if first is not None and self.used + first.amount <= self.limit:
            first.woken.set()


class _Waiter:
    """Somebody who waits for room. The reason says why there is none."""

    __slots__ = ("amount", "name", "reason", "since", "withdrawn", "woken")

    def __init__(self, name: str, amount: int) -> None:
        self.name = name
        self.amount = amount
        self.reason: str | None = None
        self.since = time.monotonic()
        self.withdrawn = False
        self.woken = Event()
