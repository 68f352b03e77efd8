"""What large answers do to small ones: the hub must serve a hit while it serves films."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from tests.bench import wrk
from tests.bench.client import checking
from tests.bench.driver import Load
from tests.bench.peers import Nginx, Server, StreamCache
from tests.bench.report import Row
from tests.bench.results import Meter, Sample
from tests.bench.scenario import FILM, FILM_SIZE, SMALL, SMALL_SIZE, Bench, MiB, scenario

BASELINE = 1.0  # s
STALLS = 9  # runs of each server: one longest wait is as much the machine's as the server's
WATCHERS = 8  # connections that ask for the small file


@scenario("hot")
def beside_downloads(bench: Bench) -> list[Row]:
    """p99 of 1 KiB requests while 64 films are downloaded."""
    with bench.directory() as there:
        servers = [StreamCache(bench.hot, there / "sc"), Nginx(bench.hot, there / "nginx")]
        with bench.running(*servers) as (running, results):
            bench.warm(running, (SMALL, SMALL_SIZE), (FILM, FILM_SIZE))
            bench.alternate(running, results, lambda server: _beside(bench, server), rounds=5)
    what = "p99 of 1 KiB requests (8 connections) while 64 downloads run"
    return [results.row(what, "ms", results.best(("nginx",)), aim="<= nginx's x 1.2", at_most=1.2)]


def _beside(bench: Bench, server: Server) -> Sample:
    cores = bench.cores.load
    with Load(
        "bulk",
        server.address,
        FILM,
        FILM_SIZE,
        cores=cores,
        nice=10,  # on one core with what is timed: that goes first
        connections=64,
        seconds=bench.seconds + 1.5,
    ) as load:
        load.started()
        with checking(server.address, SMALL, bench.expected(SMALL, SMALL_SIZE), SMALL_SIZE):
            meter = Meter(server)
            summary = wrk.run(
                server.address,
                SMALL,
                "plain",
                body=SMALL_SIZE,
                connections=WATCHERS,
                seconds=bench.seconds,
                cores=cores,
            )
            sample = meter.sample(summary.p99 * 1000, summary.requests)
        said = load.result()
    rate = said["bytes"] / said["seconds"] / 1e9
    note = f"median {summary.p50 * 1000:.2f} ms, downloads {rate:.2f} GB/s"
    return Sample(sample.value, sample.cpu, sample.seconds, sample.work, note)


@scenario("hot")
def cold_pages(bench: Bench) -> list[Row]:
    """The longest wait of a small hit while a cached film is read from the local disk."""
    with bench.directory() as there:
        ours = StreamCache(bench.hot, there / "sc")
        servers = [ours, Nginx(bench.hot, there / "nginx")]
        with bench.running(*servers) as (running, results):
            bench.warm(running, (SMALL, SMALL_SIZE), (FILM, FILM_SIZE))
            film = next(path for path in ours.objects() if path.stat().st_size == FILM_SIZE)
            files = {ours.name: film, "nginx": bench.hot / FILM}
            bench.alternate(
                running, results, lambda server: _stall(bench, server, files), rounds=STALLS
            )
    return [
        results.row(
            "longest wait of a 1 KiB hit, beyond the usual, while 256 MiB come from the disk",
            "ms",
            results.best(("nginx",)),
            aim="<= 3 ms",
            at_most=3.0,
            of_ratio=False,
        )
    ]


def _stall(bench: Bench, server: Server, files: dict[str, Path]) -> Sample:
    cores = bench.cores.load
    with Load("probe", server.address, SMALL, SMALL_SIZE, cores=cores) as probe:
        probe.started()
        time.sleep(BASELINE)
        usual = probe.stop()
    make_cold(files[server.name])
    with Load("probe", server.address, SMALL, SMALL_SIZE, cores=cores) as probe:
        probe.started()
        meter = Meter(server)
        with Load("bulk", server.address, FILM, FILM_SIZE, cores=cores, nice=5) as load:
            load.started()
            said = load.result()
        during = probe.stop()
        stall = (during["longest"] - usual["median"]) * 1000
        note = (
            f"p99 {during['p99'] * 1000:.2f} ms; without it: median {usual['median'] * 1000:.2f}, "
            f"longest {usual['longest'] * 1000:.2f} ms; read at "
            f"{said['bytes'] / said['seconds'] / MiB:.0f} MiB/s"
        )
        return meter.sample(stall, note=note)


def make_cold(path: Path) -> None:
    """Take a file's pages out of the page cache. RuntimeError: they are still there."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(fd).st_size
        buffer = [bytearray(1)]
        cached = 0
        for offset in range(0, size, MiB):
            try:
                cached += os.preadv(fd, buffer, offset, os.RWF_NOWAIT)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
        if cached > size // MiB // 20:
            raise RuntimeError(f"{path} stays in the page cache ({cached} of {size // MiB} probes)")
    finally:
        os.close(fd)
