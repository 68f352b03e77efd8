"""The catalog's account: what is added, removed, touched, and taken up at the start."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from streamcache.cache import ledger as ledger_module
from streamcache.cache.blockmap import Extent
from streamcache.cache.ledger import Ledger
from streamcache.cache.partial import PartialHeader
from streamcache.cache.space import Space
from streamcache.config import CacheConfig
from tests.cache.fakes import World

SIZE = 1000


def name(number: int) -> str:
    return f"{number:02x}{'0' * 30}.{number:032x}"


class Site:
    """A cache directory, and the ledgers of the processes that own it one after the other."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ledgers: list[Ledger] = []
        self.space: Space

    def begin(self, *, published: list[str] = ()) -> Ledger:
        """The next process: an account of its own, over the same files."""
        self.space = Space(1 << 30)
        ledger = Ledger.open(self.world.store, self.space, self.world.disk, CacheConfig())
        self.ledgers.append(ledger)
        stored = [self.world.store.find_object(each) for each in published]
        ledger.start([each for each in stored if each is not None])
        return ledger

    def end(self) -> None:
        for ledger in self.ledgers:
            ledger.close()
            assert ledger.pool.join(20)
        self.ledgers.clear()

    def object(self, number: int) -> int:
        """A file under objects/; the bytes it takes on disk."""
        header = PartialHeader(self.world.store.boot, "s", f"{number}.mp4", "v", SIZE, 1, 2, 3)
        partial = self.world.store.create_partial(name(number), header)
        partial.write(Extent(0, 1), memoryview(bytes(SIZE)))
        partial.close()
        return self.world.store.publish(name(number))

    def add(self, number: int) -> int:
        """The same, and entered as a copy does it."""
        blocks = self.object(number)
        self.space.objects += blocks
        ledger = self.ledgers[-1]
        ledger.add(name(number), f"{number}.mp4", SIZE, blocks, rebuilds=ledger.rebuilds)
        self.world.store.drop_map(name(number))
        return blocks

    def settle(self) -> None:
        self.world.until(lambda: not self.ledgers[-1].pool.pending)
        self.world.settle()

    @property
    def catalog_file(self) -> Path:
        return self.world.root / "cache" / "catalog.sqlite"


@pytest.fixture
def site(make_world: Callable[..., World]) -> Iterator[Site]:
    world = make_world()
    found = Site(world)
    yield found
    found.end()
    for path in (world.root / "cache" / "partial").iterdir():
        path.unlink()


def test_a_new_cache_knows_its_usage_at_once(site: Site) -> None:
    site.begin()
    assert site.space.known
    assert (site.space.used, site.ledgers[-1].objects) == (0, 0)


def test_what_was_entered_is_known_to_the_next_process(site: Site) -> None:
    site.begin()
    blocks = [site.add(number) for number in range(5)]
    site.end()
    ledger = site.begin()
    assert site.space.known, "without a look at the objects"
    assert (site.space.objects, ledger.objects) == (sum(blocks), 5)


def test_what_is_removed_is_given_back(site: Site) -> None:
    ledger = site.begin()
    blocks = [site.add(number) for number in range(3)]
    ledger.remove([name(1), name(9)])
    assert (site.space.objects, ledger.objects) == (blocks[0] + blocks[2], 2)
    ledger.remove([name(1)])
    assert (site.space.objects, ledger.objects) == (blocks[0] + blocks[2], 2)


def test_an_object_that_is_copied_again_counts_once(site: Site) -> None:
    ledger = site.begin()
    site.add(1)
    blocks = site.add(1)
    assert (site.space.objects, ledger.objects) == (blocks, 1)


def test_what_was_published_before_a_kill_is_entered_now(site: Site) -> None:
    site.begin()
    blocks = site.add(1)
    site.end()
    blocks += site.object(2)
    ledger = site.begin(published=[name(2), name(3)])
    assert (site.space.objects, ledger.objects) == (blocks, 2)
    assert site.world.partials() == [], "its journal has gone"


@pytest.mark.parametrize("damage", ["lost", "no database", "empty", "cut"])
def test_a_catalog_that_is_lost_or_broken_is_rebuilt_from_the_objects(
    site: Site, damage: str
) -> None:
    """I7: the disk is the truth."""
    site.begin()
    blocks = [site.add(number) for number in range(40)]
    site.end()
    match damage:
        case "lost":
            site.catalog_file.unlink()
        case "no database":
            site.catalog_file.write_bytes(b"this is no database" * 1000)
        case "empty":
            site.catalog_file.write_bytes(b"")
        case "cut":
            whole = site.catalog_file.read_bytes()
            site.catalog_file.write_bytes(whole[: len(whole) // 2])
    ledger = site.begin()
    site.world.until(lambda: site.space.known)
    assert (site.space.objects, ledger.objects) == (sum(blocks), 40)


def test_while_it_is_rebuilt_nothing_can_be_reserved(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.object(1)
    site.begin()
    assert not site.space.known
    site.world.until(lambda: site.space.known)
    assert site.space.objects > 0


def test_a_rebuild_meets_objects_that_come_and_go(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """62b5c6d7 #1255: a file that vanished while usage was computed raised."""
    for number in range(20):
        site.object(number)
    listing = site.world.store.all_objects

    def vanishing() -> Iterator[object]:
        for number, batch in enumerate(listing()):
            if number == 3:
                site.world.store.remove_objects([name(n) for n in range(4, 8)])
            yield batch

    monkeypatch.setattr(site.world.store, "all_objects", vanishing)
    ledger = site.begin()
    site.world.until(lambda: site.space.known)
    assert ledger.objects == 16


def test_one_client_is_one_use_for_a_while(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = types.SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 0.0, now=1000.0)
    monkeypatch.setattr(ledger_module, "time", clock)
    ledger = site.begin()
    site.add(1)
    for _ in range(100):
        ledger.touch(name(1), "192.0.2.1")
    ledger.touch(name(1), "192.0.2.2")
    clock.now += CacheConfig().touch_interval - 1
    ledger.touch(name(1), "192.0.2.1")
    assert ledger._touched == {name(1): 2}
    clock.now += 2
    ledger.touch(name(1), "192.0.2.1")
    assert ledger._touched == {name(1): 3}


def test_touches_reach_the_catalog_in_the_end(site: Site) -> None:
    ledger = site.begin()
    site.add(1)
    ledger.touch(name(1), "a")
    ledger.touch(name(1), "b")
    ledger.touch(name(2), "a")  # of what is not there: nothing
    site.end()
    ledger = site.begin()
    (entry,) = ledger.call(lambda: list(ledger.catalog.entries()))
    assert entry.hits == 2


def test_touches_reach_the_catalog_on_the_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_WRITE_INTERVAL", 0.001)
    ledger = site.begin()
    site.add(1)
    ledger.touch(name(1), "a")
    site.world.until(lambda: not ledger._touched)


def test_only_so_many_clients_are_remembered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_REMEMBERED", 100)
    ledger = site.begin()
    for number in range(1000):
        ledger.touch(name(1), f"{number}")
    assert len(ledger._recent) <= 101


def test_closing_ends_the_thread_and_the_greenlets(site: Site) -> None:
    """60964f2e #1281: timers that were not cleared failed on shutdown."""
    ledger = site.begin()
    site.add(1)
    site.end()
    assert ledger.pool.threads == 0
    gevent.sleep(0)
    # The leak check around each test looks for greenlets and descriptors.
