"""The catalog: rows, totals, order, damage, and cost per object."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamcache.cache.catalog import Catalog
from streamcache.cache.database import CatalogCorrupt, CatalogError, set_aside
from streamcache.cache.entry import NewEntry
from streamcache.cache.policy import PolicyName

GiB = 1 << 30
BOTH: list[PolicyName] = ["s3fifo", "lru"]


def object_name(number: int, version: int = 0) -> str:
    return f"{hashlib.md5(b'%d' % number).hexdigest()}.{version:032x}"


def entry(number: int, on_disk: int = 4096, *, at: float = 0.0, version: int = 0) -> NewEntry:
    return NewEntry(object_name(number, version), f"/a/{number:07d}.mp4", on_disk - 1, on_disk, at)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "catalog.sqlite")


@pytest.fixture(params=BOTH)
def catalog(path: str, request: pytest.FixtureRequest) -> Iterator[Catalog]:
    made = Catalog.open(path, policy=request.param, capacity=GiB)
    yield made
    made.close()


def chosen(
    catalog: Catalog,
    need: int,
    *,
    held: Collection[str] = (),
    limit: int = 64,
    batch: int = GiB,
) -> list[str]:
    victims = catalog.victims(need, held=held, limit=limit, batch=batch)
    return [victim.name for victim in victims]


def test_an_added_object_is_found_by_name_and_key(catalog: Catalog) -> None:
    assert catalog.add(NewEntry(object_name(7), "/x/\udcff ü.mkv", 5000, 8192, 12.5)) == 0
    found = catalog.get(object_name(7))
    assert found is not None
    assert (found.path, found.size, found.on_disk) == ("/x/\udcff ü.mkv", 5000, 8192)
    assert (found.created, found.used, found.hits) == (12.5, 12.5, 0)
    assert catalog.usage() == (8192, 1)
    assert catalog.get(object_name(8)) is None


def test_adding_again_replaces_and_counts_once(catalog: Catalog) -> None:
    catalog.add(entry(1, 4096, at=1.0))
    catalog.touch({object_name(1): 3}, 2.0)
    assert catalog.add(entry(1, 4096, at=5.0)) == 4096
    assert catalog.add(entry(1, 12288, at=6.0)) == 4096
    assert catalog.usage() == (12288, 1)
    found = catalog.get(object_name(1))
    assert found is not None
    assert (found.on_disk, found.created, found.hits) == (12288, 1.0, 3)
    assert chosen(catalog, 1) == [object_name(1)]


def test_a_touch_of_an_unknown_object_is_ignored(catalog: Catalog) -> None:
    catalog.add(entry(1))
    catalog.touch({object_name(1): 2, object_name(9): 1}, 50.0)
    catalog.touch({object_name(1): 1}, 40.0)
    found = catalog.get(object_name(1))
    assert found is not None
    assert (found.used, found.hits) == (50.0, 3)
    assert catalog.usage() == (4096, 1)


def test_victims_stop_at_what_is_needed_at_the_limit_and_at_the_batch(catalog: Catalog) -> None:
    catalog.add(entry(n) for n in range(20))
    assert len(chosen(catalog, 3 * 4096 - 1)) == 3
    assert len(chosen(catalog, GiB, limit=5)) == 5
    assert len(chosen(catalog, GiB, batch=7 * 4096)) == 7
    assert chosen(catalog, 0) == []


def test_a_victim_counts_until_it_is_removed(catalog: Catalog) -> None:
    catalog.add(entry(n) for n in range(4))
    names = chosen(catalog, 2 * 4096)
    assert catalog.usage() == (4 * 4096, 4)
    assert catalog.remove_victims(names) == 2 * 4096
    assert catalog.remove_victims(names) == 0
    assert catalog.usage() == (2 * 4096, 2)


def test_a_victim_that_was_not_removed_is_offered_again(catalog: Catalog) -> None:
    catalog.add(entry(n) for n in range(4))
    first = chosen(catalog, 4096)
    assert chosen(catalog, 4096) == first


def test_a_victim_that_is_held_now_is_put_back(catalog: Catalog) -> None:
    catalog.add(entry(n) for n in range(4))
    (first,) = chosen(catalog, 4096)
    others = chosen(catalog, GiB, held={first})
    assert len(others) == 3
    assert first not in others
    catalog.remove_victims(others)
    assert chosen(catalog, GiB) == [first]


def test_held_objects_are_never_chosen_and_nothing_loops(catalog: Catalog) -> None:
    catalog.add(entry(n) for n in range(100))
    catalog.touch({object_name(n): 3 for n in range(0, 100, 7)}, 1.0)
    held = {object_name(n) for n in range(0, 100, 3)}
    names = chosen(catalog, GiB, held=held, limit=1000)
    assert sorted(names) == sorted({object_name(n) for n in range(100)} - held)
    catalog.remove_victims(names)
    assert chosen(catalog, GiB, held=held) == []


def test_an_object_added_anew_survives_the_end_of_its_eviction(catalog: Catalog) -> None:
    catalog.add(entry(1))
    assert chosen(catalog, 1) == [object_name(1)]
    assert catalog.add(entry(1)) == 4096  # copied again before the Evictor came back
    assert catalog.remove_victims([object_name(1)]) == 0
    assert catalog.usage() == (4096, 1)
    assert catalog.remove([object_name(1)]) == 4096
    assert catalog.usage() == (0, 0)


def test_a_touched_victim_still_goes(catalog: Catalog) -> None:
    catalog.add(entry(1))
    assert chosen(catalog, 1) == [object_name(1)]
    catalog.touch({object_name(1): 1}, 1.0)
    assert catalog.remove_victims([object_name(1)]) == 4096
    assert chosen(catalog, 1) == []


def test_s3fifo_keeps_ghosts_over_a_restart(path: str) -> None:
    catalog = Catalog.open(path, policy="s3fifo", capacity=100 * 4096)
    catalog.add(entry(n) for n in range(50))
    names = chosen(catalog, 4096)
    catalog.remove_victims(names)
    catalog.close()
    catalog = Catalog.open(path, policy="s3fifo", capacity=100 * 4096)
    catalog.add(NewEntry(names[0], "/again", 1, 4096, 1.0))
    assert names[0] not in chosen(catalog, 20 * 4096)
    catalog.close()


def test_another_policy_takes_the_objects_over_by_last_use(path: str) -> None:
    catalog = Catalog.open(path, policy="s3fifo", capacity=GiB)
    catalog.add(entry(n, at=float(n)) for n in range(4))
    catalog.touch({object_name(1): 1}, 100.0)
    chosen(catalog, 4096)
    catalog.close()
    policies: tuple[PolicyName, ...] = ("lru", "s3fifo")
    for policy in policies:
        catalog = Catalog.open(path, policy=policy, capacity=GiB)
        assert chosen(catalog, GiB) == [object_name(n) for n in (0, 2, 3, 1)]
        assert catalog.usage() == (4 * 4096, 4)
        catalog.close()


def test_what_goes_next_is_told_without_reading_all_rows(path: str) -> None:
    catalog = Catalog.open(path, capacity=GiB)
    catalog.add(entry(1))
    queries: list[str] = []
    catalog.database.db.set_trace_callback(queries.append)
    catalog.victims(1)
    catalog.database.db.set_trace_callback(None)
    plans = [
        row[3]
        for query in queries
        if query.startswith("SELECT") and "FROM state" not in query and "queue_" not in query
        for row in catalog.database.db.execute(f"EXPLAIN QUERY PLAN {query}")
    ]
    assert len(plans) >= 2
    assert all("SEARCH" in plan or plan == "USE TEMP B-TREE FOR ORDER BY" for plan in plans), plans
    catalog.close()


def test_it_is_not_complete_after_another_boot_of_the_machine(path: str) -> None:
    catalog = Catalog.open(path, capacity=GiB, boot="first")
    catalog.set_complete()
    catalog.close()
    for alone, boot, complete in (
        (True, "first", True),
        (False, "second", True),  # whoever is there already has looked
        (True, "second", False),
        (True, "second", False),  # and nobody has said so since
    ):
        catalog = Catalog.open(path, capacity=GiB, alone=alone, boot=boot)
        assert catalog.complete is complete
        catalog.close()


def test_names_come_in_pages(path: str) -> None:
    catalog = Catalog.open(path, capacity=GiB)
    names = sorted(object_name(number) for number in range(5))
    catalog.add([entry(number) for number in range(5)])
    assert catalog.names(limit=3) == names[:3]
    assert catalog.names(names[2], limit=3) == names[3:]
    assert catalog.names(names[4]) == []
    catalog.close()


def test_a_path_that_is_known_stays_known(path: str) -> None:
    catalog = Catalog.open(path, capacity=GiB)
    known = entry(1)
    catalog.add(known)
    catalog.add(replace(known, path="", on_disk=known.on_disk + 4096))  # as the disk knows it
    found = catalog.get(known.name)
    assert found is not None and (found.path, found.on_disk) == (known.path, known.on_disk + 4096)
    catalog.close()


def test_it_is_complete_only_when_it_was_said_so(path: str) -> None:
    catalog = Catalog.open(path, capacity=GiB)
    assert not catalog.complete
    catalog.set_complete()
    catalog.close()
    catalog = Catalog.open(path, capacity=GiB)
    assert catalog.complete
    catalog.close()


def test_a_failed_batch_changes_nothing(catalog: Catalog) -> None:
    catalog.add(entry(1))

    def entries() -> Iterator[NewEntry]:
        yield entry(2)
        raise KeyError("broken")

    with pytest.raises(KeyError):
        catalog.add(entries())
    assert catalog.usage() == (4096, 1)
    assert chosen(catalog, GiB) == [object_name(1)]


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b"\0" * 8192])
def test_a_file_that_is_no_database_is_corrupt(path: str, damage: bytes) -> None:
    Path(path).write_bytes(damage)
    with pytest.raises(CatalogCorrupt):
        Catalog.open(path, capacity=GiB)


@pytest.mark.parametrize(
    "statement", ["PRAGMA user_version = 99", "PRAGMA application_id = 1", "DROP TABLE state"]
)
def test_a_foreign_schema_is_corrupt(path: str, statement: str) -> None:
    Catalog.open(path, capacity=GiB).close()
    db = sqlite3.connect(path)
    db.execute(statement)
    db.close()
    with pytest.raises(CatalogCorrupt):
        Catalog.open(path, capacity=GiB)


def test_somebody_elses_database_is_corrupt(path: str) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (a)")
    db.close()
    with pytest.raises(CatalogCorrupt):
        Catalog.open(path, capacity=GiB)


def test_damage_that_shows_later_is_corrupt(path: str) -> None:
    catalog = Catalog.open(path, capacity=GiB)
    catalog.add(entry(n) for n in range(2000))
    catalog.close()
    content = bytearray(Path(path).read_bytes())
    content[5 * 4096 :] = os.urandom(len(content) - 5 * 4096)
    Path(path).write_bytes(content)
    with pytest.raises(CatalogCorrupt):
        catalog = Catalog.open(path, capacity=GiB)
        for number in range(2000):
            catalog.get(object_name(number))
            catalog.touch({object_name(number): 1}, 1.0)


def test_a_place_that_cannot_be_opened_is_an_error_but_not_damage(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        Catalog.open(str(tmp_path / "missing" / "catalog.sqlite"), capacity=GiB)
    assert not isinstance(caught.value, CatalogCorrupt)


def test_a_damaged_catalog_set_aside_makes_room_for_an_empty_one(path: str) -> None:
    Path(path).write_bytes(b"damage" * 1000)
    Path(path + "-wal").write_bytes(b"a journal of other data")
    with pytest.raises(CatalogCorrupt):
        Catalog.open(path, capacity=GiB)
    aside = set_aside(path)
    assert Path(aside).read_bytes().startswith(b"damage")
    catalog = Catalog.open(path, capacity=GiB)
    assert catalog.usage() == (0, 0)
    assert not catalog.complete
    catalog.close()
    assert set_aside(path) == aside


KILLED = """
import sys
from streamcache.cache.catalog import Catalog
from tests.cache.test_catalog import entry, object_name
catalog = Catalog.open(sys.argv[1], capacity=1 << 20)
print("ready", flush=True)
number = 0
while True:
    catalog.add(entry(number + n, 4096 * (1 + n)) for n in range(5))
    catalog.touch({object_name(number): 2}, 1.0)
    if number >= 100:
        catalog.remove_victims([victim.name for victim in catalog.victims(40960)])
    number += 5
