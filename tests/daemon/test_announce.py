"""The ready line and the report of --check."""

from __future__ import annotations

import shlex
import tomllib

import pytest

from streamcache.config import TABLE
from streamcache.daemon.announce import ready_line, report
from streamcache.settings import load


def test_the_ready_line_is_that_of_the_contract() -> None:
    line = ready_line(
        "http://127.0.0.1:8080/", source="/mnt/films", cache="/var/cache/films", size=500
    )
    assert line == (
        "streamcache ready on http://127.0.0.1:8080/ source=/mnt/films cache=/var/cache/films"
        " size=500"
    )


def test_an_ipv6_url_is_not_quoted() -> None:
    assert "on http://[::1]:8080/ source" in ready_line(
        "http://[::1]:8080/", source="/a", cache="/b", size=0
    )


def test_paths_are_quoted_for_a_shell() -> None:
    line = ready_line("unix:/run/a b.sock", source="/it's here", cache="/$HOME", size=0)
    assert "'/$HOME'" in line
    assert shlex.split(line)[3:] == [
        "unix:/run/a b.sock",
        "source=/it's here",
        "cache=/$HOME",
        "size=0",
    ]


def test_the_report_is_toml_with_every_value_and_its_origin() -> None:
    flags = {"source.path": "/mnt/films", "cache.size": "10GiB"}
    text = report(load(environ={"STREAMCACHE_LOG_LEVEL": "error"}, flags=flags))
    document = tomllib.loads(text)
    assert {name: set(body) for name, body in document.items()} == {
        name: set(options) for name, options in TABLE.items()
    }
    assert document["cache"]["size"] == "10GiB"
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert 'cache.size = "10GiB" # --cache-size' in lines
    assert 'log.level = "error" # $STREAMCACHE_LOG_LEVEL' in lines
    assert 'source.path = "/mnt/films" # SOURCE' in lines
    assert "limits.fields = 100 # default" in lines


@pytest.mark.parametrize(("workers", "words"), [("1", "with 1 worker,"), ("3", "with 3 workers,")])
def test_the_report_begins_with_what_would_run(workers: str, words: str) -> None:
    first = report(load(environ={}, flags={"server.workers": workers})).splitlines()[0]
    assert words in first


def test_the_report_says_what_zero_stands_for() -> None:
    lines = report(load(environ={})).splitlines()
    (line,) = [line for line in lines if line.startswith("cache.size")]
    assert line.endswith("# default (half of the free space and what the cache already uses)")
