"""The catalog's account: what is added, removed, touched, and taken up at the start."""

from __future__ import annotations

import os
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from streamcache.cache import ledger as ledger_module
from streamcache.cache import mender as mender_module
from streamcache.cache.blockmap import Extent
from streamcache.cache.database import CatalogError, CatalogLate, create, take_lock
from streamcache.cache.ledger import Ledger
from streamcache.cache.listing import Listing
from streamcache.cache.partial import PartialHeader
from streamcache.cache.selection import Selection
from streamcache.cache.space import Space
from streamcache.cache.store import Store
from streamcache.cache.stored import ObjectFolder
from streamcache.config.cache import CacheConfig
from streamcache.errors import CacheError, NoSpace
from tests.cache.accounts import Sharer, checked, name, until

SIZE = 1000
LIMIT = 1 << 30


class Site:
    """A cache directory, and the ledgers of the processes that own it, at once or in turn."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sharers: list[Sharer] = []
        self.store = Store(str(root))
        self.store.prepare()
        self.store.share()
        self.partials: list[tuple[str, int]] = []
        self.trash_files: list[tuple[str, int]] = []

    def begin(self, **options: object) -> Ledger:
        """The next process: an account of its own, over the same files."""
        options.setdefault("alone", not self.sharers)
        sharer = Sharer(
            self.root,
            LIMIT,
            partials=lambda: self.partials,
            trash_files=lambda: self.trash_files,
            **options,
        )
        self.sharers.append(sharer)
        return sharer.ledger

    @property
    def space(self) -> Space:
        return self.sharers[-1].space

    def end(self) -> None:
        for sharer in self.sharers:
            sharer.close()
        self.sharers.clear()

    def object(self, number: int) -> int:
        """A file under objects/; the bytes it takes on disk."""
        header = PartialHeader(self.store.boot, "s", f"{number}.mp4", "v", SIZE, 1, 2, 3)
        (self.root / "partial").mkdir(exist_ok=True)
        (self.root / "objects").mkdir(exist_ok=True)
        partial, _ = self.store.partials.open(name(number), header)
        partial.write(Extent(0, 1), memoryview(bytes(SIZE)))
        inode = partial.inode
        partial.close()
        return self.store.objects.publish(name(number), inode)

    def add(self, number: int) -> int:
        """The same, and entered as a copy does it."""
        on_disk = self.object(number)
        self.sharers[-1].ledger.add(name(number), f"{number}.mp4", SIZE, on_disk)
        self.store.partials.drop_map(name(number))
        return on_disk

    def whole(self) -> None:
        """Wait until usage is known again, in all."""
        until(lambda: all(sharer.space.known for sharer in self.sharers))

    @property
    def catalog_file(self) -> Path:
        return self.root / "catalog.sqlite"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path / "cache")
    yield found
    found.end()
    found.store.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rebuild waits for others is tested with processes (test_account_processes)."""
    monkeypatch.setattr(mender_module, "_ENTER_WAIT", 0.1)
    monkeypatch.setattr(mender_module, "_LOOK_INTERVAL", 0.02)


def test_a_new_cache_knows_its_usage_at_once(site: Site) -> None:
    site.begin()
    assert site.space.known
    assert (site.space.used, site.sharers[-1].ledger.objects) == (0, 0)


def test_what_was_entered_is_known_to_the_next_process(site: Site) -> None:
    site.begin()
    on_disk = [site.add(number) for number in range(5)]
    site.end()
    ledger = site.begin()
    assert site.space.known, "without a look at the objects"
    assert (site.space.objects, ledger.objects) == (sum(on_disk), 5)


def test_what_is_removed_is_given_back(site: Site) -> None:
    ledger = site.begin()
    on_disk = [site.add(number) for number in range(3)]
    ledger.remove([name(1), name(9)])
    assert (site.space.objects, ledger.objects) == (on_disk[0] + on_disk[2], 2)
    ledger.remove([name(1)])
    assert (site.space.objects, ledger.objects) == (on_disk[0] + on_disk[2], 2)


def test_an_object_that_is_copied_again_counts_once(site: Site) -> None:
    ledger = site.begin()
    site.add(1)
    on_disk = site.add(1)
    assert (site.space.objects, ledger.objects) == (on_disk, 1)


