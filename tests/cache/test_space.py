"""The account of the disk: what is granted, what waits, what is refused, and that nothing leaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import gevent
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamcache.cache.space import Reservation, Space, footprint
from streamcache.errors import NoSpace

if TYPE_CHECKING:
    Attempt = gevent.Greenlet[..., Reservation | NoSpace]


def made(limit: int = 1000, *, objects: int = 0, cleanup: bool = True) -> Space:
    space = Space(limit, high=0.9, low=0.5, cleanup=cleanup)
    space.set_usage(objects)
    space.evicting = True
    return space


def attempt(space: Space, amount: int, timeout: float | None = None) -> Attempt:
    """A reservation in a greenlet of its own; the result is the reservation or the refusal."""

    def run() -> Reservation | NoSpace:
        try:
            return space.reserve(amount, timeout=timeout)
        except NoSpace as error:
            return error

    greenlet = gevent.spawn(run)
    gevent.sleep(0)
    return greenlet


def granted(greenlet: Attempt) -> bool:
    gevent.sleep(0)
    return greenlet.ready() and isinstance(greenlet.value, Reservation)


def refused(greenlet: Attempt) -> bool:
    gevent.sleep(0)
    return greenlet.ready() and isinstance(greenlet.value, NoSpace)


@pytest.mark.parametrize(
    ("size", "bytes_on_disk"),
    [
        (0, 65536),
        (1, 4096 + 65536),
        (4096, 4096 + 8 + 65536),
        (4097, 8192 + 8 + 65536),
        (5 << 30, (5 << 30) + (10 << 20) + 65536),
    ],
)
def test_footprint(size: int, bytes_on_disk: int) -> None:
    assert footprint(size) == bytes_on_disk


def test_a_file_fits_when_its_footprint_does() -> None:
    space = Space(1 << 20)
    assert space.fits(900_000)
    assert not space.fits(1 << 20)
    limited = Space(1 << 20, max_file_size=1000)
    assert limited.fits(1000)
    assert not limited.fits(1001)


def test_room_is_granted_at_once_and_given_back_once() -> None:
    space = made(objects=500)
    reservation = space.reserve(400)
    assert (space.used, space.reserved) == (900, 400)
    reservation.shrink_to(100)
    assert space.used == 600
    reservation.release()
    reservation.release()
    assert space.used == 500


def test_a_commit_turns_the_reservation_into_an_object() -> None:
    space = made()
    reservation = space.reserve(400)
    reservation.grow(100)
    reservation.commit(450)
    assert (space.objects, space.reserved) == (450, 0)
    reservation.release()
    assert space.used == 450
    with pytest.raises(RuntimeError):
        reservation.commit(450)
    with pytest.raises(RuntimeError):
        reservation.grow(1)


def test_trash_counts_until_it_is_free() -> None:
    space = made(objects=300)
    space.trash_added(100)
    space.object_removed(100)
    assert (space.objects, space.trash) == (200, 100)
    space.trash_freed(100)
    assert space.used == 200


def test_what_can_never_fit_is_refused_at_once_and_evicts_nothing() -> None:
    space = made(objects=950)
    space.pressure.clear()
    with pytest.raises(NoSpace):
        space.reserve(1001)
    assert not space.pressure.is_set()
    small = space.reserve(10)
    space.pressure.clear()
    with pytest.raises(NoSpace):
        small.grow(991)
    assert not space.pressure.is_set()
    assert small.amount == 10


def test_above_the_high_mark_the_evictor_is_woken_and_nobody_waits() -> None:
    space = made(objects=500)
    space.reserve(400)
    assert not space.pressure.is_set()
    space.reserve(1)
    assert space.pressure.is_set()
    assert space.pressed
    assert space.surplus == 901 - 500


def test_who_finds_no_room_waits_for_it() -> None:
    space = made(objects=900)
    waiting = attempt(space, 300)
    assert space.pressure.is_set()
    assert space.surplus == 900 - 500
    space.object_removed(100)
    assert not waiting.ready()
    space.object_removed(100)
    assert granted(waiting)
    assert space.used == 1000


def test_a_large_wait_is_evicted_for_below_the_low_mark() -> None:
    space = made(objects=900)
    waiting = attempt(space, 800)
    assert space.surplus == 700
    space.object_removed(700)
    assert granted(waiting)


def test_first_come_first_served() -> None:
    space = made(objects=950)
    large, small = attempt(space, 500), attempt(space, 1)
    assert not granted(small)  # though there is room for it
    space.object_removed(400)
    assert not granted(small)
    space.object_removed(51)
    assert granted(large)
    assert granted(small)


def test_refused_waiters_are_settled_and_the_account_is_as_before() -> None:
    space = made(objects=1000)
    attempts = [attempt(space, 100) for _ in range(3)]
    space.refuse_waiters("nothing more can be evicted")
    assert all(refused(one) for one in attempts)
    assert space.used == 1000
    assert space.waiters == 0
    space.object_removed(1000)
    assert space.surplus == 0
    assert space.used == 0


def test_a_wait_ends_at_its_timeout_and_makes_way() -> None:
    space = made(objects=900)
    with gevent.Timeout(5):
        late = attempt(space, 500, timeout=0.01)
        small = attempt(space, 100)
        late.join()
    assert refused(late)
    assert granted(small)
    assert space.used == 1000


def test_a_killed_wait_leaves_nothing_behind() -> None:
    space = made(objects=900)
    doomed, next_one = attempt(space, 500), attempt(space, 100)
    doomed.kill()
    assert granted(next_one)
    assert space.waiters == 0
    assert space.used == 1000


def test_killed_after_the_grant_and_before_it_ran_gives_the_room_back() -> None:
    space = made(objects=1000)
    doomed = attempt(space, 500)
    doomed.kill(block=False)
    space.object_removed(600)
    doomed.join()
    assert (space.reserved, space.waiters) == (0, 0)


def test_released_while_it_grows() -> None:
    space = made(objects=900)
    reservation = space.reserve(100)
    outcomes: list[str] = []

    def grow() -> None:
        try:
            reservation.grow(100)
        except NoSpace:
            outcomes.append("refused")

    for freed in (0, 500):  # while it waits; after the grant, before it ran
        greenlet = gevent.spawn(grow)
        gevent.sleep(0)
        space.object_removed(freed)
        reservation.release()
        greenlet.join()
        assert outcomes.pop() == "refused"
        assert (space.reserved, space.waiters) == (0, 0)
        reservation = space.reserve(space.limit - space.used)


def test_nobody_waits_without_an_evictor() -> None:
    space = made(objects=1000)
    space.evicting = False
    with pytest.raises(NoSpace):
        space.reserve(1)


def test_without_cleanup_nothing_new_is_cached_above_the_high_mark() -> None:
    space = made(objects=850, cleanup=False)
    running = space.reserve(50)
    with pytest.raises(NoSpace):
        space.reserve(1)
    running.grow(100)  # begun below the mark: may go on to the limit
    with pytest.raises(NoSpace):
        running.grow(1)
    assert not space.pressed
    assert space.surplus == 0


def test_while_usage_is_unknown_misses_are_refused() -> None:
    space = Space(1000)
    space.evicting = True
    with pytest.raises(NoSpace):
        space.reserve(1)
    partial = space.adopt(100)
    assert not space.pressed
    space.set_usage(900)
    waiting = attempt(space, 50)
    space.lose_usage()
    assert refused(waiting)
    with pytest.raises(NoSpace):
        partial.grow(1)
    assert (space.reserved, space.surplus) == (100, 0)


def test_a_lowered_limit_starts_above_it_and_waits_for_eviction() -> None:
    space = made(objects=5000)
    partial = space.adopt(300)
    waiting = attempt(space, 100)
    assert space.surplus == 5300 - 500
    space.object_removed(4400)
    assert granted(waiting)
    assert space.used == 1000
    partial.release()


def test_too_much_removed_is_logged_and_never_negative(caplog: pytest.LogCaptureFixture) -> None:
    space = made(objects=10)
    space.object_removed(20)
    assert space.used == 0
    assert "space account off" in caplog.text


class SpaceModel(RuleBasedStateMachine):
    """Any order of events: the limit holds, each wait is settled once, nothing leaks."""

    amounts = st.integers(0, 1100)
    picks = st.integers(0, 50)

    def __init__(self) -> None:
        super().__init__()
        self.space = made()
        self.live: list[Reservation] = []
        self.waiting: list[tuple[int, Attempt]] = []
        self.growing: list[tuple[Reservation, int, gevent.Greenlet[..., str]]] = []
        self.objects: list[int] = []
        self.trash = 0

    def settle(self) -> None:
        gevent.sleep(0)
        gevent.sleep(0)
        for one in list(self.waiting):
            amount, greenlet = one
            if greenlet.ready():
                self.waiting.remove(one)
                if isinstance(greenlet.value, Reservation):
                    assert greenlet.value.amount == amount
                    self.live.append(greenlet.value)
        self.growing = [one for one in self.growing if not one[2].ready()]

    def pick(self, number: int) -> Iterator[Reservation]:
        if self.live:
            yield self.live[number % len(self.live)]

    @rule(amount=amounts)
    def reserve(self, amount: int) -> None:
        self.waiting.append((amount, attempt(self.space, amount)))
        self.settle()

    @rule(number=picks, amount=amounts)
    def grow(self, number: int, amount: int) -> None:
        for reservation in self.pick(number):

            def run(reservation: Reservation = reservation) -> str:
                try:
                    reservation.grow(amount)
                except NoSpace:
                    return "refused"
                return "granted"

            self.growing.append((reservation, amount, gevent.spawn(run)))
            self.settle()

    @rule(number=picks, amount=amounts)
    def shrink(self, number: int, amount: int) -> None:
        for reservation in self.pick(number):
            reservation.shrink_to(amount)
            self.settle()

    @rule(number=picks, share=st.floats(0, 1))
    def commit(self, number: int, share: float) -> None:
        for reservation in self.pick(number):
            blocks = int(reservation.amount * share)
            reservation.commit(blocks)
            self.objects.append(blocks)
            self.live.remove(reservation)
            self.settle()

    @rule(number=picks)
    def drop(self, number: int) -> None:
        for reservation in self.pick(number):
            reservation.release()
            self.live.remove(reservation)
            self.settle()

    @rule(number=picks)
    def drop_into_trash(self, number: int) -> None:
        for reservation in self.pick(number):
            self.trash += reservation.amount
            self.space.trash_added(reservation.amount)
            reservation.release()
            self.live.remove(reservation)
            self.settle()

    @rule()
    def empty_the_trash(self) -> None:
        self.space.trash_freed(self.trash)
        self.trash = 0
        self.settle()

    @rule()
    def evict(self) -> None:
        while self.objects and self.space.surplus:
            self.space.object_removed(self.objects.pop(0))
        if self.space.surplus:
            self.space.refuse_waiters("nothing more can be evicted")
            assert self.space.waiters == 0
        self.settle()

    @rule(number=picks)
    def kill_a_waiter(self, number: int) -> None:
        if self.waiting:
            _, greenlet = self.waiting.pop(number % len(self.waiting))
            greenlet.kill()
            assert not isinstance(greenlet.value, Reservation)
            self.settle()

    @invariant()
    def the_account_is_right(self) -> None:
        space = self.space
        assert 0 <= space.used <= space.limit
        assert space.objects == sum(self.objects)
        assert space.trash == self.trash
        assert space.reserved == sum(reservation.amount for reservation in self.live)
        assert space.waiters == len(self.waiting) + len(self.growing)
        assert min(space.objects, space.reserved, space.trash) >= 0
        if not space.waiters:
            assert space.pressed == (space.used > space.high_mark)

    def teardown(self) -> None:
        self.space.refuse_waiters("end")
        self.settle()
        assert not self.waiting
        assert not self.growing
        for reservation in self.live:
            reservation.release()
        for blocks in self.objects:
            self.space.object_removed(blocks)
        self.space.trash_freed(self.trash)
        assert self.space.used == 0


TestSpaceModel = SpaceModel.TestCase
TestSpaceModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
