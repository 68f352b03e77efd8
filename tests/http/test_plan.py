from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.http.dates import format_date
from streamcache.http.plan import (
    CONTINUE,
    Entity,
    FileRange,
    ResponsePlan,
    first_offset,
    head_bytes,
    plan,
    plan_error,
    plan_refusal,
    plan_without_file,
)
from streamcache.http.request import BadRequest, Request, parse_head
from streamcache.http.status import REASONS
from tests.http.wire import LIMITS, head

MTIME = 1709210096
NOW = MTIME + 1_000_000
LM = format_date(MTIME)
BEFORE = format_date(MTIME - 1)
ENTITY = Entity(size=1000, etag='"v1"', mtime=MTIME, content_type="video/mp4")
EMPTY = Entity(size=0, etag='"e"', mtime=MTIME, content_type="text/plain")
CONTENT = bytes(range(250)) * 4
DATE = b"Mon, 12 Jan 2026 00:00:00 GMT"


def request(*fields: str, method: str = "GET", version: str = "HTTP/1.1") -> Request:
    data = head("/a.mp4", *fields, method=method, version=version)
    return parse_head(data.removesuffix(b"\r\n\r\n"), LIMITS)


def answer(asked: Request, entity: Entity = ENTITY, now: int = NOW) -> ResponsePlan:
    made = plan(asked, entity, max_ranges=16, now=now)
    check(made, asked)
    return made


def body_of(made: ResponsePlan) -> bytes:
    return b"".join(
        piece if isinstance(piece, bytes) else CONTENT[piece.start : piece.stop]
        for piece in made.pieces
    )


def check(made: ResponsePlan, asked: Request | None) -> None:
    """What holds for every answer."""
    assert made.reason == REASONS[made.status]
    names = [name.lower() for name, _ in made.headers]
    assert len(names) == len(set(names))
    assert not {"content-length", "date", "server", "connection"} & set(names)
    if made.status in (204, 304):
        assert made.pieces == ()
        assert made.content_length is None
        assert "content-type" not in names
    else:
        assert made.content_length is not None
        if asked is not None and asked.method == "HEAD":
            assert made.pieces == ()
        else:
            assert len(body_of(made)) == made.content_length
    assert made.needs_file == (made.status in (200, 206) and made.pieces != ())
    lines = head_bytes(made, date=DATE).split(b"\r\n")
    assert lines[0] == f"HTTP/1.1 {made.status} {made.reason}".encode()
    assert lines[-2:] == [b"", b""]
    assert all(re.fullmatch(rb"[A-Za-z-]+: [\x20-\x7e]+", line) for line in lines[1:-2])


ETAG = {"ETag": '"v1"'}
FILE = {"Content-Type": "video/mp4", "Accept-Ranges": "bytes", **ETAG, "Last-Modified": LM}


def partial(first: int, last: int) -> dict[str, str]:
    return {**FILE, "Content-Range": f"bytes {first}-{last}/1000"}


ERROR = {"Content-Type": "text/plain"}
BEYOND = {**ERROR, "Content-Range": "bytes */1000", "Accept-Ranges": "bytes"}
INM, IM, R = 'If-None-Match: "v1"', 'If-Match: "x"', "Range: bytes=0-5"


