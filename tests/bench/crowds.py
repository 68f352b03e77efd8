"""Many connections: idle ones, slow ones, and how workers share them."""

from __future__ import annotations

import threading
import time

from tests.bench import processes, wrk
from tests.bench.client import checking
from tests.bench.driver import Load
from tests.bench.peers import Nginx, Server, StreamCache
from tests.bench.report import Row
from tests.bench.results import OURS, Meter, Sample
from tests.bench.scenario import FILM, FILM_SIZE, SMALL, SMALL_SIZE, Bench, scenario

MB = 1e6


@scenario("hot")
def idle_connections(bench: Bench) -> list[Row]:
    """User memory of an idle keep-alive connection that has had one answer."""
    count = 1_000 if bench.quick else 10_000
    with bench.directory() as there:
        servers = [
            StreamCache(bench.hot, there / "sc", connections=count + 100),
            Nginx(bench.hot, there / "nginx"),
        ]
        with bench.running(*servers) as (running, results):
            bench.warm(running, (SMALL, SMALL_SIZE))
            # Once each: memory that came with the first connections may be taken again.
            bench.alternate(running, results, lambda server: _idle(bench, server, count), rounds=1)
    return [
        results.row(
            f"{count} idle keep-alive connections: user memory each",
            "KB",
            results.best(("nginx",)),
            aim="<= 10 KB (wanted: <= 1 KB)",
            at_most=10.0,
            of_ratio=False,
        )
    ]


def _idle(bench: Bench, server: Server, count: int) -> Sample:
    meter = Meter(server)
    before = server.memory
    cores = bench.cores.load
    with Load("idle", server.address, SMALL, SMALL_SIZE, cores=cores, connections=count) as load:
        load.started()
        grown = server.memory - before
        load.stop()
    return meter.sample(grown / count / 1000)


@scenario("hot")
def slow_readers(bench: Bench) -> list[Row]:
    """Viewers at 50 KB/s, all of one film: what they cost."""
    count = 200 if bench.quick else 1_000
    with bench.directory() as there:
        servers = [StreamCache(bench.hot, there / "sc"), Nginx(bench.hot, there / "nginx")]
        with bench.running(*servers) as (running, results):
            bench.warm(running, (FILM, FILM_SIZE))
            bench.alternate(
                running,
                results,
                lambda server: _slow(bench, server, count),
                rounds=min(3, bench.rounds),
            )
    what = f"{count} readers at 50 KB/s of one film"
    nginx = results.best(("nginx",))
    return [
        results.row(
            f"{what}: user memory over idle",
            "MB",
            nginx,
            aim="<= 12 MB",
            at_most=12.0,
            of_ratio=False,
        ),
        results.cost_row(
            "... CPU, connecting included",
            "s",
            1.0,
            nginx,
            aim="<= nginx's x 1.5",
            at_most=1.5,
        ),
    ]


def _slow(bench: Bench, server: Server, count: int) -> Sample:
    before = server.memory
    seconds = 4 * bench.seconds
    with Load(
        "slow",
        server.address,
        FILM,
        FILM_SIZE,
        cores=bench.cores.load,
        connections=count,
        seconds=seconds,
    ) as load:
        meter = Meter(server)  # what fills the socket buffers at first counts as well
        load.started()
        time.sleep(seconds * 0.8)
        grown = server.memory - before
        said = load.result()
        sample = meter.sample(grown / MB, work=1.0)
    note = "" if said["rate"] > 48_000 else f"only {said['rate'] / 1000:.1f} KB/s each"
    return Sample(sample.value, sample.cpu, sample.seconds, sample.work, note)


@scenario("hot")
def two_workers(bench: Bench) -> list[Row]:
    """Two workers, on the same two cores as the load: CPU per request, and who has how many."""
    cores = bench.cores.all[:2]
    with bench.directory() as there:
        servers = [
            StreamCache(bench.hot, there / "sc", workers=2),
            Nginx(bench.hot, there / "nginx", workers=2, sendfile=False),
        ]
        with bench.running(*servers, cores=cores) as (running, results):
            bench.warm(running, (SMALL, SMALL_SIZE))
            bench.alternate(running, results, lambda server: _shared(bench, server, cores))
    nginx = results.best(("nginx",))
    if OURS in results.absent:
        results.absent[OURS] = f"not available: {results.absent[OURS]}"
    return [
        results.row("two workers, 1 KiB, 64 connections: requests/s", "/s", nginx),
        results.cost_row("... CPU per request", "us", 1e6, nginx, aim="<= nginx's", at_most=1.0),
    ]


def _shared(bench: Bench, server: Server, cores: tuple[int, ...]) -> Sample:
    held: dict[int, int] = {}

    def look() -> None:
        held.update(processes.connections(server.pid, server.address[1]))

    timer = threading.Timer(bench.seconds / 2, look)
    with checking(server.address, SMALL, bench.expected(SMALL, SMALL_SIZE), SMALL_SIZE):
        timer.start()
        meter = Meter(server)
        summary = wrk.run(
            server.address,
            SMALL,
            "plain",
            body=SMALL_SIZE,
            connections=64,
            threads=2,
            seconds=bench.seconds,
            cores=cores,
        )
        timer.join()
        spread = " + ".join(str(number) for number in held.values() if number)
        return meter.sample(summary.rate, summary.requests, f"connections {spread}")