@pytest.mark.parametrize("damage", ["lost", "no database", "empty", "cut"])
def test_a_catalog_that_is_lost_or_broken_is_rebuilt_from_the_objects(
    site: Site, damage: str
) -> None:
    """I7: the disk is the truth."""
    site.begin()
    on_disk = [site.add(number) for number in range(40)]
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
    site.whole()
    assert (site.space.objects, ledger.objects) == (sum(on_disk), 40)


def test_while_it_is_rebuilt_nothing_can_be_reserved(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.object(1)
    site.begin()
    assert not site.space.known
    site.whole()
    assert site.space.objects > 0


def test_a_rebuild_meets_objects_that_come_and_go(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """62b5c6d7 #1255: a file that vanished while usage was computed raised."""
    for number in range(20):
        site.object(number)
    listing = site.store.objects.all

    def vanishing() -> Iterator[object]:
        for number, batch in enumerate(listing()):
            if number == 3:
                site.store.objects.remove_unread([name(n) for n in range(4, 8)])
            yield batch

    monkeypatch.setattr(ObjectFolder, "all", lambda self: vanishing())
    ledger = site.begin()
    site.whole()
    site.whole()
    assert ledger.objects == 16


def test_one_client_is_one_use_for_a_while(site: Site) -> None:
    ledger = site.begin()
    site.add(1)
    now = 1000.0
    for _ in range(100):
        ledger.touch(name(1), "192.0.2.1", now)
    ledger.touch(name(1), "192.0.2.2", now)
    now += CacheConfig().touch_interval - 1
    ledger.touch(name(1), "192.0.2.1", now)
    assert ledger._touched == {name(1): 2}
    now += 2
    ledger.touch(name(1), "192.0.2.1", now)
    assert ledger._touched == {name(1): 3}


def test_touches_reach_the_catalog_in_the_end(site: Site) -> None:
    ledger = site.begin()
    site.add(1)
    ledger.touch(name(1), "a", 0.0)
    ledger.touch(name(1), "b", 0.0)
    ledger.touch(name(2), "a", 0.0)  # of what is not there: nothing
    site.end()
    ledger = site.begin()
    (entry,) = ledger.page(Listing(Selection.everything())).entries
    assert entry.hits == 2


def test_touches_reach_the_catalog_on_the_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_WRITE_INTERVAL", 0.001)
    ledger = site.begin()
    site.add(1)
    ledger.touch(name(1), "a", 0.0)
    until(lambda: not ledger._touched)


def test_closing_ends_the_thread_and_the_greenlets(site: Site) -> None:
    """60964f2e #1281: timers that were not cleared failed on shutdown."""
    ledger = site.begin()
    site.add(1)
    site.end()
    assert ledger.pool.threads == 0
    gevent.sleep(0)
    # The leak check around each test looks for greenlets and descriptors.


def test_an_object_is_entered_by_several_and_counts_once(site: Site) -> None:
    one, other = site.begin(), site.begin()
    on_disk = site.object(1)
    one.add(name(1), "1.mp4", SIZE, on_disk)
    other.add(name(1), "1.mp4", SIZE, on_disk)
    one.remove([name(1)])
    other.remove([name(1)])
    other.look()
    assert (site.space.objects, other.objects) == (0, 0)


def test_who_evicts_at_the_start_leaves_the_victims_of_others_alone(site: Site) -> None:
    one = site.begin()
    on_disk = site.add(1)
    assert [victim.name for victim in one.call(one.victims, 1)] == [name(1)]
    other = site.begin()
    assert other.call(other.catalog.leaving) == [name(1)]
    assert site.space.objects == on_disk
    site.end()
    alone = site.begin()
    assert alone.objects == 0, "an eviction that was cut short is finished"
    assert site.store.objects.find(name(1)) is None


def sized(size: int, **more: object) -> CacheConfig:
    return CacheConfig(size=size, **more)


def test_alone_the_size_may_change(site: Site) -> None:
    for size in (10 * 10**9, 5 * 10**9):
        site.begin(config=sized(size))
        assert (site.space.size, site.space.limit) == (size, size)
        site.end()


def test_who_shares_must_agree_on_the_size(site: Site) -> None:
    site.begin(config=sized(5 * 10**9))
    with pytest.raises(CacheError) as caught:
        site.begin(config=sized(10 * 10**9))
    assert str(caught.value) == (
        "cache.size = 10GB: the cache directory is shared with a server that has 5GB; allowed: 5GB"
    )
    site.begin(config=sized(5 * 10**9))
    site.begin(config=sized(0))
    assert (site.space.size, site.space.limit) == (5 * 10**9, 5 * 10**9)


def test_a_size_that_is_computed_is_agreed_later(site: Site) -> None:
    first = site.begin(config=sized(0))
    assert first.agree(0) == 0
    assert first.agree(10**9) == 10**9
    second = site.begin(config=sized(0))
    assert (site.space.size, site.space.limit) == (10**9, 10**9)
    with pytest.raises(CacheError):
        second.agree(2 * 10**9)
    assert first.agree(0) == 10**9


def test_who_shares_must_agree_on_the_policy(site: Site) -> None:
    site.begin(config=sized(0, policy="lru"))
    with pytest.raises(CacheError, match=r"cache\.policy = s3fifo: .* allowed: lru"):
        site.begin()
    site.end()
    site.begin()


def test_a_rebuild_enters_partials_and_trash_as_well(site: Site) -> None:
    site.begin()
    on_disk = site.add(1)
    site.end()
    site.catalog_file.unlink()
    site.partials = [(name(1), 10_000), (name(2), 20_000)]  # one of them was published meanwhile
    site.trash_files = [("a.0", 3000), ("b.1", 4000)]
    ledger = site.begin()
    site.whole()
    usage = (site.space.objects, site.space.reserved, site.space.trash)
    assert usage == (on_disk, 20_000, 7000)
    assert [(each.name, each.bytes) for each in ledger.reservations()] == [(name(2), 20_000)]
    assert [(each.file, each.on_disk) for each in ledger.trash()] == [("a.0", 3000), ("b.1", 4000)]
    checked(site.root)


@pytest.mark.parametrize("loss", ["deleted", "damaged"])
def test_a_catalog_that_is_lost_while_it_is_used_is_replaced_in_all(site: Site, loss: str) -> None:
    one, other = site.begin(), site.begin()
    on_disk = site.add(1)
    drawn = site.space.draw(name(2), 300, 900, timeout=1)
    before = os.path.realpath(site.catalog_file)
    if loss == "deleted":
        site.catalog_file.unlink()
    else:
        with pytest.raises(CatalogError):
            one.call(one.catalog.database.db.execute, "DROP TABLE objects")
            one.call(one.catalog.usage)
            one.remove([name(9)])
    until(lambda: os.path.realpath(site.catalog_file) != before)
    until(lambda: site.catalog_file.exists())
    site.whole()
    for sharer in site.sharers:
        sharer.space.refresh()
        assert (sharer.space.objects, sharer.space.reserved) == (on_disk, 300)
    assert one.rebuilds + other.rebuilds == 2, "one of the first start, one now"
    site.space.settle(name(2), drawn.generation, 0)
    assert site.space.reserved == 300, "of the catalog that was lost: for the sweep"
    site.space.settle(name(2), site.space.generation(name(2)), 0)
    assert site.space.reserved == 0
    files = {file for file in os.listdir(site.root) if file.startswith("catalog-")}
    assert len({file.partition(".")[0] for file in files}) == 1, "nothing of the old one is left"
    checked(site.root)


def test_what_closes_the_lost_catalog_does_not_touch_the_journal_of_the_new_one(
    site: Site,
) -> None:
    """SQLite finds journals by name; the last one to close a file removes its journal."""
    site.begin()
    site.begin()
    site.add(1)
    old = site.sharers[1].ledger.catalog
    site.catalog_file.unlink()
    until(lambda: site.sharers[0].ledger.rebuilds + site.sharers[1].ledger.rebuilds == 2)
    site.whole()
    site.add(2)
    site.sharers.pop(0).close()
    assert old.database.current
    site.add(3)
    assert checked(site.root)["count"] == 3


def test_while_another_process_rebuilds_nothing_can_be_drawn(site: Site) -> None:
    ledger = site.begin()
    lock = take_lock(str(site.root / "catalog.lock"))
    site.catalog_file.unlink()
    until(lambda: not site.space.known)
    gevent.sleep(0.2)
    assert not site.catalog_file.exists()
    with pytest.raises(NoSpace, match="not known"):
        site.space.draw(name(1), 1, 1, timeout=1)
    os.close(lock)  # as the kernel does when that process dies
    site.whole()
    assert ledger.rebuilds == 2


def test_a_catalog_that_is_lost_while_it_is_rebuilt_is_rebuilt_whole(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was entered in the first one is in the second one, too, before usage counts."""
    for number in range(10):
        site.object(number)
    listing = ObjectFolder.all
    losses = [5]

    def losing(folder: ObjectFolder) -> Iterator[object]:
        for number, batch in enumerate(listing(folder)):
            if losses == [number]:
                losses.clear()
                create(str(site.catalog_file), policy="s3fifo", size=0)  # by somebody else
            yield batch

    monkeypatch.setattr(ObjectFolder, "all", losing)
    site.begin()
    site.whole()
    assert not losses
    assert site.space.count == 10


def test_a_rebuild_that_fails_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mender_module, "_REBUILD_INTERVAL", 0.05)
    failures = [OSError(5, "EIO"), OSError(5, "EIO")]
    listing = ObjectFolder.all

    def failing(folder: ObjectFolder) -> Iterator[object]:
        if failures:
            raise failures.pop()
        return listing(folder)

    monkeypatch.setattr(ObjectFolder, "all", failing)
    site.object(1)
    site.begin()
    site.whole()
    assert not failures
    assert "catalog rebuild failed" in caplog.text
    assert site.space.count == 1


def test_who_mends_holds_the_lock_until_its_last_call_has_come_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is late, and given up: it would put its catalog over that of the next one."""
    site.object(1)
    site.begin()
    site.whole()
    hangs, go, renew = threading.Event(), threading.Event(), mender_module._renew

    def held(*args: object) -> object:
        hangs.set()
        assert go.wait(20)
        return renew(*args)

    with monkeypatch.context() as patch:
        patch.setattr(mender_module, "_ANSWER_WAIT", 0.1)
        patch.setattr(mender_module, "_renew", held)
        with pytest.raises(CatalogLate):
            site.sharers[0].ledger._mender.try_to_mend()
    assert hangs.is_set()
    path = str(site.root / "catalog.lock")
    assert take_lock(path) < 0
    go.set()
    until(lambda: (lock := take_lock(path)) >= 0 and os.close(lock) is None)
    site.whole()


def test_a_catalog_of_the_format_before_is_set_aside(site: Site) -> None:
    site.begin()
    site.add(1)
    site.sharers[0].call(
        site.sharers[0].ledger.catalog.database.db.execute, "PRAGMA user_version = 1"
    )
    site.end()
    site.begin()
    site.whole()
    assert site.space.count == 1
    assert (site.root / "catalog.sqlite.corrupt").exists()


def test_the_oldest_reservations_come_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = types.SimpleNamespace(time=lambda: clock.now, now=1000.0)
    monkeypatch.setattr("streamcache.cache.account.time", clock)
    ledger = site.begin()
    drawn = {}
    for number in (3, 1, 2):
        drawn[number] = site.space.draw(name(number), 10, 100, timeout=1)
        clock.now += 1
    site.space.settle(name(3), drawn[3].generation, 5)
    assert [each.name for each in ledger.reservations()] == [name(1), name(2), name(3)]
    assert [each.used for each in ledger.reservations(limit=2)] == [1001.0, 1002.0]
    clock.now -= 10_000  # a clock that jumps changes the order, nothing else
    site.space.draw(name(2), 10, 100, timeout=1)
    assert [each.name for each in ledger.reservations(limit=1)] == [name(2)]
    assert site.space.reserved == 35


def test_a_catalog_that_is_being_closed_says_nothing_of_the_disk(site: Site) -> None:
    ledger = site.begin()
    told: list[CatalogError] = []
    ledger._mender.failed = told.append
    ledger._mender.close()
    ledger.pool.call(ledger.catalog.close)
    with pytest.raises(CatalogError, match="closed"):  # the last reader of some trash, say
        ledger.look()
    assert told == []
