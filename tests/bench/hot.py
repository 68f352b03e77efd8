"""Hot files: one streamcache against one worker of nginx, the load on other cores than the server.

Everything is in the page cache. streamcache has all its duties: each field parsed, Range and
conditionals looked at, a log line per response, counters, timeouts, revalidation. nginx does
without its log where that is faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.bench import wrk
from tests.bench.client import checking
from tests.bench.driver import Load
from tests.bench.peers import Nginx, NginxSlice, PythonPeer, Server, StreamCache, Varnish
from tests.bench.report import Row
from tests.bench.results import Meter, Results, Sample
from tests.bench.scenario import FILM, FILM_SIZE, SMALL, SMALL_SIZE, Bench, GiB, KiB, scenario

CONNECTIONS = 64
NGINX = "nginx"
NO_SENDFILE = "nginx sendfile off"
LOGGING = "nginx sendfile off, log"


def _nginx(bench: Bench, there: Path, name: str) -> Server:
    """sendfile costs a call more than it saves with small files: the better setting counts."""
    sendfile, log = name == NGINX, name == LOGGING
    directory = there / name.replace(" ", "-")
    return Nginx(bench.hot, directory, name=name, sendfile=sendfile, access_log=log)


@contextlib.contextmanager
def _site(
    bench: Bench, *settings: str, caches: bool = False
) -> Iterator[tuple[list[Server], Results]]:
    """streamcache and nginx, warm; with ``caches`` also what fetches from an (nginx) origin."""
    with bench.directory() as there:
        servers: list[Server] = [StreamCache(bench.hot, there / "sc")]
        servers += [_nginx(bench, there, name) for name in settings]
        with contextlib.ExitStack() as stack:
            if caches:
                [origin], _ = stack.enter_context(
                    bench.running(Nginx(bench.hot, there / "origin"), cores=bench.cores.load)
                )
                servers.append(NginxSlice(origin.address, there / "slice"))
                servers.append(Varnish(origin.address, there / "varnish"))
            running, results = stack.enter_context(bench.running(*servers))
            bench.warm(running, (SMALL, SMALL_SIZE), (FILM, FILM_SIZE))
            yield running, results


def small_requests(
    bench: Bench,
    server: Server,
    *kind: str,
    name: str = SMALL,
    size: int = SMALL_SIZE,
    length: int = SMALL_SIZE,
    connections: int = CONNECTIONS,
) -> Sample:
    """wrk for one round, and beside it a client that compares; value: requests/s."""
    with checking(server.address, name, bench.expected(name, size), length):
        meter = Meter(server)
        summary = wrk.run(
            server.address,
            name,
            *(kind or ("plain",)),
            body=length,
            connections=connections,
            seconds=bench.seconds,
            cores=bench.cores.load,
        )
        return meter.sample(summary.rate, summary.requests)


@scenario("hot")
def small(bench: Bench) -> list[Row]:
    """1 KiB, keep-alive, 64 connections, the same request again and again."""
    with _site(bench, NGINX, NO_SENDFILE, LOGGING, caches=True) as (servers, results):
        bench.alternate(servers, results, lambda server: small_requests(bench, server))
    best = results.best((NGINX, NO_SENDFILE, LOGGING))
    what = "1 KiB, keep-alive, 64 connections"
    return [
        results.row(f"{what}: requests/s", "/s", best, aim=">= 1.2", at_least=1.2, loaded=True),
        results.cost_row("... CPU per request", "us", 1e6, best, aim="<= 1.0", at_most=1.0),
    ]


@scenario("hot")
def headers(bench: Bench) -> list[Row]:
    """The same with a header block that is different in each request."""
    with _site(bench, NGINX, NO_SENDFILE) as (servers, results):
        bench.alternate(servers, results, lambda server: small_requests(bench, server, "headers"))
    best = results.best((NGINX, NO_SENDFILE))
    what = "1 KiB, header block different in each request"
    return [
        results.row(f"{what}: requests/s", "/s", best, aim=">= 0.9", at_least=0.9, loaded=True),
        results.cost_row("... CPU per request", "us", 1e6, best),
    ]


@scenario("hot")
def ranges(bench: Bench) -> list[Row]:
    """Random ranges of a film."""
    rows = []
    with _site(bench, NGINX, NO_SENDFILE) as (servers, absent):
        for length in (16 * KiB, 64 * KiB):
            results = Results(absent=absent.absent)

            def once(server: Server, length: int = length) -> Sample:
                kind = ("ranges", str(FILM_SIZE), str(length))
                return small_requests(
                    bench, server, *kind, name=FILM, size=FILM_SIZE, length=length
                )

            bench.alternate(servers, results, once)
            best = results.best((NGINX, NO_SENDFILE))
            what = f"{length // KiB} KiB random ranges of 256 MiB"
            rows += [
                results.row(
                    f"{what}: requests/s", "/s", best, aim=">= 1.0", at_least=1.0, loaded=True
                ),
                results.cost_row("... CPU per request", "us", 1e6, best),
            ]
    return rows


def downloads(bench: Bench, server: Server, connections: int) -> Sample:
    """Whole films over some connections for one round; value: GB/s."""
    with Load(
        "bulk",
        server.address,
        FILM,
        FILM_SIZE,
        cores=bench.cores.load,
        connections=connections,
        seconds=bench.seconds,
    ) as load:
        load.started()
        meter = Meter(server)
        said = load.result()
        note = f"load tool busy {said['busy']:.0%}" if said["busy"] > 0.8 else ""
        return meter.sample(said["bytes"] / said["seconds"] / 1e9, said["bytes"] / GiB, note)


@scenario("hot")
def bulk(bench: Bench) -> list[Row]:
    """256 MiB, 1, 16 and 64 downloads at once."""
    rows = []
    with _site(bench, NGINX, caches=True) as (servers, absent):
        for connections in (1, 16, 64):
            results = Results(absent=absent.absent)

            def once(server: Server, connections: int = connections) -> Sample:
                return downloads(bench, server, connections)

            bench.alternate(servers, results, once)
            best = results.best((NGINX,))
            what = f"256 MiB GET, {connections} connection{'s' if connections > 1 else ''}"
            rows += [
                results.row(
                    f"{what}: throughput", "GB/s", best, aim=">= 1.0", at_least=1.0, loaded=True
                ),
                results.cost_row("... CPU", "s/GiB", 1.0, best, aim="<= 1.1", at_most=1.1),
            ]
    return rows


@scenario("hot")
def python_peers(bench: Bench) -> list[Row]:
    """1 KiB against what else serves files in Python."""
    with bench.directory() as there:
        servers: list[Server] = [
            StreamCache(bench.hot, there / "sc"),
            PythonPeer("pywsgi", bench.hot, there / "pywsgi"),
            PythonPeer("aiohttp", bench.hot, there / "aiohttp"),
        ]
        with bench.running(*servers) as (running, results):
            bench.warm(running, (SMALL, SMALL_SIZE))
            bench.alternate(running, results, lambda server: small_requests(bench, server))
    best = results.best(("pywsgi", "aiohttp"))
    return [
        results.row(
            "1 KiB against the best Python peer: requests/s",
            "/s",
            best,
            aim=">= 8",
            at_least=8,
            loaded=True,
        ),
        results.cost_row("... CPU per request", "us", 1e6, best),
    ]
