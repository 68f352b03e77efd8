"""One scrape is the whole server: exact numbers over workers, also over those that were killed."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_text

from streamcache.admin.answers import Question, Refusal
from streamcache.admin.board import Board
from streamcache.admin.metrics import Metrics
from streamcache.config import Config
from streamcache.stats import Counters, Statistics
from tests.admin.asking import Admin, eventually
from tests.content import content
from tests.daemon_process import DaemonProcess
from tests.requirements import program

FILM, SMALL = 3_000_000, 1_000

Scrape = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(admin: Admin) -> Scrape:
    told = admin.ask("GET", "/metrics")
    assert told.status == 200
    assert told.fields["content-type"].startswith("text/plain; version=")
    return {
        (sample.name.removeprefix("streamcache_"), tuple(sorted(sample.labels.items()))): (
            sample.value
        )
        for family in read_text(told.body.decode())
        for sample in family.samples
    }


def at(found: Scrape, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def metrics(board: Board) -> Metrics:
    subject = SimpleNamespace(
        board=board, draining_since=lambda: None, cache=SimpleNamespace(config=Config())
    )
    return Metrics(subject)


def traffic(server: DaemonProcess) -> int:
    """2 misses, 15 hits with 200, 5 with 206, 2 with 304, 4 of nothing, 1 that is not allowed.

    And HEADs; the number of all requests.
    """
    count = 0

    def ask(method: str, path: str, **fields: str) -> http.client.HTTPResponse:
        nonlocal count
        count += 1
        client = http.client.HTTPConnection(*server.address, timeout=20)
        sent = {name.replace("_", "-"): value for name, value in fields.items()}
        client.request(method, path, headers=sent)
        answer = client.getresponse()
        answer.read()
        client.close()
        return answer

    for path in ("/film.mp4", "/small"):
        assert ask("GET", path).getheader("Cache-Status", "").endswith("stored")
        eventually(lambda path=path: ask("HEAD", path).getheader("Cache-Status", "")[-3:] == "hit")
    tags = [ask("HEAD", "/film.mp4").getheader("ETag") or "" for _ in range(3)]
    for _ in range(5):
        assert ask("GET", "/film.mp4").status == 200
        assert ask("GET", "/film.mp4", Range="bytes=2000000-2000999").status == 206
    for _ in range(10):
        assert ask("GET", "/small").status == 200
    for tag in tags[:2]:
        assert ask("GET", "/film.mp4", If_None_Match=tag).status == 304
    for _ in range(4):
        assert ask("GET", "/none").status == 404
    assert ask("DELETE", "/small").status == 405
    return count


def test_known_traffic_over_two_workers_is_exactly_what_is_scraped_also_after_a_death(
    daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    source = tmp_path / "films"
    source.mkdir()
    for name, size in (("film.mp4", FILM), ("small", SMALL)):
        (source / name).write_bytes(content(name, 0, size))
        os.utime(source / name, (1, 1))
    server = daemon(source, workers=2)
    admin = Admin(server.admin)
    asked = traffic(server)
    found = eventually(lambda: (now := scraped(admin)) and _requests(now) == asked and now)

    assert at(found, "requests_total", cache="hit", code="3xx") == 2
    assert at(found, "requests_total", cache="miss", code="4xx") == 4  # nothing there to hit
    # HEADs were asked until the copies were published: those before that began none.
    assert at(found, "requests_total", cache="hit", code="2xx") >= 15 + 5 + 3 + 2
    assert at(found, "response_bytes_total", cache="hit", code="2xx") == (
        5 * FILM + 5 * 1000 + 10 * SMALL
    )
    assert at(found, "response_bytes_total", cache="miss", code="2xx") == FILM + SMALL
    assert at(found, "source_read_bytes_total") == FILM + SMALL
    assert at(found, "copies_total", result="finished") == at(found, "copies_started_total") == 2
    assert (at(found, "cache_objects"), at(found, "cache_limit_bytes")) == (2, 2_000_000_000)
    assert at(found, "cache_high_watermark_bytes") == 1_900_000_000
    assert at(found, "workers", state="running") == 2
    for cache in ("hit", "miss"):
        answers = sum(at(found, "requests_total", cache=cache, code=f"{n}xx") for n in range(2, 6))
        for name in ("first_byte_seconds", "response_duration_seconds"):
            assert at(found, f"{name}_count", cache=cache) == answers
            assert at(found, f"{name}_bucket", cache=cache, le="+Inf") == answers
    # The first block of each file was read with its opening.
    assert at(found, "source_read_seconds_count") == at(found, "source_reads_total") - 2
    assert at(found, "delegated_read_wait_seconds_count") == at(found, "delegated_reads_total") > 0
    assert at(found, "hub_lag_seconds_count") > 0
    assert at(found, "worker_resident_memory_bytes", worker="w1") > 2**20
    assert at(found, "build_info", **_about()) == 1
    requests = {key: value for key, value in found.items() if key[0] == "requests_total"}

    before = server.worker_pids
    for name, pid in before.items():  # one after the other, so that somebody answers
        os.kill(pid, signal.SIGKILL)
        eventually(lambda name=name: server.worker_pids.get(name) not in (None, before[name]))
        now = eventually(lambda: (now := scraped(admin)) and _live(now) == 2 and now)
        for key, value in now.items():
            if key[0].endswith(("_total", "_bucket", "_count")) and "cpu" not in key[0]:
                assert value >= found[key], key
        assert {key: now[key] for key in requests} == requests
        found = now


def _requests(found: Scrape) -> float:
    return sum(value for (name, _), value in found.items() if name == "requests_total")


def _live(found: Scrape) -> float:
    return at(found, "workers", state="running")


def _about() -> dict[str, str]:
    import gevent

    from streamcache import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    return {"version": __version__, "python": python, "gevent": gevent.__version__}


def test_both_formats_are_what_their_readers_read() -> None:
    shared = Board(2)
    counters = Counters()
    counters.responded("miss", 206, 7, first_byte=0.3, seconds=5000.0, whole=False)
    shared.slot(1).publish(Statistics(**counters.snapshot()), 3)
    accept = "application/openmetrics-text; version=1.0.0"
    told = metrics(shared).scrape(Question("GET", "/metrics", accept=accept))
    assert told.type.startswith("application/openmetrics-text")
    families = {family.name: family for family in read_open(told.body.decode())}
    text = metrics(shared).scrape(Question("GET", "/metrics"))
    assert {family.name for family in read_text(text.body.decode())} == set(families)
    buckets = {
        sample.labels["le"]: sample.value
        for sample in families["streamcache_response_duration_seconds"].samples
        if sample.labels.get("le") and sample.labels["cache"] == "miss"
    }
    assert (buckets["3600.0"], buckets["7200.0"], buckets["+Inf"]) == (0, 1, 1)
    ended = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text.body, capture_output=True
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, b"")


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Refusal, match=r"python\S* -m pip install prometheus-client$") as caught:
        metrics(Board(1)).scrape(Question("GET", "/metrics"))
    assert caught.value.status == 501