@pytest.mark.parametrize(
    ("fields", "status", "headers", "of_head"),
    [
        ([], 200, FILE, 200),
        (["Range: bytes=0-5"], 206, partial(0, 5), 200),
        (["Range: bytes=-5"], 206, partial(995, 999), 200),
        (["Range: bytes=0-"], 206, partial(0, 999), 200),
        (["Range: bytes=5000-, 1-2"], 206, partial(1, 2), 200),
        (["Range: bytes=1000-"], 416, BEYOND, 200),
        (["Range: bytes=x"], 200, FILE, 200),
        (["Range: items=0-5"], 200, FILE, 200),
        (["Range: bytes=0-5", "Range: bytes=7-9"], 200, FILE, 200),
        (["Range: bytes=0-5", "Range: bytes=0-5"], 200, FILE, 200),
        (["Range: bytes=" + ",".join(f"{n}-{n}" for n in range(17))], 200, FILE, 200),
        ([INM], 304, ETAG, 304),
        (["If-None-Match: *"], 304, ETAG, 304),
        ([INM, R], 304, ETAG, 304),
        ([INM, "Range: bytes=5000-"], 304, ETAG, 304),
        ([f"If-Modified-Since: {LM}"], 304, ETAG, 304),
        ([f"If-Modified-Since: {BEFORE}"], 200, FILE, 200),
        ([IM], 412, ERROR, 412),
        ([IM, R], 412, ERROR, 412),
        ([IM, "Range: bytes=5000-"], 412, ERROR, 412),
        ([f"If-Unmodified-Since: {BEFORE}"], 412, ERROR, 412),
        (['If-None-Match: "x"', R], 206, partial(0, 5), 200),
        (['If-Match: "v1"', R], 206, partial(0, 5), 200),
        (['If-Range: "x"', R], 200, FILE, 200),
        ([f"If-Range: {BEFORE}", R], 200, FILE, 200),
        (['If-Range: "v1"'], 200, FILE, 200),
        (['If-Range: "x"'], 200, FILE, 200),
        (['If-Range: "v1"', "Range: bytes=5000-"], 416, BEYOND, 200),
        (['If-Range: "x"', "Range: bytes=5000-"], 200, FILE, 200),
        (["Expect: 100-continue"], 200, FILE, 200),
    ],
)
def test_answers_about_a_file(
    fields: list[str], status: int, headers: dict[str, str], of_head: int
):
    made = answer(request(*fields))
    assert made.status == status
    assert dict(made.headers) == headers
    assert not made.close
    whole = answer(request(*fields, method="HEAD"))
    assert whole.status == of_head
    if of_head == status:
        assert whole.headers == made.headers
        assert whole.content_length == made.content_length
    else:
        assert dict(whole.headers) == FILE
        assert whole.content_length == 1000


@pytest.mark.parametrize(
    ("fields", "pieces"),
    [
        ([], [(0, 1000)]),
        (["Range: bytes=0-5"], [(0, 6)]),
        (["Range: bytes=-5"], [(995, 1000)]),
    ],
)
def test_file_bytes_are_sent_as_ranges(fields: list[str], pieces: list[tuple[int, int]]):
    assert answer(request(*fields)).pieces == tuple(FileRange(*ends) for ends in pieces)


@pytest.mark.parametrize("condition", ['If-Range: "v1"', f"If-Range: {LM}"])
def test_a_206_after_if_range_leaves_out_what_the_client_has(condition: str):
    made = answer(request(condition, R))
    assert made.status == 206
    wanted = partial(0, 5)
    del wanted["Last-Modified"]
    assert dict(made.headers) == wanted


@pytest.mark.parametrize("fields", [[], ["Range: bytes=0-"], ["Range: bytes=-5"]])
def test_an_empty_file_is_answered_whole(fields: list[str]):
    made = answer(request(*fields), EMPTY)
    assert (made.status, made.content_length, made.pieces) == (200, 0, ())


def test_last_modified_is_clamped_to_the_date():
    future = Entity(size=1000, etag='"v1"', mtime=NOW + 5, content_type="video/mp4")
    assert dict(answer(request(), future).headers)["Last-Modified"] == format_date(NOW)
    assert answer(request(f"If-Modified-Since: {format_date(NOW)}"), future).status == 200


def test_a_file_of_a_time_without_a_date_has_no_last_modified():
    ancient = Entity(size=1000, etag='"v1"', mtime=-(10**15), content_type="video/mp4")
    assert "Last-Modified" not in dict(answer(request(), ancient).headers)
    assert dict(answer(request(INM), ancient).headers) == {"ETag": '"v1"'}


def split_parts(made: ResponsePlan) -> list[tuple[bytes, bytes]]:
    """Head and bytes of every part of a multipart body."""
    match = re.fullmatch(
        r"multipart/byteranges; boundary=([0-9a-f]{32})", dict(made.headers)["Content-Type"]
    )
    assert match
    line = b"--" + match[1].encode()
    body = body_of(made)
    assert body.startswith(line + b"\r\n")
    assert body.endswith(b"\r\n" + line + b"--\r\n")
    inner = body[len(line) + 2 : -len(line) - 6]
    parts = [part.split(b"\r\n\r\n", 1) for part in inner.split(b"\r\n" + line + b"\r\n")]
    return [(part[0], part[1]) for part in parts]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("bytes=0-0,-1", [(0, 0), (999, 999)]),
        ("bytes=500-599,0-99", [(500, 599), (0, 99)]),
        ("bytes=0-1,5000-,10-11", [(0, 1), (10, 11)]),
        ("bytes=0-99,50-149", [(0, 99), (50, 149)]),
    ],
)
def test_several_ranges_are_parts_in_the_order_asked_for(value: str, wanted: list[tuple[int, int]]):
    made = answer(request(f"Range: {value}"))
    assert made.status == 206
    assert "Content-Range" not in dict(made.headers)
    assert split_parts(made) == [
        (
            b"Content-Type: video/mp4\r\nContent-Range: bytes %d-%d/1000" % (first, last),
            CONTENT[first : last + 1],
        )
        for first, last in wanted
    ]
    assert answer(request(f"Range: {value}", method="HEAD")).status == 200


