"""A million objects in the cache: the start, what each costs, and eviction while serving.

The cache is made with the product's own classes, not by copying a million files: rows in the
catalog, and for each an empty file under its name. The rows say 64 KiB each.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from streamcache.cache.account import Order
from streamcache.cache.catalog import Catalog
from streamcache.cache.entry import NewEntry
from streamcache.cache.store import Store
from tests.bench.beside import make_cold
from tests.bench.client import get
from tests.bench.driver import Load
from tests.bench.peers import StreamCache
from tests.bench.report import Row
from tests.bench.results import Meter, Sample
from tests.bench.scenario import SMALL, SMALL_SIZE, Bench, KiB, scenario
from tests.content import write

BLOCKS = 64 * KiB  # of each object, as the catalog has it
FEW = 10_000
BATCH = 64  # objects, as the Evictor takes them
ROUNDS = 40
PROBED = 3.0  # s
PATIENCE = 120.0  # s for an eviction


@scenario("cold")
def million_objects(bench: Bench) -> list[Row]:
    """A million objects: start to first hit, cost per object, eviction of a tenth of them."""
    count = 50_000 if bench.quick else 1_000_000
    with bench.directory() as there:
        source = there / "source"
        write(source, SMALL, SMALL_SIZE)
        fill(there / "few" / "cache", FEW)
        fill(there / "many" / "cache", count)
        room = 2 * count * BLOCKS
        with _server(source, there, room) as server:  # youngest of all, so it is not evicted
            bench.warm([server], (SMALL, SMALL_SIZE))
        return [
            _start(bench, source, there, room, count),
            *_costs(there, count),
            _eviction(bench, source, there, room, count),
        ]


def fill(directory: Path, count: int) -> None:
    """Make a cache directory with so many objects, all of them in the catalog and on the disk."""
    store = Store(str(directory))
    store.prepare()
    catalog = Catalog.open(
        str(directory / "catalog.sqlite"), capacity=count * BLOCKS, boot=store.boot
    )
    for folder in range(256):
        (directory / "objects" / f"{folder:02x}").mkdir(exist_ok=True)
    for first in range(0, count, 10_000):
        batch = list(_entries(first, min(first + 10_000, count)))
        for entry in batch:
            path = f"{directory}/objects/{entry.name[:2]}/{entry.name}"
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        catalog.add(batch)
    catalog.set_complete()
    catalog.close()
    store.close()


def _entries(first: int, end: int) -> Iterator[NewEntry]:
    for number in range(first, end):
        digest = hashlib.blake2b(str(number).encode(), digest_size=32).hexdigest()
        name = f"{digest[:32]}.{digest[32:]}"
        yield NewEntry(name, f"films/{number}.mkv", BLOCKS, BLOCKS, 1.0 + number)


def _server(source: Path, there: Path, size: int) -> StreamCache:
    flags = ("--cache-size", str(size), "--log-level", "info")
    return StreamCache(source, there / "many", *flags)


def _start(bench: Bench, source: Path, there: Path, room: int, count: int) -> Row:
    """From the start of the process to the last byte of a hit; the catalog is not in memory."""
    samples = []
    for _ in range(3):
        make_cold(there / "many" / "cache" / "catalog.sqlite")
        began = time.monotonic()
        with _server(source, there, room) as server:
            expected = bench.expected(SMALL, SMALL_SIZE)
            answer = get(server.address, SMALL, expected).require()
            seconds = time.monotonic() - began
            if "hit" not in answer.cache_status:
                raise RuntimeError(f"not a hit: {answer.cache_status}")
            samples.append(Sample(seconds, server.cpu, seconds))
    return Row(
        f"{count} objects: from the start of the process to the end of the first hit",
        statistics.median(sample.value for sample in samples),
        "s",
        aim="< 1 s",
        at_most=1.0,
        cpu=statistics.median(sample.cpu for sample in samples),
        note="the catalog not in the page cache; 3 rounds",
    )


def _costs(there: Path, count: int) -> list[Row]:
    """us per object with few and with many others, taken in turn; both in the page cache."""
    for name in ("few", "many"):
        warm(there / name / "cache" / "catalog.sqlite")
    works = {
        number: _work(there / name / "cache", number)
        for name, number in (("few", FEW), ("many", count))
    }
    times: dict[tuple[str, int], list[float]] = {}
    for turn in range(ROUNDS):
        for number, (_catalog, work) in works.items():
            for what, call in work.items():
                began = time.perf_counter()
                call(turn)
                seconds = time.perf_counter() - began
                times.setdefault((what, number), []).append(seconds / BATCH * 1e6)
    for catalog, _work_of_it in works.values():
        catalog.close()
    return [
        Row(
            f"{what}, per object: {count} objects beside {FEW}",
            statistics.median(times[what, count]),
            "us",
            statistics.median(times[what, FEW]),
            f"with {FEW}",
            "<= 2.0",
            at_most=2.0,
            of_ratio=True,
            note=f"{ROUNDS} times {BATCH}; both catalogs in the page cache",
        )
        for what in next(iter(works.values()))[1]
    ]


def warm(path: Path) -> None:
    """Read a file, so that it is in the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def _work(directory: Path, count: int) -> tuple[Catalog, dict[str, Callable[[int], None]]]:
    catalog = Catalog.open(str(directory / "catalog.sqlite"), capacity=count * BLOCKS)
    names = [entry.name for entry in _entries(2 * 10**7, 2 * 10**7 + BATCH)]

    def reserve(_turn: int) -> None:
        for name in names:  # drawn and given back, a transaction each
            order = catalog.account.draw(Order(name, BLOCKS, BLOCKS, 2 * count * BLOCKS))
            if not (order.granted and catalog.account.settle(name, order.generation, 0)):
                raise RuntimeError("the catalog did not reserve what it should")

    def add(turn: int) -> None:
        for entry in _entries(10**7 + turn * BATCH, 10**7 + (turn + 1) * BATCH):
            catalog.add(entry)  # one transaction each, as when it is published

    def evict(_turn: int) -> None:
        names = [victim.name for victim in catalog.victims(BATCH * BLOCKS, limit=BATCH)]
        if catalog.remove_victims(names) != BATCH * BLOCKS:
            raise RuntimeError("the catalog did not evict what it should")

    return catalog, {"reserve": reserve, "enter": add, "evict": evict}


