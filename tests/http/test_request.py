from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.http.request import MAX_EMPTY_LINES, BadRequest, Limits, RequestParser, parse_head
from tests.http.wire import LIMITS, head, read, read_pieces, request_of, status_of


def test_a_plain_head_becomes_a_request():
    request = request_of(head("/a/b.mp4?x=1", "User-Agent: player", "Range: bytes=0-5"))
    assert request.method == "GET"
    assert request.target == "/a/b.mp4?x=1"
    assert request.path == "/a/b.mp4"
    assert request.version == (1, 1)
    assert request.headers.get("user-agent") == "player"
    assert request.headers.get("range") == "bytes=0-5"
    assert request.headers.get("accept") is None
    assert request.keep_alive
    assert not request.has_body
    assert not request.expect_continue


def test_parse_head_is_a_function_of_its_bytes():
    data = head().removesuffix(b"\r\n\r\n")
    assert parse_head(data, LIMITS) == parse_head(data, LIMITS) == request_of(head())


@pytest.mark.parametrize(
    "line",
    [
        b" GET /a HTTP/1.1",
        b"GET  /a HTTP/1.1",
        b"GET /a  HTTP/1.1",
        b"GET\t/a\tHTTP/1.1",
        b"GET /a HTTP/1.1 ",
        b"GET /a HTTP/1.1 x",
        b"GET /a b HTTP/1.1",
        b"GET HTTP/1.1",
        b"GET  HTTP/1.1",
        b"GET /a",
        b"GET",
        b"GE(T /a HTTP/1.1",
        b'"GET" /a HTTP/1.1',
        b"GE\0T /a HTTP/1.1",
        b"G\xc9T /a HTTP/1.1",
        b"GET /a\rb HTTP/1.1",
        b"GET /a\nb HTTP/1.1",
        b"GET /a HTTP/1.1\r",
        b"GET /a\0b HTTP/1.1",
        b"\0\0\0\0",
        bytes(range(128, 256)),
        b"\x16\x03\x01\x00\xe0\x01\x00\x00\xdc\x03\x03",
    ],
)
def test_a_malformed_request_line_is_400(line: bytes):
    assert status_of(line + b"\r\nHost: h\r\n\r\n") == 400


@pytest.mark.parametrize(
    ("version", "status"),
    [
        *((f"HTTP/1.{minor}", None) for minor in range(10)),
        *((f"HTTP/{version}", 505) for version in ("0.9", "2.0", "3.0", "9.9", "0.0")),
        *(
            (version, 400)
            for version in (
                *("http/1.1", "Http/1.1", "HTTP/1", "HTTP/1.", "HTTP/.1", "HTTP/11", "HTTP/1.1.1"),
                *("HTTP/01.1", "HTTP/1.01", "HTTP/1.10", "HTTP/-1.1", "HTTP/1,1", "HTTP/ 1.1"),
                *("HTTP /1.1", "HTTP/1.x", "HTTP/1.\u00b9", "HTTPS/1.1", "HTTP", "XTTP/1.1"),
                *("HTTP\\1.1", "HTTP/1_1", ""),
            )
        ),
    ],
)
def test_versions(version: str, status: int | None):
    assert status_of(head(version=version)) == status


@pytest.mark.parametrize(
    "start",
    [
        b"\x16",
        b"\n",
        b" ",
        b"\rX",
        b"GET /a\r\n",
        b"GET /a HTTP/9.0\r\n",
        b"GET /a HTTP/1.1\n",
        b"GET /a HTTP/1.1\r\nHost: h\n",
        b"GET /a HTTP/1.1\r\nHost: h\rX",
    ],
)
def test_what_cannot_become_a_head_is_refused_without_waiting_for_its_end(start: bytes):
    assert status_of(start) in (400, 505)


@pytest.mark.parametrize(
    "start",
    [b"", b"\r", b"\r\n", b"GET", b"GET /a HTTP/1.1\r", b"GET /a HTTP/1.1\r\nHost: h\r\n\r"],
)
def test_an_incomplete_head_waits(start: bytes):
    assert read(start) == ([], None)
    assert read_pieces([start])[2].in_head == (start not in (b"", b"\r\n"))


@pytest.mark.parametrize("count", [0, 1, 2, MAX_EMPTY_LINES])
def test_some_empty_lines_before_a_request_are_skipped(count: int):
    assert len(read((b"\r\n" * count + head()) * 3)[0]) == 3


def test_many_empty_lines_before_a_request_are_refused():
    assert status_of(b"\r\n" * (MAX_EMPTY_LINES + 1) + head()) == 400


def test_pipelined_requests_come_one_by_one_and_the_rest_stays():
    requests, _, parser = read_pieces([head("/1") + head("/2") + head("/3") + b"GET /4"])
    assert [request.path for request in requests] == ["/1", "/2", "/3"]
    assert parser.in_head