def test_the_boundary_depends_on_version_and_ranges_alone():
    def boundary(value: str, etag: str = '"v1"') -> str:
        entity = Entity(size=1000, etag=etag, mtime=MTIME, content_type="video/mp4")
        return dict(answer(request(f"Range: {value}"), entity).headers)["Content-Type"]

    assert boundary("bytes=0-0,2-2") == boundary("bytes=0-0 , 2-2")
    assert boundary("bytes=0-0,2-2") != boundary("bytes=0-0,3-3")
    assert boundary("bytes=0-0,2-2") != boundary("bytes=0-0,2-2", etag='"v2"')


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
def test_methods_that_no_file_supports_are_405_with_allow(method: str):
    made = answer(request(method=method))
    assert made.status == 405
    assert dict(made.headers)["Allow"] == "GET, HEAD, OPTIONS"
    assert not made.close


@pytest.mark.parametrize("method", ["BREW", "get", "head", "GETX", "GE", "M" * 300, "PROPFIND"])
def test_unknown_methods_are_501(method: str):
    made = answer(request(method=method))
    assert made.status == 501
    assert not made.close


def test_connect_is_405_and_ends_the_connection():
    asked = parse_head(head("h:80", method="CONNECT").removesuffix(b"\r\n\r\n"), LIMITS)
    made = answer(asked)
    assert (made.status, made.close) == (405, True)


@pytest.mark.parametrize("target", ["*", "/a.mp4", "/no-such"])
def test_options_says_what_is_allowed(target: str):
    asked = parse_head(head(target, method="OPTIONS").removesuffix(b"\r\n\r\n"), LIMITS)
    made = plan_without_file(asked)
    assert made is not None
    check(made, asked)
    assert (made.status, made.headers) == (204, (("Allow", "GET, HEAD, OPTIONS"),))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_get_and_head_need_a_file(method: str):
    assert plan_without_file(request(method=method)) is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    ("version", "value", "refused"),
    [
        ("HTTP/1.1", "100-continue", False),
        ("HTTP/1.1", "100-Continue", False),
        ("HTTP/1.1", "dance", True),
        ("HTTP/1.1", "100-continue, dance", True),
        ("HTTP/1.1", "100-continue;x=1", True),
        ("HTTP/1.0", "dance", False),
    ],
)
def test_unknown_expectations_are_417(method: str, version: str, value: str, refused: bool):
    made = answer(request(f"Expect: {value}", method=method, version=version))
    assert (made.status == 417) is refused


def test_a_client_that_waits_for_100_gets_its_error_and_the_end():
    fields = ["Expect: 100-continue", "Content-Length: 5"]
    assert answer(request(*fields, method="POST")).close
    assert not answer(request(*fields)).close
    assert CONTINUE == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("status", sorted(REASONS.keys() - {200, 204, 206, 304}))
def test_errors_say_their_status_and_nothing_of_the_request(status: int):
    asked = request("Cookie: secret=1")
    made = plan_error(asked, status)
    check(made, asked)
    assert body_of(made) == f"{status} {REASONS[status]}\n".encode()
    assert made.headers == (("Content-Type", "text/plain"),)
    assert not made.close
    to_head = plan_error(request(method="HEAD"), status)
    assert (to_head.pieces, to_head.content_length) == ((), made.content_length)


def test_errors_take_further_fields_and_may_close():
    made = plan_error(request(), 503, headers=(("Retry-After", "1"),), close=True)
    assert dict(made.headers)["Retry-After"] == "1"
    assert made.close
    assert plan_error(None, 408).close
    assert plan_error(request("Connection: close"), 404).close


def test_a_refusal_closes_and_has_no_body_for_head():
    refusal = BadRequest(400, "malformed")
    made = plan_refusal(refusal)
    check(made, None)
    assert made.close
    assert body_of(made) == b"400 Bad Request\n"
    refusal.to_head = True
    assert plan_refusal(refusal).pieces == ()
    assert plan_refusal(refusal).content_length == made.content_length


