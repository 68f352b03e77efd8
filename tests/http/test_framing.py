from __future__ import annotations

import pytest

from tests.http.wire import head, read, request_of, status_of


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("5", 5), ("0005", 5), ("1000", 1000)])
def test_content_length(value: str, length: int):
    data = head("/a", f"Content-Length: {value}") + b"x" * length
    assert request_of(data).content_length == length
    assert request_of(data).has_body == (length > 0)


@pytest.mark.parametrize(
    "value",
    [
        *("+5", "-1", "0x5", "5 5", "5;", "5.0", "", "five", "5,6", "5, 5", "1e1", "5\0", "\u00b2"),
        *("\u0663".encode().decode("latin-1"), "'5'", "5-", "--5", "_5", "5_0", "5\t5"),
    ],
)
def test_an_odd_content_length_is_400(value: str):
    assert status_of(head("/a", f"Content-Length: {value}") + b"hello") == 400


@pytest.mark.parametrize(
    "value", ["1001", "4294967301", "9223372036854775807", "18446744073709551621", "9" * 500]
)
def test_a_content_length_beyond_the_limit_is_413(value: str):
    requests, status = read(head("/a", f"Content-Length: {value}") + b"hello")
    assert status == 413
    assert [request.path for request in requests] in ([], ["/a"])


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "content-length: 5"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: cow"],
        ["Transfer-Encoding:\r\n chunked"],
    ],
)
def test_ambiguous_framing_is_400(fields: list[str]):
    assert status_of(head("/a", *fields) + b"0\r\n\r\n") == 400


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("chunked", None),
        ("ChUnKeD", None),
        *(
            (value, 400)
            for value in (
                *("xchunked", "chunked, identity", "chunked, gzip", "identity", "gzip", "x", ","),
                *("chunked, chunked", "\x0bchunked", "chunked\0", '"chunked"', "chunked;q=1", ""),
                *("chunke", "chunked x", "chunk\u00ebd", "chunked\x0b", ", chunked", "chunked,"),
            )
        ),
        ("gzip, chunked", 501),
        ("cow, chunked", 501),
    ],
)
def test_transfer_codings(value: str, status: int | None):
    assert status_of(head("/a", f"Transfer-Encoding: {value}") + b"0\r\n\r\n") == status


def test_http10_has_no_transfer_encoding():
    data = head("/a", "Transfer-Encoding: chunked", version="HTTP/1.0") + b"0\r\n\r\n"
    assert status_of(data) == 400


@pytest.mark.parametrize(
    ("version", "fields", "waits"),
    [
        ("HTTP/1.1", ["Expect: 100-continue", "Content-Length: 5"], True),
        ("HTTP/1.1", ["Expect: 100-CONTINUE", "Content-Length: 5"], True),
        ("HTTP/1.1", ["Expect: 100-continue", "Content-Length: 0"], False),
        ("HTTP/1.1", ["Expect: 100-continue"], False),
        ("HTTP/1.1", ["Expect: dance", "Content-Length: 5"], False),
        ("HTTP/1.0", ["Expect: 100-continue", "Content-Length: 5"], False),
    ],
)
def test_a_client_waits_for_100_only_with_a_body_in_http11(
    version: str, fields: list[str], waits: bool
):
    body = b"x" * 5 if "Content-Length: 5" in fields else b""
    assert request_of(head("/a", *fields, version=version) + body).expect_continue is waits


def test_chunked_bodies_wait_for_100_too():
    data = head("/a", "Expect: 100-continue", "Transfer-Encoding: chunked") + b"0\r\n\r\n"
    assert request_of(data).expect_continue


def test_a_body_is_never_read_as_a_request():
    smuggled = head("/smuggled")
    by_length = head("/a", f"Content-Length: {len(smuggled)}", method="POST") + smuggled
    chunk = b"%x\r\n" % len(smuggled) + smuggled + b"\r\n0\r\n\r\n"
    by_chunk = head("/b", "Transfer-Encoding: chunked", method="POST") + chunk
    requests, status = read(by_length + by_chunk + head("/c"))
    assert status is None
    assert [request.path for request in requests] == ["/a", "/b", "/c"]
