from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.http.body import MAX_LINE, MAX_TRAILERS, BodyReader
from streamcache.http.request import BadRequest, parse_head
from tests.http.wire import LIMITS, head, single_bytes

LIMIT = 100_000


def reader(*fields: str, limit: int = LIMIT) -> BodyReader:
    return BodyReader(parse_head(head("/a", *fields).removesuffix(b"\r\n\r\n"), LIMITS), limit)


def drain(pieces: list[bytes], limit: int = LIMIT) -> int | str:
    """Bytes of the chunked body in the pieces; "more" when it goes on; a refusal's status."""
    body = reader("Transfer-Encoding: chunked", limit=limit)
    taken = 0
    try:
        for piece in pieces:
            taken += body.feed(piece)
    except BadRequest as refusal:
        return f"refused {refusal.status}"
    return taken if body.done else "more"


def drain_all_ways(data: bytes, limit: int = LIMIT) -> int | str:
    outcome = drain([data], limit)
    assert drain(single_bytes(data), limit) == outcome
    return outcome


def test_without_a_body_there_is_nothing_to_drain():
    body = reader()
    assert body.done
    assert body.feed(b"GET") == 0


def test_a_body_with_a_length_takes_exactly_that():
    body = reader("Content-Length: 5")
    assert not body.done
    assert body.feed(b"hel") == 3
    assert not body.done
    assert body.feed(b"loGET") == 2
    assert body.done
    assert body.feed(b"GET") == 0


def test_a_length_beyond_the_limit_is_413_before_any_byte():
    assert not reader("Content-Length: 10", limit=10).done
    with pytest.raises(BadRequest) as refusal:
        reader("Content-Length: 11", limit=10)
    assert refusal.value.status == 413


@pytest.mark.parametrize(
    "data",
    [
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"A\r\n0123456789\r\n0\r\n\r\n",
        b"a\r\n0123456789\r\n0\r\n\r\n",
        b"0005\r\nhello\r\n000\r\n\r\n",
        b"0" * 1000 + b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\r\nhello\r\n0;x\r\n\r\n",
        b'5;a="b;c"\r\nhello\r\n0\r\n\r\n',
        b'5;a="b\\"c"\r\nhello\r\n0\r\n\r\n',
        b"5 ; a = b;c\t;d\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-T: 1\r\nX-U:\r\n\r\n",
        b"0\r\nContent-Length: 50\r\nHost: evil\r\n\r\n",
        b"5\r\n\r\n\r\n\n\r\n0\r\n\r\n",
    ],
)
def test_a_chunked_body_ends_where_it_says(data: bytes):
    assert drain_all_ways(data) == len(data)
    assert drain_all_ways(data + head()) == len(data)
    for cut in range(len(data)):
        assert drain([data[:cut]]) == "more"


@pytest.mark.parametrize(
    "data",
    [
        b"g\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"5\0\r\nhello\r\n0\r\n\r\n",
        b"\xb2\r\nhello\r\n0\r\n\r\n",
        b"5;\r\nhello\r\n0\r\n\r\n",
        b"5;a=\r\nhello\r\n0\r\n\r\n",
        b'5;a="b\r\nhello\r\n0\r\n\r\n',
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"5;a\nhello\r\n0\r\n\r\n",
        b"5;a\0\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello!!\r\n0\r\n\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"0\r\nX T: 1\r\n\r\n",
        b"0\r\nX-T : 1\r\n\r\n",
        b"0\r\nX-T: 1\r\n folded\r\n\r\n",
        b"0\r\nX-T: a\0b\r\n\r\n",
        b"0\r\nX-T: a\rb\r\n\r\n",
        b"0\r\nnothing\r\n\r\n",
        b"5;" + b"a" * MAX_LINE,
        b"0\r\nX: " + b"a" * MAX_LINE,
    ],
)
def test_a_chunked_body_that_is_not_to_the_letter_is_400(data: bytes):
    assert drain_all_ways(data) == "refused 400"


@pytest.mark.parametrize(
    "data",
    [
        b"FFFFFFFFFFFFFFFFF\r\n",
        b"10000000000000005\r\nhello",
        b"f" * 4000 + b"\r\n",
        b"%x\r\n" % LIMIT,
        b"0\r\n" + b"X: yyyyyyyy\r\n" * (MAX_TRAILERS // 10),
    ],
)
def test_too_much_chunked_body_is_413(data: bytes):
    assert drain_all_ways(data) == "refused 413"


def test_the_limit_counts_bytes_on_the_wire():
    data = b"100\r\n" + b"x" * 256 + b"\r\n0\r\n\r\n"
    assert drain_all_ways(data, limit=len(data)) == len(data)
    assert drain_all_ways(data, limit=len(data) - 1) == "refused 413"


def test_a_small_chunk_counts_as_a_larger_one():
    """Reading its size costs the same, and a sender six bytes."""
    data = b"1\r\nx\r\n" * 20 + b"0\r\n\r\n"
    counted = len(data) + 20 * 255
    assert drain_all_ways(data, limit=counted) == len(data)
    assert drain_all_ways(data, limit=counted - 1) == "refused 413"


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    after=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=5),
)
def test_chunks_are_skipped_however_they_are_cut(
    chunks: list[bytes], after: bytes, cuts: list[int]
):
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    pieces[-1] += after
    assert drain(pieces) == len(data)


@given(st.binary(max_size=60) | st.text('05a;="\r\n X:', max_size=40).map(str.encode))
def test_any_bytes_of_a_chunked_body_have_one_outcome(data: bytes):
    for limit in (5, 20, LIMIT):
        assert drain_all_ways(data, limit) in ("more", "refused 400", "refused 413", *range(61))
