"""What is ordinary says the same as the complete parser; all else is left to it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import streamcache
from streamcache.http.ordinary import (
    Parts,
    cut_range,
    one_range,
    ordinary_head,
    ordinary_path,
)
from streamcache.http.ranges import UNSATISFIABLE, ByteRange, parse_range
from streamcache.http.request import BadRequest, parse_head
from tests.http.wire import LIMITS

SIZE = 1000


def quick(data: bytes) -> tuple[str, Parts, tuple[int, int] | None] | None:
    """Path, parts and range of one whole ordinary head, as the fast path does it."""
    key, wanted = cut_range(data)
    if len(data) > LIMITS.head_size:
        return None
    parts = ordinary_head(key, LIMITS.fields)
    path = None if parts is None else ordinary_path(parts[0], LIMITS.target_size)
    if path is None or parts is None:
        return None
    place = one_range(wanted, SIZE) if wanted else None
    if wanted and place is None:
        return None
    return path, parts, place


def check(data: bytes) -> bool:
    """Whether the head is ordinary, and then the complete parser agrees on all that counts."""
    found = quick(data)
    if found is None:
        return False
    assert data.count(b"\r\n\r\n") == 1  # one head and nothing behind it
    request = parse_head(data[:-4], LIMITS)  # no BadRequest
    headers = request.headers
    assert (request.method, request.keep_alive, request.has_body) == ("GET", True, False)
    assert request.version != (1, 0)
    assert not any(name.startswith("if-") or name == "expect" for name in headers)
    path, (_, *values), place = found
    assert path == request.path
    for name, value in zip(("host", "user-agent", "referer"), values, strict=True):
        said = None if value is None else value.strip(b" \t").decode("latin-1")
        assert said == headers.get(name)
    if place is None:
        assert "range" not in headers
    else:
        (value,) = headers.all("range")
        assert parse_range(value, SIZE, 16) == (ByteRange(*place),)
    return True


def head(*fields: str, line: str = "GET /a.mp4 HTTP/1.1") -> bytes:
    return ("\r\n".join([line, *fields]) + "\r\n\r\n").encode("latin-1")


HOST = "Host: h"


@pytest.mark.parametrize(
    "data",
    [
        head(HOST),
        head("host: example.org:8080", "user-agent: node", "accept: */*"),
        head("User-Agent: curl/8", "Accept: */*", "Host: 127.0.0.1:1"),
        head(HOST, "Connection: Keep-Alive", "Referer: http://x/", "User-Agent:   a b  "),
        head(HOST, "User-Agent:", "Referer: caf\xe9"),
        head(HOST, line="GET /a%20b/../c.mp4?t=1 HTTP/1.1"),
        head(HOST, line="GET http://x/a.mp4 HTTP/1.9"),
        head(HOST, "Cookie: a", "X-Forwarded-For: b", "ETag: c", "Upgrade-Insecure-Requests: 1"),
        head(HOST, "Hosts: a", "User-Agents: b", "Ranges: bytes=0-1", "Connection-: close", "I: f"),
        head(HOST, "Range: bytes=0-99"),
        head("Range: bytes=5-", HOST),
        head(HOST, "Range: bytes=990-99999999999", "Accept: */*"),
    ],
)
def test_these_are_ordinary(data):
    assert check(data)


@pytest.mark.parametrize(
    "data",
    [
        head(),
        head(HOST, HOST),
        head("Host: h h"),
        head("Host: [::1]"),
        head("Host:h"),
        head(HOST, "Connection: close"),
        head(HOST, "Connection: keep-alive, upgrade"),
        head(HOST, "Content-Length: 0"),
        head(HOST, "transfer-encoding: chunked"),
        head(HOST, "EXPECT: 100-continue"),
        head(HOST, 'If-Range: "x"', "Range: bytes=0-1"),
        head(HOST, 'if-none-match: "x"'),
        head(HOST, "range: bytes=0-1"),
        head(HOST, "Range: bytes=0-1", "Range: bytes=0-1"),
        head(HOST, "Range: bytes=0-1", "range: bytes=0-1"),
        head(HOST, "Range: bytes="),
        head(HOST, "Range: bytes=-5"),
        head(HOST, "Range: bytes=1000-"),
        head(HOST, "Range: bytes=5-4"),
        head(HOST, "Range: bytes=0-1,3-4"),
        head(HOST, "Range: bytes=0-1 "),
        head(HOST, "Range: bytes=0-1", " folded"),
        head(HOST, "User-Agent: a", "User-Agent: b"),
        head(HOST, "Referer: a", "referer: b"),
        head(HOST, "X : y"),
        head(HOST, " folded"),
        head(HOST, "X"),
        head(HOST, "X: \x00"),
        head(HOST, "X: a\rb"),
        head(HOST, "X: a\nb"),
        head(HOST, *["X: y"] * LIMITS.fields),
        head(HOST, *["X:"] * LIMITS.fields),
        head(HOST, *["X: y"] * (LIMITS.fields - 1), "Range: bytes=0-1"),
        head(HOST, line="HEAD /a.mp4 HTTP/1.1"),
        head(HOST, line="GET /a.mp4 HTTP/1.0"),
        head(HOST, line="GET /a.mp4 HTTP/2.0"),
        head(HOST, line="GET /a/ HTTP/1.1"),
        head(HOST, line="GET  /a.mp4 HTTP/1.1"),
        head(HOST, line="GET /../a HTTP/1.1"),
        head(HOST, line="GET /" + "a" * LIMITS.target_size + " HTTP/1.1"),
        head(HOST) + head(HOST),
        head(HOST) + b"x",
        head(HOST) + b"Range: bytes=0-1\r\n\r\n",
        head(HOST) + b"Range: bytes=0-1\r\n",
        head(HOST)[:-1],
        head(HOST)[:-2],
        head(HOST, "Range: bytes=0-1")[:-2],
        head(HOST, "Range: bytes=0-1")[:-4],
        b"\r\n" + head(HOST),
        b"\r\nRange: bytes=0-1" + head(HOST),
        b"Range: bytes=0-1\r\n" + head(HOST),
        b"",
        b"\r\n\r\n",
    ],
)
def test_these_are_left_to_the_complete_parser(data):
    assert not check(data)


NAMES = st.sampled_from(
    [
        "Host",
        "host",
        "User-Agent",
        "Referer",
        "Range",
        "range",
        "Connection",
        "If-Match",
        "If-",
        "Expect",
        "Content-Length",
        "Transfer-Encoding",
        "Accept",
        "Cookie",
        "expect",
        "HOSTS",
        "user-agent",
        "X-\x7f",
        "",
        "X/Y",
    ]
)
VALUES = st.one_of(
    st.sampled_from(["h", "h:80", "keep-alive", "close", "bytes=0-9", "bytes=7-", "0", "", '"x"']),
    st.text(st.characters(max_codepoint=255), max_size=8),
)
LINES = st.one_of(
    st.tuples(NAMES, st.sampled_from([": ", ":", " : ", ":\t"]), VALUES).map("".join),
    st.just(HOST),
    st.just("Range: bytes=3-5"),
)
TARGETS = st.sampled_from(["GET /a HTTP/1.1", "GET /%41?x HTTP/1.2", "HEAD /a HTTP/1.1", "GET"])


@given(TARGETS, st.lists(LINES, max_size=6), st.sampled_from(["\r\n", "\r\n", "\n", "\r"]))
@example("GET /a HTTP/1.1", [HOST, "Range: bytes=3-5", "\r\nRange: bytes=3-5"], "\r\n")
def test_fast_and_complete_agree_on_any_fields(line, fields, end):
    check(("\r\n".join([line, HOST, *fields]) + end + "\r\n").encode("latin-1"))
    check(("\r\n".join([line, *fields]) + end + "\r\n").encode("latin-1"))


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 3))
def test_fast_and_complete_agree_when_bytes_are_changed(noise, at, cut):
    data = head(HOST, "User-Agent: a", "Range: bytes=1-2", "X-Y: z")
    check(data[:at] + noise + data[at + cut :])
    check(noise)


@given(st.text(st.characters(max_codepoint=255), max_size=12), st.integers(1, 2000))
@example("0-", 1)
@example("9999999999999999999-", 5)
@example("\xb2-", 5)
def test_a_range_that_is_ordinary_is_what_the_complete_parser_makes_of_it(value, size):
    place = one_range(value.encode("latin-1"), size)
    if place is not None:
        assert parse_range("bytes=" + value, size, 16) == (ByteRange(*place),)


@given(st.integers(0, 1200), st.none() | st.integers(0, 1200))
def test_every_simple_satisfiable_range_is_ordinary(first, last):
    value = f"{first}-{'' if last is None else last}"
    complete = parse_range("bytes=" + value, SIZE, 16)
    place = one_range(value.encode(), SIZE)
    if complete is None or complete is UNSATISFIABLE:
        assert place is None
    else:
        assert complete == (ByteRange(*place),)


def test_what_the_complete_parser_refuses_is_never_ordinary():
    with pytest.raises(BadRequest):
        parse_head(head("Host: [::1")[:-4], LIMITS)
    assert not check(head("Host: [::1"))


# Without what the package imports: other interpreters have no gevent.
_ALONE = """
import sys, types
package = types.ModuleType("streamcache")
package.__path__ = [sys.argv[1]]
sys.modules["streamcache"] = package
from streamcache.http.ordinary import ordinary_head
heads = sys.stdin.buffer.read().split(b"\\0")
print([ordinary_head(head, 100) for head in heads])
"""
_HEADS = (
    b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a HTTP/1.1\r\nUser-Agent: player/1\r\nHost: h:80\r\nAccept: */*\r\nReferer: r\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nX-Request-Id: 1\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: h\r\nIf-Range: x\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
)


def test_the_systems_own_python_finds_the_same_ordinary() -> None:
    """In 3.11.2, which is Debian 12's, a possessive repeat of a group matches nothing."""
    assert [ordinary_head(head, 100) is None for head in _HEADS] == [
        *(False, False, False, True, True)
    ]
    oldest = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in ("/usr/bin/python3", sys.executable):
        if not os.path.exists(python) or subprocess.run([python, "-c", oldest]).returncode:
            continue  # nobody can run us with that one
        found = subprocess.run(
            [python, "-I", "-c", _ALONE, os.path.dirname(streamcache.__file__)],
            input=b"\0".join(_HEADS),
            stdout=subprocess.PIPE,
            check=True,
        )
        assert found.stdout.decode().strip() == str([ordinary_head(head, 100) for head in _HEADS])