"""


def test_totals_are_right_after_sigkill(path: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), path],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    catalog = Catalog.open(path, capacity=1 << 20)
    check_totals(catalog)
    assert catalog.usage()[1] > 20
    catalog.close()


def check_totals(catalog: Catalog) -> None:
    """What is counted is what is there, and each object is in exactly one place."""
    db = catalog.database.db
    assert catalog.usage() == tuple(
        db.execute("SELECT ifnull(sum(blocks), 0), count(*) FROM objects").fetchone()
    )
    counted = db.execute("SELECT * FROM queue_totals WHERE count ORDER BY queue").fetchall()
    assert (
        counted
        == db.execute(
            "SELECT queue, sum(size), count(*) FROM queued GROUP BY queue ORDER BY queue"
        ).fetchall()
    )
    waiting = "SELECT name, blocks FROM objects WHERE leaving = 0 ORDER BY name"
    queued = "SELECT name, size FROM queued WHERE queue != 'ghost' ORDER BY name"
    assert db.execute(waiting).fetchall() == db.execute(queued).fetchall()


class CatalogModel(RuleBasedStateMachine):
    """Any order of calls, against a dictionary."""

    names = st.integers(0, 12)

    def __init__(self) -> None:
        super().__init__()
        self.catalog = Catalog.open(":memory:", capacity=20 * 4096)
        self.on_disk: dict[str, int] = {}
        self.marked: set[str] = set()

    def teardown(self) -> None:
        self.catalog.close()

    @rule(number=names, on_disk=st.integers(0, 9))
    def add(self, number: int, on_disk: int) -> None:
        new = entry(number, on_disk * 4096)
        assert self.catalog.add(new) == self.on_disk.get(new.name, 0)
        self.on_disk[new.name] = new.on_disk
        self.marked.discard(new.name)

    @rule(numbers=st.dictionaries(names, st.integers(1, 4)))
    def touch(self, numbers: dict[int, int]) -> None:
        self.catalog.touch({object_name(n): count for n, count in numbers.items()}, 1.0)

    @rule(need=st.integers(0, 40), held=st.sets(names), limit=st.integers(1, 5))
    def victims(self, need: int, held: set[int], limit: int) -> None:
        leased = {object_name(number) for number in held}
        got = self.catalog.victims(need * 4096, held=leased, limit=limit)
        self.marked -= leased
        names = {victim.name for victim in got}
        assert len(names) == len(got) <= limit
        assert not names & leased
        assert all(self.on_disk[victim.name] == victim.on_disk for victim in got)
        freed = sum(victim.on_disk for victim in got)
        enough = freed >= need * 4096 or len(got) == limit
        assert enough or names == set(self.on_disk) - leased
        self.marked |= names

    @rule(numbers=st.sets(names))
    def remove(self, numbers: set[int]) -> None:
        names = {object_name(number) for number in numbers}
        assert self.catalog.remove(names) == sum(self.on_disk.pop(name, 0) for name in names)
        self.marked -= names

    @rule(numbers=st.sets(names))
    def remove_victims(self, numbers: set[int]) -> None:
        names = {object_name(number) for number in numbers} & self.marked
        assert self.catalog.remove_victims(names) == sum(self.on_disk.pop(name) for name in names)
        self.marked -= names

    @invariant()
    def counts_what_is_there(self) -> None:
        check_totals(self.catalog)
        assert self.catalog.usage() == (sum(self.on_disk.values()), len(self.on_disk))


TestCatalogModel = CatalogModel.TestCase
TestCatalogModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def filled(path: str, count: int) -> Catalog:
    """A catalog of `count` objects, the rows written straight into its tables."""
    Catalog.open(path, capacity=count * 4096).close()
    db = sqlite3.connect(path)
    names = [bytes.fromhex(object_name(n).replace(".", "")) for n in range(count)]
    db.executemany(
        "INSERT INTO objects VALUES (?, ?, 4096, 4096, 1, 1, 0, 0)",
        ((name, b"/films/%d.mp4" % n) for n, name in enumerate(names)),
    )
    db.executemany(
        "INSERT INTO queued VALUES (?, 'main', ?, 4096, 0)",
        ((name, n) for n, name in enumerate(names)),
    )
    db.execute("INSERT INTO queue_totals VALUES ('main', ?, ?)", (count * 4096, count))
    db.execute("UPDATE queue_state SET seq = ?, evicted = 1", (count,))
    db.execute("UPDATE state SET objects = ?, count = ?", (count * 4096, count))
    db.commit()
    db.close()
    return Catalog.open(path, capacity=count * 4096)


def test_cost_per_object_does_not_grow_with_the_catalog(tmp_path: Path) -> None:
    """Per object, with 30 times as many objects: within 2x, and as much again for noise.

    In time of the processor, with both in turn, as the machine may have other work.
    """

    def add(catalog: Catalog, count: int, index: int) -> None:
        catalog.add(entry(1_000_000 + index * 64 + n) for n in range(64))

    def evict(catalog: Catalog, count: int, index: int) -> None:
        names = [victim.name for victim in catalog.victims(64 * 4096)]
        assert len(names) == 64
        assert catalog.remove_victims(names) == 64 * 4096

    def touch(catalog: Catalog, count: int, index: int) -> None:
        catalog.touch({object_name((index * 64 + n) * 7919 % count): 1 for n in range(64)}, 9.0)

    counts = (5_000, 150_000)
    found: list[tuple[str, float, float]] = []
    with contextlib.ExitStack() as stack:
        catalogs = [filled(str(tmp_path / f"{count}.sqlite"), count) for count in counts]
        for catalog in catalogs:
            stack.callback(catalog.close)
        for work in (add, evict, touch):
            times: dict[int, list[float]] = {count: [] for count in counts}
            for index in range(15):
                for catalog, count in zip(catalogs, counts, strict=True):
                    start = time.thread_time()
                    work(catalog, count, index)
                    times[count].append(time.thread_time() - start)
            small, large = (statistics.median(times[count]) for count in counts)
            found.append((work.__name__, small, large))
    assert all(large < 4 * small for _, small, large in found), found
