"""What wrk prints, and what makes a run of it worth nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import wrk
from tests.bench.beside import make_cold
from tests.bench.peers import Nginx
from tests.bench.processes import Cores
from tests.bench.wrk import Summary, WrkError
from tests.content import write
from tests.requirements import program

OUTPUT = """Running 1s test @ http://127.0.0.1:1/small.bin
  1 threads and 64 connections
Requests/sec:  10000.00
{"requests": 10000, "bytes": 13000000, "us": 1000000, "errors": 0, \
"p50": 900, "p99": 2500, "max": 9000}
"""


def test_a_run_is_read() -> None:
    summary = Summary.parse(OUTPUT)
    assert summary.rate == 10_000
    assert (summary.p50, summary.p99, summary.longest) == (
        pytest.approx(0.0009),
        pytest.approx(0.0025),
        pytest.approx(0.009),
    )
    assert summary.require(1024) is summary


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ('"errors": 0', '"errors": 3', "3 errors"),
        ('"requests": 10000', '"requests": 0', "0 requests"),
        ('{"requests"', '{"other"', "no summary"),
    ],
)
def test_a_run_with_errors_is_none(was: str, now: str, message: str) -> None:
    with pytest.raises(WrkError, match=message):
        Summary.parse(OUTPUT.replace(was, now))


@pytest.mark.parametrize("body", [1301, 200])
def test_answers_of_another_length_are_wrong(body: int) -> None:
    with pytest.raises(WrkError, match="bytes per answer"):
        Summary.parse(OUTPUT).require(body)


@pytest.mark.parametrize(
    ("kind", "body"), [(("plain",), 4096), (("headers",), 4096), (("ranges", "4096", "100"), 100)]
)
def test_each_kind_of_request_is_answered(tmp_path: Path, kind: tuple[str, ...], body: int) -> None:
    program("wrk")
    program("nginx")
    write(tmp_path / "files", "a.bin", 4096)
    with Nginx(tmp_path / "files", tmp_path / "nginx") as nginx:
        load = {"connections": 2, "seconds": 1.0, "cores": Cores.here().all}
        summary = wrk.run(nginx.address, "a.bin", *kind, body=body, **load)
        assert summary.requests > 10
        with pytest.raises(WrkError, match="errors in"):
            wrk.run(nginx.address, "none.bin", *kind, body=body, **load)


def test_a_file_can_be_made_cold(cache_dir: Path) -> None:
    path = write(cache_dir, "a.bin", 3_000_000)
    path.read_bytes()
    make_cold(path)
