"""What wrk prints, and what makes a run of it worth nothing."""

from __future__ import annotations

import pytest

from tests.bench.wrk import Summary, WrkError

OUTPUT = """Running 1s test @ http://127.0.0.1:1/small.bin
  1 threads and 64 connections
Requests/sec:  10000.00
{"requests": 10000, "bytes": 13000000, "us": 1000000, "errors": 0, "p50": 900, "p99": 2500, "max": 9000}
"""  # noqa: E501


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
