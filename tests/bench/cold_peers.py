"""Cold files: streamcache beside what users would pick, all with a source of the same slowness.

streamcache, rclone and the bare nginx read the slow mount (20 ms a read, 20 MiB/s, 5 ms for each
other operation). nginx with slices and Varnish fetch from an HTTP origin that answers 20 ms after
a request and sends at the same rate; it has no look-ups, which is in their favour. Each figure is
taken with empty caches.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.bench.client import Get
from tests.bench.cold import BANDWIDTH, FILM, LATENCY, film_directory, size_of_film
from tests.bench.peers import Nginx, NginxSlice, Origin, Rclone, Server, StreamCache, Varnish
from tests.bench.programs import NotHere
from tests.bench.report import Row
from tests.bench.results import OURS, Meter, Results, Sample
from tests.bench.scenario import Bench, MiB, scenario
from tests.content import write
from tests.slowfs import SlowFS

PEERS = ("nginx slice", "Varnish", "rclone", "nginx on the mount")
CROWD = 50


@dataclass(frozen=True, slots=True)
class Site:
    """One server with an empty cache, and what its source gave away so far."""

    server: Server
    source_bytes: Callable[[], int]


@contextlib.contextmanager
def _site(bench: Bench, name: str) -> Iterator[Site]:
    """Raises NotHere."""
    files = film_directory(bench)
    with bench.directory() as there, contextlib.ExitStack() as stack:
        if name in ("nginx slice", "Varnish"):
            # Not on the core of the servers that are measured; it is no server that counts.
            origin = stack.enter_context(Origin(files, there / "origin", LATENCY, BANDWIDTH))
            kind = NginxSlice if name == "nginx slice" else Varnish
            server: Server = kind(origin.address, there / "server")
            yield Site(stack.enter_context(server), origin.bytes_sent)
            return
        fs = stack.enter_context(SlowFS(files))
        made = {
            OURS: lambda: StreamCache(fs.path, there / "server"),
            "rclone": lambda: Rclone(fs.path, there / "server"),
            "nginx on the mount": lambda: Nginx(fs.path, there / "server", name=name),
        }
        server = stack.enter_context(made[name]())
        fs.reset()
        yield Site(server, lambda: fs.counters(FILM).bytes_read)


def _each(bench: Bench, once: Callable[[Site], dict[str, Sample]]) -> dict[str, Results]:
    """Run each server once; results by what was measured."""
    found: dict[str, Results] = {}
    absent = {}
    for name in (OURS, *PEERS):
        try:
            with _site(bench, name) as site:
                for what, sample in once(site).items():
                    found.setdefault(what, Results()).samples[name] = [sample]
        except (NotHere, RuntimeError) as why:  # a peer that cannot do it is no failure of ours
            if name == OURS:
                raise
            absent[name] = str(why)
    for results in found.values():
        results.absent.update(absent)
    return found


@scenario("cold")
def against_peers(bench: Bench) -> list[Row]:
    """A film and a seek in it, from empty caches, in streamcache and in its peers."""
    size = size_of_film(bench)
    film = bench.expected(FILM, size)

    def once(site: Site) -> dict[str, Sample]:
        meter = Meter(site.server)
        player = Get(site.server.address, FILM, film)
        player.start()
        player.join(1.0)
        seek = Get(site.server.address, FILM, film, size * 9 // 10, size * 9 // 10 + MiB)
        seek.start()
        sought, played = seek.result().require(), player.result().require()
        sent = site.source_bytes()
        values = {
            "first byte": played.first_byte * 1000,
            "first byte of a seek to 90 % meanwhile": sought.first_byte * 1000,
            "... the whole MiB of it": sought.done * 1000,
            "... the film of the player": played.done,
            "... bytes from the source / size": sent / size,
        }
        return {what: meter.sample(value) for what, value in values.items()}

    units = ("ms", "ms", "ms", "s", "")
    found = _each(bench, once)
    return [
        _row(f"cold {size // MiB} MiB film: {what}" if what[0] != "." else what, unit, results)
        for (what, results), unit in zip(found.items(), units, strict=True)
    ]


@scenario("cold")
def crowd_against_peers(bench: Bench) -> list[Row]:
    """Fifty clients ask for a cold film at the same moment, in streamcache and in its peers."""
    size = size_of_film(bench)
    film = bench.expected(FILM, size)

    def once(site: Site) -> dict[str, Sample]:
        meter = Meter(site.server)
        clients = [Get(site.server.address, FILM, film) for _ in range(CROWD)]
        for client in clients:
            client.start()
        answers = [client.result().require() for client in clients]
        sent = site.source_bytes()
        return {
            "source bytes / size": meter.sample(sent / size),
            "the last one": meter.sample(max(answer.done for answer in answers)),
            "the last first byte": meter.sample(
                max(answer.first_byte for answer in answers) * 1000
            ),
        }

    found = _each(bench, once)
    return [
        _row(f"{CROWD} clients at once: {what}", unit, results)
        for (what, results), unit in zip(found.items(), ("", "s", "ms"), strict=True)
    ]


def _row(what: str, unit: str, results: Results) -> Row:
    """Beside the best peer; less is better in all of them."""
    return results.row(what, unit, results.best(PEERS, more=False))


@scenario("cold")
def many_files(bench: Bench) -> list[Row]:
    """Two hundred clients, each with a cold file of its own: who waits for whom?"""
    count = 50 if bench.quick else 200
    size = MiB
    with bench.directory() as files:
        names = [f"{number}.mkv" for number in range(count)]
        for name in names:
            write(files, name, size)
        with (
            bench.directory() as there,
            SlowFS(files) as fs,
            StreamCache(fs.path, there / "server") as server,
        ):
            meter = Meter(server)
            clients = [Get(server.address, name, bench.expected(name, size)) for name in names]
            for client in clients:
                client.start()
            answers = [client.result().require() for client in clients]
            sample = meter.sample(math.nan)
            counters = fs.counters()
    done = [answer.done for answer in answers]
    firsts = sorted(answer.first_byte for answer in answers)
    # Each needs a look-up, an open and 64 KiB before its first byte; bandwidth bounds them all.
    ideal = LATENCY + count * 64 * 1024 / BANDWIDTH
    return [
        Row(
            f"{count} cold files of 1 MiB at once: slowest / fastest client",
            max(done) / min(done),
            aim="<= 1.5",
            at_most=1.5,
            cpu=sample.cpu,
            note=f"fastest {min(done):.2f} s, slowest {max(done):.2f} s; "
            f"source bytes / size {counters.bytes_read / size / count:.4f}",
        ),
        Row(
            "... the last first byte",
            firsts[-1],
            "s",
            ideal,
            "(ideal: the first 64 KiB of each, and nothing else)",
            note=f"first {firsts[0]:.3f} s, median {firsts[count // 2]:.3f} s",
        ),
        Row(
            "... the last file",
            max(done),
            "s",
            LATENCY + count * size / BANDWIDTH,
            "(ideal: bandwidth)",
        ),
    ]