def test_nothing_is_read_after_a_refusal():
    parser = RequestParser(LIMITS)
    parser.feed(b"GARBAGE\r\n\r\n" + head())
    for _ in range(2):
        with pytest.raises(BadRequest):
            parser.next()
    parser.feed(head())
    with pytest.raises(BadRequest):
        parser.next()


@pytest.mark.parametrize(
    ("data", "to_head"),
    [
        (head(method="HEAD", host=None), True),
        (head(method="HEAD", version="HTTP/2.0"), True),
        (head(method="HEAD") + head(host=None), False),
        (head() + head(method="HEAD", host=None), True),
        (head(method="HEADS", host=None), False),
    ],
)
def test_a_refusal_knows_whether_it_answers_head(data: bytes, to_head: bool):
    _, refusal, _ = read_pieces([data])
    assert refusal is not None
    assert refusal.to_head is to_head


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (head("/%zz"), "GET /%zz HTTP/1.1"),
        (head("/caf\xe9"), "GET /caf\xe9 HTTP/1.1"),
        (head() + head("/b", host=None), "GET /b HTTP/1.1"),
        (b"\r\n\r\n" + head("/a", version="HTTP/9.9"), "GET /a HTTP/9.9"),
        (b"GET /a\nHost: h\n\n", "GET /a"),
        (b"GET /a\rHost: h\r\n\r\n", "GET /a"),
        (b"\x16\x03\x01\0", "\x16\x03\x01\0"),
        (b"\r\n" * 20, ""),
        (b"GET /" + b"a" * LIMITS.head_size, "GET /" + "a" * (LIMITS.head_size - 5)),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * LIMITS.head_size, "GET / HTTP/1.1"),
    ],
)
def test_a_refusal_knows_the_line_as_far_as_it_was_read(data: bytes, line: str):
    _, refusal, _ = read_pieces([data])
    assert refusal is not None
    assert refusal.line == line


def test_a_head_that_is_refused_before_its_end_is_described_too():
    parser = RequestParser(LIMITS)
    parser.feed(b"HEAD /slow")
    assert parser.next() is None
    refusal = parser.refuse(408, "head too slow")
    assert (refusal.status, refusal.to_head, refusal.line) == (408, True, "HEAD /slow")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (None, 400),
        ("Host: a\r\nHost: b", 400),
        ("Host: a\r\nhOsT: a", 400),
        ("Host:", None),
        ("Host: example.com", None),
        ("hOST:example.com:8080", None),
        ("Host: \t a:80 \t ", None),
        ("Host: a:", None),
        ("Host: a_b~!$&'()*+,;=", None),
        ("Host: a%20b", None),
        ("Host: [::1]", None),
        ("Host: [::1]:80", None),
        ("Host: [2001:db8::192.0.2.1]:80", None),
        ("Host: [v1.a:b]", None),
        *(
            (f"Host: {value}", 400)
            for value in (
                *("a b", "a/b", "a@b", "a:b", "a:80:80", "[::1", "::1", "[::1]x", "[1:2]", "[]"),
                *("a?b", "a#b", "a\\b", "http://a", "a\tb", "a\0b", "a<b>", "%zz", "%4", "a:-1"),
                *("a,b c", "a:\u00b2", "\u00e4", "[fe80::1%25eth0]", "[::g]", '"a"'),
            )
        ),
    ],
)
def test_host(host: str | None, status: int | None):
    assert status_of(head(host=host)) == status


def test_http10_needs_no_host_but_takes_no_two():
    assert status_of(head(version="HTTP/1.0", host=None)) is None
    assert status_of(head(version="HTTP/1.0", host="Host: a")) is None
    assert status_of(head(version="HTTP/1.0", host="Host: a\r\nHost: b")) == 400
    assert status_of(head(version="HTTP/1.0", host="Host: a b")) == 400


@pytest.mark.parametrize(
    "field",
    [
        *("X-A : 1", "X-A\t: 1", " X-A: 1", "\tX-A: 1", "NoColon", "Range", ": 1", ":"),
        *(f"X{bad}A: 1" for bad in (" ", "\0", "\x01", "(", "/", '"', "@", "\u00ff", "\x7f", "{")),
        *(f"X-A: a{bad}b" for bad in ("\0", "\x01", "\r", "\n", "\x0b", "\x0c", "\x7f", "\x1b")),
        *("X-A: 1\r\n 2", "X-A: 1\r\n\t2", "X-A: 1\r\n ", "X-A: 1\r", "X-A: 1\nX-B: 2"),
    ],
)
def test_a_malformed_field_is_400(field: str):
    assert status_of(head("/a", field)) == 400
    assert status_of(head("/a", field, "X-Z: 1")) == 400


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("X-A:", "x-a", ""),
        ("X-A:  \t ", "x-a", ""),
        ("X-A: a\tb", "x-a", "a\tb"),
        ("X-A:a:b", "x-a", "a:b"),
        ("RANGE:1", "range", "1"),
        ("Range: 1 \t", "range", "1"),
        ("X-A: \u00e9\u00ff", "x-a", "\u00e9\u00ff"),
        ("!#$%&'*+-.^_`|~09azAZ: 1", "!#$%&'*+-.^_`|~09azaz", "1"),
    ],
)
def test_a_field_is_split_and_trimmed(line: str, name: str, value: str):
    assert request_of(head("/a", line)).headers.get(name) == value