def _eviction(bench: Bench, source: Path, there: Path, room: int, count: int) -> Row:
    """Start with a size at which a tenth has to go; what that adds to the p99 of hits."""
    with _server(source, there, room) as server:
        usual = _probe_while(bench, server, lambda: time.sleep(PROBED))
    with _server(source, there, round(count * BLOCKS * 1.05)) as server:
        meter = Meter(server)
        began = time.monotonic()

        def evicted() -> None:
            while "evicted objects=" not in server.log:
                if time.monotonic() > began + PATIENCE:
                    raise RuntimeError("nothing was evicted")
                time.sleep(0.05)

        during = _probe_while(bench, server, evicted)
        sample = meter.sample(0.0)
        line = next(line for line in server.log.splitlines() if "evicted objects=" in line)
        objects = int(line.partition("evicted objects=")[2].split()[0])
    return Row(
        f"eviction of {objects} objects while serving: added to the p99 of 1 KiB hits",
        (during["p99"] - usual["p99"]) * 1000,
        "ms",
        aim="< 5 ms",
        at_most=5.0,
        cpu=sample.cpu,
        note=f"it took {sample.seconds:.1f} s; p99 {during['p99'] * 1000:.2f} ms, before "
        f"{usual['p99'] * 1000:.2f} ms; longest {during['longest'] * 1000:.1f} ms",
    )


def _probe_while(bench: Bench, server: StreamCache, wait: Callable[[], None]) -> dict[str, float]:
    cores = bench.cores.all
    with Load("probe", server.address, SMALL, SMALL_SIZE, cores=cores, pause=0.0005) as probe:
        probe.started()
        wait()
        return probe.stop()
