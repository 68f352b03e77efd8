"""The Evictor: what it frees and leaves, whom it answers, how close it is to its policy."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest

from streamcache.cache.database import CatalogError
from streamcache.cache.entry import Entry, NewEntry, Victim
from streamcache.cache.evictor import BATCH_FILES, Evictor
from streamcache.cache.listing import Listing
from streamcache.cache.policy import POLICIES, PolicyName
from streamcache.cache.queues import MemoryQueues
from streamcache.cache.selection import Selection
from streamcache.cache.space import Draw
from streamcache.config.cache import CacheConfig
from streamcache.errors import NoSpace
from tests.cache.accounts import Sharer, checked, name, until
from tests.cache.traces import (
    PureCache,
    Trace,
    byte_misses,
    footprint,
    media_trace,
    object_name,
    size_of,
)


class World:
    """A cache of 1000 bytes, high mark 900, low mark 500, over a real catalog; no files.

    ``partials``: idle ones, each (number, on_disk) with a reservation of that many bytes.
    """

    def __init__(
        self, root: Path, objects: Collection[int] = (), *, alone: bool = True, **more: Any
    ) -> None:
        self.root = root
        self.sharer = Sharer(root, config=CacheConfig(policy="lru"), alone=alone)
        self.space, self.ledger = self.sharer.space, self.sharer.ledger
        self.ledger.call(
            self.ledger.catalog.add,
            [NewEntry(name(n), f"{n}", on_disk, on_disk, 0.0) for n, on_disk in enumerate(objects)],
        )
        self.held: set[str] = set()
        self.stuck: set[str] = set()  # the disk does not let them go
        self.partials: list[tuple[int, int]] = []
        self.batches: list[list[str]] = []
        self.error: Exception | None = None
        self.evictor = Evictor(
            self.space,
            self,
            catalog_call=self.ledger.call,
            remove=self.remove,
            leased=lambda: self.held,
            drop_idle_partials=self.drop_idle_partials,
            **{"interval": 3600, **more},
        )

    def victims(self, need: int, **rest: Any) -> list[Victim]:
        """In the catalog's thread."""
        if self.error is not None:
            raise self.error
        found = self.ledger.victims(need, **rest)
        self.batches.append([victim.name for victim in found])
        return found

    def entries_of(self, names: list[str]) -> list[Entry]:
        return self.ledger.entries_of(names)

    def remove_victims(self, names: list[str]) -> int:
        return self.ledger.remove_victims(names)

    def remove(self, names: list[str]) -> list[str]:
        gevent.sleep(0)
        return [each for each in names if each not in self.held | self.stuck]

    def drop_idle_partials(self, need: int) -> int:
        if not self.partials:
            return 0
        number, on_disk = self.partials.pop(0)
        self.space.settle(name(number), self.space.generation(name(number)), 0)
        return on_disk

    def idle(self, number: int, on_disk: int) -> None:
        """A partial that nobody works on."""
        self.space.draw(name(number), on_disk, on_disk, timeout=1)
        self.partials.append((number, on_disk))

    @property
    def objects(self) -> list[str]:
        """The names that are left, in their order."""
        entries = self.ledger.page(Listing(Selection.everything(), limit=1000)).entries
        return [entry.name for entry in sorted(entries, key=lambda entry: int(entry.name[33:], 16))]

    def draw(self, amount: int, *, number: int = 1000, timeout: float = 5) -> Draw:
        return self.space.draw(name(number), amount, amount, timeout=timeout)

    def round(self) -> None:
        """Wake the Evictor and let it finish."""
        rounds = self.evictor.rounds
        self.space.pressure.set()
        until(lambda: self.evictor.rounds > rounds)

    def close(self) -> None:
        self.evictor.stop()
        self.sharer.close()


def objects(count: int, on_disk: int) -> list[int]:
    return [on_disk] * count