def test_fields_of_one_name_are_a_list_in_their_order():
    headers = request_of(head("/a", "X-A: 1", "X-B: 2", "x-a: 3, 4")).headers
    assert headers.all("x-a") == ["1", "3, 4"]
    assert headers.get("x-a") == "1, 3, 4"
    assert headers.members("x-a") == ["1", "3", "4"]
    assert "x-a" in headers
    assert "X-A" not in headers
    assert list(headers) == ["host", "x-a", "x-b"]
    assert repr(headers) == "<Headers host x-a x-b>"


def test_the_head_has_a_limit():
    room = LIMITS.head_size - len(head("/a", "X: "))
    assert status_of(head("/a", "X: " + "y" * room)) is None
    assert status_of(head("/a", "X: " + "y" * (room + 1))) == 431
    assert status_of(head("/a", "X: " + "y" * 100_000)) == 431
    assert status_of(b"GET /a HTTP/1.1\r\n" + b"X: yyy\r\n" * 1000) == 431


def test_the_limit_holds_for_each_request_of_a_connection():
    data = head("/a", "X: " + "y" * (LIMITS.head_size // 2))
    assert len(read(data * 5)[0]) == 5


def test_the_target_has_a_limit():
    assert status_of(head("/" + "a" * (LIMITS.target_size - 1))) is None
    assert status_of(head("/" + "a" * LIMITS.target_size)) == 414
    assert status_of(head("/" + "a" * 10_000)) == 414
    assert status_of(b"GET /" + b"a" * 10_000) == 414


def test_a_method_longer_than_any_is_501():
    assert status_of(b"M" * 10_000) == 501
    assert status_of(b"M" * 10_000 + b" /a HTTP/1.1\r\nHost: h\r\n\r\n") == 501
    assert status_of(b"M(" * 5_000) == 400


def test_the_number_of_fields_has_a_limit():
    fields = [f"X-{number}: 1" for number in range(LIMITS.fields - 1)]
    assert status_of(head("/a", *fields)) is None
    assert status_of(head("/a", *fields, "Y: 1")) == 431


def test_limits_are_positive():
    with pytest.raises(ValueError, match="positive"):
        Limits(head_size=0)


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        ("HTTP/1.1", [], True),
        ("HTTP/1.2", [], True),
        ("HTTP/1.0", [], False),
        ("HTTP/1.1", ["Connection: close"], False),
        ("HTTP/1.1", ["connection: CLOSE"], False),
        ("HTTP/1.1", ["Connection: foo, close , bar"], False),
        ("HTTP/1.1", ["Connection: foo", "Connection: close"], False),
        ("HTTP/1.1", ["Connection: keep-alive, close"], False),
        ("HTTP/1.1", ["Connection: closed, xclose"], True),
        ("HTTP/1.1", ["Connection:"], True),
        ("HTTP/1.0", ["Connection: Keep-Alive"], True),
        ("HTTP/1.0", ["Connection: foo, keep-alive"], True),
        ("HTTP/1.0", ["Connection: keep-alive, close"], False),
    ],
)
def test_persistence(version: str, fields: list[str], keep_alive: bool):
    assert request_of(head("/a", *fields, version=version)).keep_alive is keep_alive


@given(data=st.data(), requests=st.integers(1, 3))
def test_cuts_change_nothing(data: st.DataObject, requests: int):
    stream = b"".join(
        data.draw(
            st.sampled_from(
                [
                    head(),
                    b"\r\n" + head("/x%20y", "Range: bytes=0-"),
                    head("/b", "Content-Length: 3", method="POST") + b"abc",
                    head("/c", "Transfer-Encoding: chunked") + b"3;a=b\r\nabc\r\n0\r\nT: 1\r\n\r\n",
                    head("/d", "X : 1"),
                    head("/e", version="HTTP/2.0"),
                    head("/f", "X: a\rb"),
                    head("/g", "X: " + "y" * 3000),
                    head("/h", "Transfer-Encoding: chunked") + b"3\r\nabcd\r\n",
                    b"\n",
                ]
            )
        )
        for _ in range(requests)
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    cut, refusal, _ = read_pieces(pieces)
    whole, status = read(stream)
    assert cut == whole
    assert (refusal and refusal.status) == status


@given(st.binary(max_size=300) | st.text("GET /a.HTP1\r\n:x \t\0", max_size=200).map(str.encode))
def test_any_bytes_are_requests_or_a_refusal_or_wait(data: bytes):
    for stream in (data, b"GET /a HTTP/1.1\r\nHost: h\r\n" + data + b"\r\n\r\n"):
        requests, status = read(stream)
        assert status in (None, 400, 413, 414, 421, 431, 501, 505)
        for request in requests:
            assert request.path == "" or request.path.startswith("/")
            assert "\0" not in request.path
