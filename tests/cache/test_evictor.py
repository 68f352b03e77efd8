"""The Evictor: what it frees and leaves, whom it answers, how close it is to its policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest

from streamcache.cache.catalog import Catalog, CatalogError, NewEntry, Victim
from streamcache.cache.evictor import BATCH_FILES, Evictor
from streamcache.cache.policy import POLICIES, PolicyName
from streamcache.cache.queues import MemoryQueues
from streamcache.cache.space import Space
from streamcache.errors import NoSpace
from tests.cache.traces import (
    PureCache,
    Trace,
    byte_misses,
    footprint,
    media_trace,
    object_name,
    size_of,
)


class FakeCatalog:
    """Objects in the order in which they go; decides as the real one does."""

    def __init__(self, objects: dict[str, int]) -> None:
        self.objects = objects
        self.batches: list[list[str]] = []
        self.error: Exception | None = None

    def victims(
        self, need: int, *, held: Collection[str] = (), limit: int = 64, batch: int = 1 << 30
    ) -> list[Victim]:
        if self.error is not None:
            raise self.error
        chosen: list[Victim] = []
        for name, blocks in self.objects.items():
            if need <= 0 or len(chosen) == limit:
                break
            if name not in held:
                chosen.append(Victim(name, blocks))
                need -= blocks
        self.batches.append([victim.name for victim in chosen])
        return chosen

    def remove_victims(self, names: list[str]) -> int:
        return sum(self.objects.pop(name, 0) for name in names)


class World:
    """A space of 1000 bytes, high mark 900, low mark 500, and hands that do nothing but count."""

    def __init__(self, objects: dict[str, int]) -> None:
        self.catalog = FakeCatalog(objects)
        self.space = Space(1000, high=0.9, low=0.5)
        self.space.set_usage(sum(objects.values()))
        self.held: set[str] = set()
        self.stuck: set[str] = set()  # the disk does not let them go
        self.partials: list[int] = []
        self.evictor = Evictor(
            self.space,
            self.catalog,
            catalog_call=self.call,
            remove=self.remove,
            leased=lambda: self.held,
            drop_idle_partials=self.drop_idle_partials,
            interval=3600,
        )

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        gevent.sleep(0)
        return function(*args)

    def remove(self, names: list[str]) -> list[str]:
        gevent.sleep(0)
        return [name for name in names if name not in self.held | self.stuck]

    def drop_idle_partials(self, need: int) -> int:
        if not self.partials:
            return 0
        blocks = self.partials.pop(0)
        self.space.trash_freed(blocks)
        return blocks

    def round(self) -> None:
        """Wake the Evictor and let it finish."""
        rounds = self.evictor.rounds
        self.space.pressure.set()
        with gevent.Timeout(5):
            while self.evictor.rounds == rounds:
                gevent.sleep(0)


def objects(count: int, blocks: int) -> dict[str, int]:
    return {f"o{number}": blocks for number in range(count)}


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(getattr(request, "param", None) or objects(19, 50))
    made.evictor.start()
    gevent.sleep(0)
    yield made
    made.evictor.stop()
    assert repr(made.evictor).startswith("<Evictor stopped")


def test_frees_from_the_high_to_the_low_mark_in_the_catalogs_order(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.round()
    assert world.space.used == 500
    assert list(world.catalog.objects) == [f"o{number}" for number in range(9, 19)]
    assert (world.evictor.evicted_objects, world.evictor.evicted_bytes) == (9, 450)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["evicted objects=9 bytes=450 used_before=950 used_after=500 limit=1000"]


@pytest.mark.parametrize("world", [objects(18, 50)], indirect=True)
def test_at_the_high_mark_nothing_goes(world: World) -> None:
    world.space.pressure.set()
    for _ in range(10):
        gevent.sleep(0)
    assert world.catalog.batches == []
    assert world.space.used == 900


def test_looks_by_itself_each_interval() -> None:
    world = World(objects(19, 50))
    world.evictor._interval = 0.001
    world.evictor.start()
    with gevent.Timeout(5):
        while world.space.used > 500:
            gevent.sleep(0.001)
    world.evictor.stop()


def test_works_in_small_batches_and_lets_others_run_between() -> None:
    world = World(objects(950, 1))
    world.evictor._catalog_call = lambda function, *args: function(*args)
    world.evictor._remove = lambda names: names  # neither switches
    beats: list[int] = []

    def heart() -> None:
        while True:
            beats.append(len(world.catalog.objects))
            gevent.sleep(0)

    greenlet = gevent.spawn(heart)
    world.evictor.start()
    world.round()
    greenlet.kill()
    assert all(len(batch) <= BATCH_FILES for batch in world.catalog.batches)
    assert len(set(beats)) >= 450 // BATCH_FILES
    world.evictor.stop()


def test_makes_room_for_who_waits(world: World) -> None:
    with gevent.Timeout(5):
        reservation = world.space.reserve(800)
    assert reservation.amount == 800
    assert world.space.used <= 1000
    assert len(world.catalog.objects) == 4


def test_idle_partials_go_before_objects(world: World) -> None:
    world.space.trash_added(450)
    world.partials = [200, 250]
    world.round()
    assert world.partials == []
    assert world.space.used == 500
    assert len(world.catalog.objects) == 10


def test_leased_objects_stay(world: World) -> None:
    world.held = {"o0", "o3", "o8"}
    world.round()
    assert world.space.used == 500
    assert world.held <= set(world.catalog.objects)


def test_nothing_evictable_refuses_who_waits_and_goes_on_later(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.held = set(world.catalog.objects)
    for _ in range(3):
        with gevent.Timeout(5), pytest.raises(NoSpace):
            world.space.reserve(100)
    assert world.space.used == 950
    assert caplog.text.count("nothing more to evict") == 1
    world.held = set()  # a lease ended
    world.round()
    assert world.space.used == 500


def test_what_the_disk_does_not_let_go_is_tried_once_a_round(world: World) -> None:
    world.stuck = {"o0", "o1"}
    world.round()
    assert world.space.used == 500
    tries = [name for batch in world.catalog.batches for name in batch]
    assert tries.count("o0") == 1


@pytest.mark.parametrize("world", [objects(950, 1)], indirect=True)
def test_a_disk_that_lets_nothing_go_ends_the_round(world: World) -> None:
    world.stuck = set(world.catalog.objects)
    with gevent.Timeout(5), pytest.raises(NoSpace):
        world.space.reserve(100)
    assert len(world.catalog.batches) <= 4
    assert world.space.used == 950


@pytest.mark.parametrize("error", [CatalogError("broken"), OSError(5, "EIO"), KeyError("a bug")])
def test_survives_errors_and_logs_them_once(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.catalog.error = error
    for _ in range(3):
        with gevent.Timeout(5), pytest.raises(NoSpace):
            world.space.reserve(100)
    assert caplog.text.count("eviction failed error=") == 1
    world.catalog.error = None
    with gevent.Timeout(5):
        world.space.reserve(100)
    assert len(world.catalog.objects) < 19


def test_stop_answers_who_waits_and_later_ones_at_once() -> None:
    world = World(objects(19, 50))
    world.evictor.start()
    hold = gevent.event.Event()
    world.evictor._remove = lambda names: hold.wait() and []  # a disk that hangs
    waiting = gevent.spawn(world.space.reserve, 500)
    gevent.sleep(0)
    gevent.sleep(0)
    with gevent.Timeout(5):
        world.evictor.stop(timeout=0.01)
        world.evictor.stop()
        with pytest.raises(NoSpace):
            waiting.get()
    with pytest.raises(NoSpace):
        world.space.reserve(500)


def test_a_stopped_evictor_can_start_again(world: World) -> None:
    world.evictor.stop()
    world.evictor.start()
    world.round()
    assert world.space.used == 500


UNIT = 1 << 20


def cached_byte_misses(path: str, policy: PolicyName, trace: Trace, limit: int) -> float:
    """Replay on the real catalog, Space and Evictor; only the files are missing."""
    catalog = Catalog.open(path, policy=policy, capacity=limit)
    space = Space(limit)
    space.set_usage(0)
    present: set[str] = set()

    def remove(names: list[str]) -> list[str]:
        present.difference_update(names)
        return names

    evictor = Evictor(
        space,
        catalog,
        catalog_call=lambda function, *args: function(*args),
        remove=remove,
        leased=lambda: (),
        drop_idle_partials=lambda need: 0,
    )
    evictor.start()
    missed = 0
    for now, (number, _) in enumerate(trace):
        name, size = object_name(number), size_of(number) * UNIT
        if name in present:
            catalog.touch({name: 1}, now)
        else:
            missed += size
            space.reserve(size).commit(size)
            present.add(name)
            catalog.add(NewEntry(name, "/films/a.mp4", size, size, now))
        gevent.sleep(0)
    evictor.stop()
    assert catalog.usage() == (space.objects, len(present))
    catalog.close()
    return missed / sum(size * UNIT for _, size in trace)


@pytest.mark.parametrize("policy", ["s3fifo", "lru"])
def test_catalog_and_evictor_stay_within_2_percent_of_the_pure_policy(
    tmp_path: Path, policy: PolicyName
) -> None:
    trace = media_trace(20_000, seed=1)
    limit = footprint(trace) // 10

    def pure(share: float) -> float:
        return byte_misses(PureCache(POLICIES[policy](MemoryQueues(), int(limit * share))), trace)

    got = cached_byte_misses(str(tmp_path / "catalog.sqlite"), policy, trace, limit * UNIT)
    # Against a pure cache of the whole limit: 2 points, all but 0.3 of them the room that lies
    # empty between the watermarks, as the second line shows (0.90: the mean of 0.95 and 0.85).
    assert got <= pure(1.0) + 0.02
    assert got <= pure(0.90) * 1.02