def names(*numbers: int) -> list[str]:
    return [name(number) for number in numbers]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """``make(objects, ...)``: its Evictor does not run yet. More than one share the directory."""
    made: list[World] = []

    def world(objects: Collection[int] = (), **more: Any) -> World:
        made.append(World(tmp_path, objects, alone=not made, **more))
        return made[-1]

    yield world
    for one in made:
        one.close()
        assert repr(one.evictor).startswith("<Evictor stopped")
    checked(tmp_path)


@pytest.fixture
def world(make: Callable[..., World], request: pytest.FixtureRequest) -> World:
    made = make(getattr(request, "param", None) or objects(19, 50))
    made.evictor.start()
    gevent.sleep(0)
    return made


def test_frees_from_the_high_to_the_low_mark_in_the_catalogs_order(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.round()
    assert world.space.used == 500
    assert world.objects == names(*range(9, 19))
    assert (world.evictor.evicted_objects, world.evictor.evicted_bytes) == (9, 450)
    *each, last = [record.getMessage() for record in caplog.records]
    assert last == "evicted objects=9 bytes=450 used_before=950 used_after=500 limit=1000"
    assert [line.partition(" unused=")[0] for line in each] == [
        f"object evicted path='/{number}' bytes=50" for number in range(9)
    ]


@pytest.mark.parametrize("world", [objects(18, 50)], indirect=True)
def test_at_the_high_mark_nothing_goes(world: World) -> None:
    looks: list[None] = []
    world.evictor._each_look = lambda: looks.append(None)
    for count in range(1, 4):
        world.space.pressure.set()
        until(lambda count=count: len(looks) == count)
    assert world.batches == []
    assert world.space.used == 900


def test_it_tells_for_how_long_what_it_evicted_was_not_used(make: Callable[..., World]) -> None:
    ages: list[float] = []
    world = make(objects(19, 50), evicted=ages.append)
    touched = {name(number): 1 for number in range(19)}
    world.ledger.call(world.ledger.catalog.touch, touched, time.time() - 3600)
    world.evictor.start()
    world.round()
    assert world.evictor.evicted_objects == len(ages) == 9
    assert all(3600 <= age < 3700 for age in ages)


def test_looks_by_itself_each_interval(make: Callable[..., World]) -> None:
    world = make(objects(19, 50), interval=0.001)
    world.evictor.start()
    until(lambda: world.space.used == 500)


def test_works_in_small_batches_and_lets_others_run_between(make: Callable[..., World]) -> None:
    world = make(objects(950, 1))
    world.evictor.start()
    world.round()
    assert all(len(batch) <= BATCH_FILES for batch in world.batches)
    assert len(world.batches) >= 450 // BATCH_FILES


def test_makes_room_for_who_waits(world: World) -> None:
    drawn = world.draw(800)
    assert (drawn.amount, drawn.whole) == (800, True)
    assert world.space.used <= 1000


def test_who_fits_is_served_though_the_round_found_nothing_more(world: World) -> None:
    """The last object makes the room: it must not be refused because there is no other."""
    world.held = set(names(*range(1, 19)))
    assert world.draw(100).amount == 100
    assert world.space.used == 1000


def test_idle_partials_go_before_objects(make: Callable[..., World]) -> None:
    world = make(objects(10, 50))
    world.idle(100, 200)
    world.idle(101, 250)
    world.evictor.start()
    world.round()
    assert world.partials == []
    assert world.space.used == 500
    assert len(world.objects) == 10


def test_leased_objects_stay(world: World) -> None:
    world.held = set(names(0, 3, 8))
    world.round()
    assert world.space.used == 500
    assert world.held <= set(world.objects)


def test_nothing_evictable_refuses_who_waits_and_goes_on_later(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.held = set(world.objects)
    for _ in range(3):
        with pytest.raises(NoSpace, match="nothing more"):
            world.draw(100)
    assert world.space.used == 950
    said = [line for line in caplog.messages if "nothing more to evict" in line]
    assert said == ["nothing more to evict used=950 limit=1000 objects=950 reserved=0 trash=0"]
    world.held = set()  # a lease ended
    world.round()
    assert world.space.used == 500


def test_what_the_disk_does_not_let_go_is_tried_once_a_round(world: World) -> None:
    world.stuck = set(names(0, 1))
    world.round()
    assert world.space.used == 500
    tries = [each for batch in world.batches for each in batch]
    assert tries.count(name(0)) == 1


@pytest.mark.parametrize("world", [objects(950, 1)], indirect=True)
def test_a_disk_that_lets_nothing_go_ends_the_round(world: World) -> None:
    world.stuck = set(names(*range(950)))
    with pytest.raises(NoSpace):
        world.draw(100)
    assert world.space.used == 950


@pytest.mark.parametrize("error", [CatalogError("broken"), OSError(5, "EIO"), KeyError("a bug")])
def test_survives_errors_and_logs_them_once(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.error = error
    for _ in range(3):
        with pytest.raises(NoSpace, match="eviction failed"):
            world.draw(100)
    assert caplog.text.count("eviction failed error=") == 1
    world.error = None
    world.draw(100)
    assert len(world.objects) < 19


def test_a_look_that_fails_costs_nothing(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[int] = []

    def failing() -> None:
        looks.append(len(looks))
        raise OSError(5, "EIO")

    world = make(objects(19, 50), each_look=failing, sweep=failing, interval=0.001)
    world.evictor.start()
    until(lambda: world.space.used == 500 and len(looks) > 5)
    said = [line for line in caplog.messages if "look of the" in line]
    assert said == ["look of the Evictor failed error=[Errno 5] EIO"]


def test_stop_answers_who_waits_and_later_ones_at_once(make: Callable[..., World]) -> None:
    world = make(objects(19, 50))
    hold = gevent.event.Event()
    world.evictor._remove = lambda names: hold.wait() and []  # a disk that hangs
    world.evictor.start()
    waiting = gevent.spawn(world.draw, 500)
    until(lambda: world.space.waiters)
    world.evictor.stop(timeout=0.01)
    world.evictor.stop()
    with pytest.raises(NoSpace):
        waiting.get(timeout=5)
    with pytest.raises(NoSpace):
        world.draw(500)


def test_a_stopped_evictor_can_start_again(world: World) -> None:
    world.evictor.stop()
    world.evictor.start()
    world.round()
    assert world.space.used == 500


def test_one_at_a_time_has_a_round(make: Callable[..., World], tmp_path: Path) -> None:
    lock = str(tmp_path / "evictor")
    one = make(objects(19, 50), lock=lock, interval=3600)
    other = make(lock=lock, interval=3600)
    inside, go_on = gevent.event.Event(), gevent.event.Event()

    def slow(found: list[str]) -> list[str]:
        inside.set()
        go_on.wait()
        return found

    one.evictor._remove = slow
    one.evictor.start()
    other.evictor.start()
    one.space.pressure.set()
    assert inside.wait(5)
    waiting = gevent.spawn(other.draw, 400)
    until(lambda: other.space.waiters)
    gevent.sleep(0.1)
    assert (other.evictor.rounds, other.batches) == (0, [])
    assert not waiting.ready(), "nor is it refused: another one's round is under way"
    go_on.set()
    assert waiting.get(timeout=5).amount == 400
    assert one.evictor.evicted_objects == 9


def test_a_sweep_is_done_by_one_process_at_a_time_and_seldom(
    make: Callable[..., World], tmp_path: Path
) -> None:
    lock = str(tmp_path / "evictor")
    swept: list[str] = []
    looked: list[str] = []
    for one in "ab":
        make(
            lock=lock,
            interval=0.005,
            sweep=lambda one=one: swept.append(one),
            each_look=lambda one=one: looked.append(one),
        ).evictor.start()
    until(lambda: min(looked.count("a"), looked.count("b")) > 5)
    assert len(swept) == 1, "one for both, though nothing is pressed"
    os.utime(lock, (0, 0))  # ten seconds are over; b may still wait for its own clock
    late = make(lock=lock, interval=0.005, sweep=lambda: swept.append("c"))
    late.evictor.start()
    until(lambda: len(swept) == 2)
    assert swept[-1] == "c"


def test_a_sweep_waits_for_usage_to_be_known(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the catalog is rebuilt; and it is not ten seconds late because of that."""
    swept: list[bool] = []
    looked: list[None] = []
    world = make(
        interval=0.005,
        sweep=lambda: swept.append(world.space.known),
        each_look=lambda: looked.append(None),
    )
    with monkeypatch.context() as patched:
        patched.setattr(world.space, "refresh", world.space.lose_usage)
        world.evictor.start()
        until(lambda: len(looked) > 5)
        assert swept == []
    until(lambda: swept == [True])


def test_a_disk_that_hangs_when_a_sweep_is_due_does_not_hold_the_hub(
    make: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, go, swept = threading.Event(), threading.Event(), []
    pwrite = os.pwrite

    def held(fd: int, data: bytes, offset: int) -> int:
        hangs.set()
        assert go.wait(20)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", held)
    world = make(lock=str(tmp_path / "lock"), interval=0.005, sweep=lambda: swept.append(1))
    world.evictor.start()
    until(hangs.is_set)  # which turns the hub
    assert swept == []
    go.set()
    until(lambda: swept)
    assert (tmp_path / "lock").read_bytes() == b"swept\n"


def test_a_clock_that_went_back_delays_no_sweep(make: Callable[..., World], tmp_path: Path) -> None:
    lock = tmp_path / "evictor"
    swept: list[int] = []
    world = make(lock=str(lock), interval=0.005, sweep=lambda: swept.append(1))
    lock.write_text("swept\n")
    os.utime(lock, (2**33, 2**33))
    world.evictor.start()
    until(lambda: swept)


def test_what_another_process_freed_is_enough(make: Callable[..., World]) -> None:
    """A round begins with a look: nothing is evicted for a pressure that is gone."""
    one = make(objects(19, 50))
    other = make(interval=3600)
    one.evictor.start()
    other.ledger.remove(names(*range(10)))
    one.space.pressure.set()
    until(lambda: one.space.used == 450)
    gevent.sleep(0.01)
    assert one.evictor.rounds == 0


UNIT = 1 << 20


def cached_byte_misses(root: Path, policy: PolicyName, trace: Trace, limit: int) -> float:
    """Replay on the real catalog, Space and Evictor; only the files are missing."""
    sharer = Sharer(root, limit, high=0.95, low=0.85, config=CacheConfig(policy=policy))
    space, ledger = sharer.space, sharer.ledger
    present: set[str] = set()

    def remove(names: list[str]) -> list[str]:
        present.difference_update(names)
        return names

    evictor = Evictor(
        space,
        ledger,
        catalog_call=ledger.call,
        remove=remove,
        leased=lambda: (),
        drop_idle_partials=lambda need: 0,
    )
    evictor.start()
    missed = 0
    for now, (number, _) in enumerate(trace):
        each, size = object_name(number), size_of(number) * UNIT
        if each in present:
            ledger.call(ledger.catalog.touch, {each: 1}, now)
        else:
            missed += size
            space.draw(each, size, size, timeout=10)
            present.add(each)
            ledger.add(each, "/films/a.mp4", size, size)
    evictor.stop()
    assert ledger.call(ledger.catalog.usage) == (space.objects, len(present))
    sharer.close()
    return missed / sum(size * UNIT for _, size in trace)


@pytest.mark.parametrize("policy", ["s3fifo", "lru"])
def test_catalog_and_evictor_stay_within_2_percent_of_the_pure_policy(
    tmp_path: Path, policy: PolicyName
) -> None:
    trace = media_trace(10_000, seed=1)
    limit = footprint(trace) // 10

    def pure(share: float) -> float:
        return byte_misses(PureCache(POLICIES[policy](MemoryQueues(), int(limit * share))), trace)

    got = cached_byte_misses(tmp_path, policy, trace, limit * UNIT)
    # Against a pure cache of the whole limit: 2 points, all but 0.3 of them the room that lies
    # empty between the watermarks, as the second line shows (0.90: the mean of 0.95 and 0.85).
    assert got <= pure(1.0) + 0.02
    assert got <= pure(0.90) * 1.02
