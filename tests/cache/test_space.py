"""The account of the disk: what is granted, what waits, what is refused, and that nothing leaks.

Over the real catalog; several sharers of one directory stand for processes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import gevent
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamcache.cache import mender as mender_module
from streamcache.cache.database import CatalogError
from streamcache.cache.space import Draw, Space, footprint
from streamcache.errors import NoSpace
from tests.cache.accounts import Sharer, checked, name, until

if TYPE_CHECKING:
    Attempt = gevent.Greenlet[..., Draw | NoSpace]

BIG = 1 << 40  # a footprint that is never reached


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Sharer]]:
    """``make(objects=...)``: one more who shares the directory."""
    made: list[Sharer] = []

    def sharer(*, objects: int = 0, **options: object) -> Sharer:
        one = Sharer(tmp_path, alone=not made, **options)
        made.append(one)
        until(lambda: one.space.known)
        one.space.evicting = True
        if objects:
            one.put(1, objects)
        return one

    yield sharer
    for one in made:
        one.close()
    checked(tmp_path)


def draw(sharer: Sharer, number: int, amount: int, *, most: int = 0, timeout: float = 10) -> Draw:
    return sharer.space.draw(name(number), amount, most or sharer.space.limit, timeout=timeout)


def attempt(sharer: Sharer, number: int, amount: int, *, timeout: float | None = None) -> Attempt:
    """A draw in a greenlet of its own; the result is what was drawn or the refusal."""

    def run() -> Draw | NoSpace:
        try:
            return sharer.space.draw(name(number), amount, sharer.space.limit, timeout=timeout)
        except NoSpace as error:
            return error

    greenlet = gevent.spawn(run)
    waiting = sharer.space.waiters
    until(lambda: greenlet.ready() or sharer.space.waiters > waiting)
    return greenlet


def granted(greenlet: Attempt) -> bool:
    greenlet.join(10)
    return isinstance(greenlet.value, Draw)


def refused(greenlet: Attempt) -> bool:
    greenlet.join(10)
    return isinstance(greenlet.value, NoSpace)


def usage(sharer: Sharer) -> tuple[int, int, int]:
    sharer.space.refresh()
    return sharer.space.objects, sharer.space.reserved, sharer.space.trash


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
    assert space.refusal(900_000) == ""
    assert space.refusal(1 << 20) == "too large: the cache has 1048576 bytes"
    limited = Space(1 << 20, max_file_size=1000)
    assert limited.refusal(1000) == ""
    assert limited.refusal(1001) == "too large: cache.max_file_size is 1000 bytes"


def test_room_is_granted_at_once_and_given_back_once(make: Callable[..., Sharer]) -> None:
    one = make(objects=500)
    drawn = draw(one, 2, 400)
    assert (drawn.amount, drawn.whole) == (400, False)
    assert one.space.used == 900
    one.space.settle(name(2), drawn.generation, 100)
    assert one.space.used == 600
    one.space.settle(name(2), drawn.generation, 0)
    assert one.space.used == 600, "who settled it twice knows of the first time"
    generation = one.space.generation(name(2))
    one.space.settle(name(2), generation, 0)
    one.space.settle(name(2), generation, 0)
    assert usage(one) == (500, 0, 0)
    assert one.space.generation(name(2)) == 0


def test_a_partial_draws_no_more_than_its_footprint(make: Callable[..., Sharer]) -> None:
    one, other = make(), make()
    assert draw(one, 2, 300, most=500).amount == 300
    last = draw(other, 2, 300, most=500)
    assert (last.amount, last.whole) == (200, True)
    again = draw(one, 2, 300, most=500)
    assert (again.amount, again.whole) == (0, True)
    assert again.generation > last.generation
    assert usage(one) == usage(other) == (0, 500, 0)


def test_the_reservation_ends_with_the_entry_of_the_object(make: Callable[..., Sharer]) -> None:
    one, other = make(), make()
    draw(one, 2, 500)
    one.put(2, 450)
    assert usage(one) == (450, 0, 0)
    other.put(2, 450)  # both copied it
    assert usage(other) == (450, 0, 0)
    assert one.space.drawn == {}


def test_what_another_drew_since_is_not_settled(make: Callable[..., Sharer]) -> None:
    """The generation: who comes late with "nobody works on it" is not believed."""
    one, other = make(), make()
    first = draw(one, 2, 300)
    second = draw(other, 2, 300)
    one.space.settle(name(2), first.generation, 0)
    assert usage(one) == (0, 600, 0)
    other.space.settle(name(2), second.generation, 100)
    assert usage(one) == (0, 100, 0)
    one.space.settle(name(2), second.generation, 0)
    one.space.settle(name(2), second.generation + 2, 0)
    assert usage(one) == (0, 100, 0)


def test_trash_counts_until_it_is_free(make: Callable[..., Sharer]) -> None:
    one = make(objects=300)
    one.ledger.trashed(name(1), "1.0", 300)
    one.ledger.trashed(name(1), "1.0", 300)
    assert (one.space.objects, one.space.trash, one.ledger.objects) == (0, 300, 0)
    one.ledger.trash_freed("1.0")
    one.ledger.trash_freed("1.0")
    assert one.space.used == 0


def test_what_can_never_fit_is_refused_at_once_and_evicts_nothing(
    make: Callable[..., Sharer],
) -> None:
    one = make(objects=950)
    one.space.pressure.clear()
    with pytest.raises(NoSpace):
        draw(one, 2, 10, most=1001)
    assert not one.space.pressure.is_set()
    assert usage(one) == (950, 0, 0)


def test_above_the_high_mark_the_evictor_is_woken_and_nobody_waits(
    make: Callable[..., Sharer],
) -> None:
    one = make(objects=500)
    draw(one, 2, 400)
    assert not one.space.pressure.is_set()
    draw(one, 3, 1)
    assert one.space.pressure.is_set()
    assert one.space.pressed
    assert one.space.surplus == 901 - 500


def test_who_finds_no_room_waits_for_it(make: Callable[..., Sharer]) -> None:
    one = make(objects=800)
    one.put(2, 100)
    waiting = attempt(one, 3, 300)
    assert one.space.pressure.is_set()
    assert one.space.surplus == 900 - 500
    one.ledger.remove([name(2)])
    assert not waiting.ready()
    one.ledger.remove([name(1)])
    assert granted(waiting)
    assert usage(one) == (0, 300, 0)


def test_who_waits_gets_the_room_that_the_disk_has_by_now(make: Callable[..., Sharer]) -> None:
    """The limit was the one from when it came, for as long as it waited."""
    one = make(objects=400)
    one.space.set_ceiling(500)
    waiting = attempt(one, 2, 300)
    one.space.set_ceiling(None)
    assert granted(waiting)
    assert usage(one) == (400, 300, 0)


def test_who_waits_takes_no_more_than_the_disk_has_by_now(make: Callable[..., Sharer]) -> None:
    one = make(objects=900)
    waiting = attempt(one, 2, 300)  # of 1000 in the end
    one.space.set_ceiling(950)
    assert refused(waiting)
    assert "can never fit into 950" in str(waiting.value)
    assert usage(one) == (900, 0, 0)


def test_room_that_another_process_made_is_found(
    make: Callable[..., Sharer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mender_module, "_LOOK_INTERVAL", 3600)  # only who waits looks
    one, other = make(objects=1000), make()
    waiting = attempt(one, 2, 300)
    other.ledger.remove([name(1)])
    assert granted(waiting)


def test_a_large_wait_is_evicted_for_below_the_low_mark(make: Callable[..., Sharer]) -> None:
    one = make(objects=900)
    waiting = attempt(one, 2, 800)
    assert one.space.surplus == 700
    one.ledger.remove([name(1)])
    assert granted(waiting)


def test_first_come_first_served(make: Callable[..., Sharer]) -> None:
    one = make(objects=400)
    one.put(2, 51)
    one.put(3, 499)
    large, small = attempt(one, 4, 500), attempt(one, 5, 1)
    assert not small.ready()  # though there is room for it
    one.ledger.remove([name(2)])
    gevent.sleep(0.12)
    assert not (large.ready() or small.ready())
    one.ledger.remove([name(1)])
    assert granted(large)
    assert granted(small)


def test_refused_waiters_are_settled_and_the_account_is_as_before(
    make: Callable[..., Sharer],
) -> None:
    one = make(objects=1000)
    attempts = [attempt(one, 2 + number, 100) for number in range(3)]
    one.space.refuse_waiters("nothing more can be evicted")
    assert all(refused(each) for each in attempts)
    assert usage(one) == (1000, 0, 0)
    assert one.space.waiters == 0


def test_given_up_are_those_who_do_not_fit(make: Callable[..., Sharer]) -> None:
    one = make(objects=600)
    one.put(2, 400)
    attempts = [attempt(one, 3, 300), attempt(one, 4, 500), attempt(one, 5, 100)]
    one.ledger.remove([name(2)])
    one.space.give_up("nothing more can be evicted")
    assert [granted(each) for each in attempts] == [True, False, True]


def test_a_wait_ends_at_its_timeout_and_makes_way(make: Callable[..., Sharer]) -> None:
    one = make(objects=900)
    late = attempt(one, 2, 500, timeout=0.05)
    small = attempt(one, 3, 100)
    assert refused(late)
    assert granted(small)
    assert one.space.used == 1000


def test_a_killed_wait_leaves_nothing_behind(make: Callable[..., Sharer]) -> None:
    one = make(objects=900)
    doomed, next_one = attempt(one, 2, 500), attempt(one, 3, 100)
    doomed.kill()
    assert granted(next_one)
    assert one.space.waiters == 0
    assert usage(one) == (900, 100, 0)


def test_killed_while_it_is_granted_nothing_was_drawn(make: Callable[..., Sharer]) -> None:
    """At any switch of the draw: before, in and after the transaction."""
    one = make()
    before = draw(one, 2, 100)
    for pause in range(6):
        greenlet = gevent.spawn(draw, one, 2, 500)
        for _ in range(pause):
            gevent.sleep(0)
        finished = greenlet.ready()
        greenlet.kill()
        if finished:
            break
        assert usage(one) == (0, 100, 0)
        assert one.space.generation(name(2)) == before.generation
    assert one.space.waiters == 0


def test_withdrawn_while_it_waits(make: Callable[..., Sharer]) -> None:
    one = make(objects=900)
    first = draw(one, 2, 100)
    waiting = attempt(one, 2, 100)
    one.space.withdraw(name(3))
    assert not waiting.ready()
    one.space.withdraw(name(2))
    assert refused(waiting)
    assert usage(one) == (900, 100, 0)
    one.space.settle(name(2), first.generation, 0)
    assert usage(one) == (900, 0, 0)


def test_withdrawn_while_it_is_granted(make: Callable[..., Sharer]) -> None:
    one = make(objects=900)
    first = draw(one, 2, 100)
    waiting = attempt(one, 2, 100)
    one.ledger.remove([name(1)])
    gevent.sleep(0)  # it is woken, and asks again
    one.space.withdraw(name(2))
    if granted(waiting):  # it looked just when there was room, by itself
        first = waiting.value
    one.space.settle(name(2), first.generation, 0)
    assert usage(one) == (0, 0, 0)


def test_nobody_waits_without_an_evictor(make: Callable[..., Sharer]) -> None:
    one = make(objects=1000)
    one.space.evicting = False
    with pytest.raises(NoSpace):
        draw(one, 2, 1)


def test_without_cleanup_nothing_new_is_cached_above_the_high_mark(
    make: Callable[..., Sharer],
) -> None:
    one = make(objects=850, cleanup=False)
    draw(one, 2, 50)
    with pytest.raises(NoSpace):
        draw(one, 3, 1)
    draw(one, 2, 100)  # begun below the mark: may go on to the limit
    with pytest.raises(NoSpace):
        draw(one, 2, 1)
    assert not one.space.pressed
    assert one.space.surplus == 0


def test_while_usage_is_unknown_misses_are_refused(make: Callable[..., Sharer]) -> None:
    one = make(objects=1000)
    waiting = attempt(one, 2, 50)
    one.space.lose_usage()
    # Nothing here switches, so no look that is under way can make it known again meanwhile.
    with pytest.raises(NoSpace):
        draw(one, 2, 1)
    assert (one.space.pressed, one.space.surplus) == (False, 0)
    assert refused(waiting)
    one.space.refresh()
    assert one.space.known


def test_a_lowered_limit_starts_above_it_and_waits_for_eviction(
    make: Callable[..., Sharer],
) -> None:
    one = make()
    one.space.resize(10_000)
    one.put(1, 5000)
    draw(one, 2, 300)
    one.space.resize(1000)
    waiting = attempt(one, 3, 100)
    assert one.space.surplus == 5300 - 500
    one.ledger.remove([name(1)])
    assert granted(waiting)
    assert one.space.used == 400


def test_other_marks_while_the_disk_is_full_leave_the_size_as_it_is() -> None:
    space = Space(1000)
    space.set_ceiling(400)
    space.reconfigure(high=0.9, low=0.5, cleanup=True, max_file_size=0)
    assert (space.limit, space.high_mark) == (400, 360)
    space.set_ceiling(None)
    assert (space.size, space.limit, space.high_mark) == (1000, 1000, 900)


def test_a_catalog_that_cannot_be_written_is_no_room(
    make: Callable[..., Sharer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = make()
    first = draw(one, 2, 100)

    def broken(*_: object) -> None:
        raise CatalogError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(one.ledger.catalog.account, "draw", broken)
        patched.setattr(one.ledger.catalog.account, "settle", broken)
        with pytest.raises(NoSpace):
            draw(one, 2, 100)
        one.space.settle(name(2), first.generation, 0)
    assert "reservation not settled" in caplog.text
    assert [each.bytes for each in one.ledger.reservations()] == [100], "for the next sweep"


def test_a_draw_is_one_transaction(make: Callable[..., Sharer]) -> None:
    one = make()
    statements: list[str] = []
    one.call(one.ledger.catalog.database.db.set_trace_callback, statements.append)
    draw(one, 2, 100)
    drawn = draw(one, 2, 100)
    one.space.settle(name(2), drawn.generation, 0)
    one.call(one.ledger.catalog.database.db.set_trace_callback, None)
    assert [each.split()[0] for each in statements].count("COMMIT") == 3
    assert len(statements) <= 3 * 8


class SpaceModel(RuleBasedStateMachine):
    """Any order of events in two processes: the limit holds, each wait is settled, nothing leaks.

    One reservation per name; the model is what the account must say.
    """

    amounts = st.integers(0, 1000)
    names = st.integers(0, 5)
    who = st.integers(0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="streamcache-", dir="/dev/shm"))
        self.sharers = [Sharer(self.root), Sharer(self.root, alone=False)]
        for sharer in self.sharers:
            sharer.space.evicting = True
        self.reserved: dict[str, int] = {}
        self.generations: dict[str, int] = {}
        self.objects: dict[str, int] = {}
        self.trash: dict[str, int] = {}
        self.waiting: list[tuple[str, int, Attempt]] = []

    def collect(self) -> None:
        for one in list(self.waiting):
            key, amount, greenlet = one
            if greenlet.ready():
                self.waiting.remove(one)
                if isinstance(greenlet.value, Draw):
                    before = self.reserved.get(key, 0)
                    assert greenlet.value.amount == max(0, min(1000, before + amount) - before)
                    self.reserved[key] = before + greenlet.value.amount
                    self.generations[key] = greenlet.value.generation

    def served(self) -> None:
        """Who is first in a queue and fits is served."""
        for sharer in self.sharers:
            sharer.space.refresh()

        def at_rest() -> bool:
            self.collect()
            return all(
                sharer.space.used + next(iter(sharer.space._waiters)).amount > 1000
                for sharer in self.sharers
                if sharer.space.waiters
            )

        until(at_rest)
        for sharer in self.sharers:
            sharer.space.refresh()

    def busy(self, key: str) -> bool:
        return any(key == other for other, _, _ in self.waiting)

    @rule(who=who, number=names, amount=amounts)
    def draw(self, who: int, number: int, amount: int) -> None:
        if not self.busy(name(number)):
            self.waiting.append((name(number), amount, attempt(self.sharers[who], number, amount)))
            self.served()

    @rule(who=who, number=names, on_disk=amounts, late=st.booleans())
    def settle(self, who: int, number: int, on_disk: int, late: bool) -> None:
        key = name(number)
        if not self.busy(key):
            on_disk = min(on_disk, self.reserved.get(key, 0))
            generation = self.generations.get(key, 0) - late
            self.sharers[who].space.settle(key, generation, on_disk)
            if not late and key in self.reserved:
                self.reserved[key] = on_disk
                self.generations[key] = self.sharers[who].space.generation(key)
                if not on_disk:
                    del self.reserved[key], self.generations[key]
            self.served()

    @rule(who=who, number=names)
    def publish(self, who: int, number: int) -> None:
        key = name(number)
        if not self.busy(key) and key in self.reserved and key not in self.objects:
            self.objects[key] = self.reserved.pop(key)
            del self.generations[key]
            self.sharers[who].put(number, self.objects[key])
            self.served()

    @rule(who=who, number=names)
    def discard(self, who: int, number: int) -> None:
        key = name(number)
        if key in self.objects and key not in self.trash:
            self.trash[key] = self.objects.pop(key)
            self.sharers[who].ledger.trashed(key, key, self.trash[key])
            self.served()

    @rule(who=who)
    def empty_the_trash(self, who: int) -> None:
        for key in list(self.trash):
            del self.trash[key]
            self.sharers[who].ledger.trash_freed(key)
        self.served()

    @rule(who=who)
    def evict(self, who: int) -> None:
        sharer = self.sharers[who]
        sharer.space.refresh()
        while self.objects and sharer.space.surplus:
            key = next(iter(self.objects))
            del self.objects[key]
            sharer.ledger.remove([key])
        self.served()
        if sharer.space.surplus:
            sharer.space.refuse_waiters("nothing more can be evicted")
            assert sharer.space.waiters == 0
            gevent.sleep(0)
        self.served()

    @rule(number=st.integers(0, 50))
    def kill_a_waiter(self, number: int) -> None:
        if self.waiting:
            _, _, greenlet = self.waiting.pop(number % len(self.waiting))
            greenlet.kill()
            assert not isinstance(greenlet.value, Draw)
            self.served()

    @rule(number=names)
    def withdraw(self, number: int) -> None:
        for sharer in self.sharers:
            sharer.space.withdraw(name(number))
        for key, _, greenlet in self.waiting:
            if key == name(number):
                assert refused(greenlet)
        self.collect()
        self.served()

    @invariant()
    def the_account_is_right(self) -> None:
        totals = checked(self.root)
        expected = {
            "objects": sum(self.objects.values()),
            "reserved": sum(self.reserved.values()),
            "trash": sum(self.trash.values()),
        }
        assert {key: totals[key] for key in expected} == expected
        assert sum(expected.values()) <= 1000
        for sharer in self.sharers:
            space = sharer.space
            assert (space.objects, space.reserved, space.trash) == tuple(expected.values())
        assert sum(sharer.space.waiters for sharer in self.sharers) == len(self.waiting)

    def teardown(self) -> None:
        for sharer in self.sharers:
            sharer.space.refuse_waiters("end")
        gevent.sleep(0)
        self.collect()
        assert not self.waiting
        for key, generation in self.generations.items():
            self.sharers[0].space.settle(key, generation, 0)
        self.sharers[0].ledger.remove(list(self.objects))
        for key in self.trash:
            self.sharers[0].ledger.trash_freed(key)
        assert usage(self.sharers[0]) == (0, 0, 0)
        for sharer in self.sharers:
            sharer.close()
        shutil.rmtree(self.root)


TestSpaceModel = SpaceModel.TestCase
TestSpaceModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
