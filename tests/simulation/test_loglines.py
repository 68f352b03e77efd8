"""Lines of access logs: ours and others'."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.config.log import LogConfig
from streamcache.server.clock import Clock
from streamcache.server.logline import Served, form_of
from streamcache.simulation.loglines import Use, read_line

NGINX = (
    '192.0.2.7 - bob [28/Nov/2026:10:52:10 +0200] "GET /a%20b/c.mp4?x=1 HTTP/1.1" {status} 300'
    ' "-" "vlc/3.0"'
)
AT = 1795855930  # 28 Nov 2026 08:52:10 UTC


def served(**changes: object) -> Served:
    fields: dict[str, object] = {
        "client": "192.0.2.7",
        "method": "GET",
        "target": "/a/\u00fc%41.mp4",
        "protocol": "HTTP/1.1",
        "path": "/a",
        "status": 206,
        "bytes": 300,
        "cache": "hit",
        "whole": True,
        "range": "bytes=100-",
    }
    return Served(**{**fields, **changes})


def ours(**changes: object) -> list[Use | None]:
    """The same answer, as each of our formats has it."""
    clock = Clock()
    lines = [
        form_of(LogConfig(format=form), "w1").line(served(**changes), clock)
        for form in ("combined", "json")
    ]
    return [read_line(line) for line in lines]


def test_lines_of_nginx_and_apache() -> None:
    assert read_line(NGINX.format(status=200)) == Use(
        AT, "192.0.2.7", "/a b/c.mp4", 300, whole=True
    )
    # It does not say which part it was.
    assert read_line(NGINX.format(status=206)) == Use(
        AT, "192.0.2.7", "/a b/c.mp4", 300, whole=False
    )
    common = '::1 - - [28/Nov/2026:08:52:10 +0000] "GET http://h/x HTTP/1.0" 200 5'
    assert read_line(common) == Use(AT, "::1", "/x", 5, whole=True)


@pytest.mark.parametrize(
    ("changes", "stop", "whole"),
    [
        ({}, 400, True),
        ({"range": "bytes=100-399"}, 400, False),
        ({"range": "bytes=100-500"}, 400, True),
        ({"range": "bytes=100-500", "whole": False}, 400, False),
        ({"status": 200, "range": "-"}, 300, True),
        ({"status": 200, "range": "-", "whole": False}, 300, False),
        ({"range": "bytes=-300"}, 300, False),
        ({"range": "bytes=0-1,5-6"}, 300, False),
    ],
)
def test_our_lines_say_how_large_a_file_is_at_least(
    changes: dict[str, object], stop: int, whole: bool
) -> None:
    for use in ours(**changes):
        assert use is not None
        assert (use.stop, use.whole, use.client) == (stop, whole, "192.0.2.7")


def test_a_path_is_what_the_target_stands_for() -> None:
    for use in ours(target='/a/%22b" \\%41?c=d'):
        assert use is not None
        assert use.path.startswith('/a/"b')
    for use in ours(target="/a/b%C3%BC.mp4"):
        assert use is not None and use.path == "/a/b\u00fc.mp4"


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 404},
        {"status": 304},
        {"method": "HEAD"},
        {"method": "-", "target": "-", "protocol": "-", "status": 400},
    ],
)
def test_answers_without_bytes_of_a_file_are_no_uses(changes: dict[str, object]) -> None:
    assert ours(**changes) == [None, None]


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-28 09:01:13.402 WARNING w1 streamcache.server request failed",
        "{}",
        '{"time":"yesterday","client":"c","method":"GET","target":"/","status":200,"bytes":5}',
        "[" * 10000,
        '{"a":' * 10000,
        'c - - [yesterday] "GET / HTTP/1.1" 200 5',
        'c - - [32/Foo/2026:10:52:10 +0200] "GET / HTTP/1.1" 200 5',
    ],
)
def test_other_lines_are_told_apart(line: str) -> None:
    with pytest.raises(ValueError, match="not a line"):
        read_line(line)


@given(st.text())
def test_no_line_breaks_it(line: str) -> None:
    for text in (line, "{" + line, f'c - - [28/Nov/2026:08:52:10 +0000] "{line}" 200 5 {line}'):
        try:
            read_line(text)
        except ValueError:
            continue