@pytest.mark.parametrize(
    ("version", "fields", "connection"),
    [
        ("HTTP/1.1", [], None),
        ("HTTP/1.1", ["Connection: close"], b"close"),
        ("HTTP/1.0", [], b"close"),
        ("HTTP/1.0", ["Connection: keep-alive"], b"keep-alive"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
def test_the_head_says_what_becomes_of_the_connection(
    method: str, version: str, fields: list[str], connection: bytes | None
):
    made = answer(request(*fields, method=method, version=version))
    found = re.findall(rb"\r\nConnection: (.*?)\r\n", head_bytes(made, date=DATE))
    assert found == ([connection] if connection else [])


def test_the_head_to_the_byte():
    made = answer(request(R))
    assert head_bytes(made, date=DATE, extra=(("Cache-Status", "streamcache; hit"),)) == (
        b"HTTP/1.1 206 Partial Content\r\n"
        b"Date: Mon, 12 Jan 2026 00:00:00 GMT\r\n"
        b"Server: streamcache\r\n"
        b"Content-Length: 6\r\n"
        b"Content-Type: video/mp4\r\n"
        b"Content-Range: bytes 0-5/1000\r\n"
        b"Accept-Ranges: bytes\r\n"
        b'ETag: "v1"\r\n'
        b"Last-Modified: Thu, 29 Feb 2024 12:34:56 GMT\r\n"
        b"Cache-Status: streamcache; hit\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("X", "a\r\nY: b"), ("X", "a\nb"), ("X", "a\rb"), ("X", "a\0b"), ("X", "\u20ac")),
        *(("X", "\udcff"), ("", "a"), ("X Y", "a"), ("X:", "a"), ("X\r\nY", "a"), ("\u00e9", "a")),
    ],
)
def test_nothing_can_be_injected_into_a_head(name: str, value: str):
    with pytest.raises(ValueError, match=r".+"):
        head_bytes(answer(request()), date=DATE, extra=((name, value),))


FIELDS = st.sampled_from(
    [
        *("Range: bytes=0-5", "Range: bytes=0-0,5-9", "Range: bytes=5000-", "Range: bytes=x"),
        *('If-Match: "v1"', 'If-Match: "x"', 'If-None-Match: "v1"', 'If-None-Match: "x"'),
        *('If-Range: "v1"', 'If-Range: "x"', f"If-Range: {LM}", f"If-Modified-Since: {LM}"),
        *(f"If-Unmodified-Since: {BEFORE}", "Connection: close", "Expect: dance"),
    ]
)


@given(
    fields=st.lists(FIELDS, max_size=5),
    method=st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "BREW"]),
    version=st.sampled_from(["HTTP/1.0", "HTTP/1.1"]),
    now=st.integers(MTIME - 2, MTIME + 2),
)
def test_every_answer_is_whole_and_head_mirrors_get(
    fields: list[str], method: str, version: str, now: int
):
    made = answer(request(*fields, method=method, version=version), now=now)
    assert made == answer(request(*fields, method=method, version=version), now=now)
    if method == "GET":
        plain = [field for field in fields if not field.startswith("Range")]
        like = answer(request(*plain, version=version), now=now)
        mirrored = answer(request(*fields, method="HEAD", version=version), now=now)
        assert (mirrored.status, mirrored.headers) == (like.status, like.headers)
        assert mirrored.content_length == like.content_length


@pytest.mark.parametrize(
    ("fields", "offset"),
    [
        ((), 0),
        (("Range: bytes=5-9",), 5),
        (("Range: bytes=700-",), 700),
        (("Range: bytes=9-20,0-1",), 9),
        (("Range: bytes=-500",), None),
        (("Range: bytes=9-1",), 0),
        (("Range: lines=3-4",), 0),
        (("If-None-Match: *",), None),
        (("If-Match: *",), None),
        (("If-Modified-Since: Thu, 29 Feb 2024 12:34:56 GMT", "Range: bytes=5-9"), None),
        ((f"Range: bytes={9**30}-",), None),
    ],
)
def test_the_first_offset_is_guessed_before_the_file_is_known(
    fields: tuple[str, ...], offset: int | None
) -> None:
    assert first_offset(request(*fields)) == offset
    assert first_offset(request(*fields, method="HEAD")) is None
