from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.http.ranges import UNSATISFIABLE, ByteRange, parse_range


def ranges(value: str, size: int = 1000, max_ranges: int = 16) -> object:
    """What the value comes to, ranges as pairs."""
    found = parse_range(value, size, max_ranges)
    return [(one.start, one.stop) for one in found] if isinstance(found, tuple) else found


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-499", [(0, 500)]),
        ("bytes=500-999", [(500, 1000)]),
        ("bytes=0-", [(0, 1000)]),
        ("bytes=999-", [(999, 1000)]),
        ("bytes=0-1000", [(0, 1000)]),
        ("bytes=998-5000", [(998, 1000)]),
        ("bytes=-1", [(999, 1000)]),
        ("bytes=-1000", [(0, 1000)]),
        ("bytes=-1001", [(0, 1000)]),
        ("bytes=-" + "9" * 5000, [(0, 1000)]),
        ("bytes=5-" + "9" * 5000, [(5, 1000)]),
        ("bytes=00005-0010", [(5, 11)]),
        ("bytes=" + "0" * 5000 + "5-6", [(5, 7)]),
        ("BYTES=0-9", [(0, 10)]),
        ("bytes=0-9,", [(0, 10)]),
        ("bytes=,0-9", [(0, 10)]),
        ("bytes= ,0-9", [(0, 10)]),
        ("bytes=\t , ,\t0-9", [(0, 10)]),
        ("bytes=0-9,,", [(0, 10)]),
        ("bytes=0-1,5000-6000", [(0, 2)]),
        ("bytes=-0,4-5", [(4, 6)]),
        ("bytes=0-0,-1", [(0, 1), (999, 1000)]),
        ("bytes=0-9 ,\t20-29", [(0, 10), (20, 30)]),
        ("bytes=500-599,0-99", [(500, 600), (0, 100)]),
        ("bytes=0-1,5000-,10-11", [(0, 2), (10, 12)]),
        ("bytes=0-99,50-149", [(0, 100), (50, 150)]),
        ("bytes=0-499,500-999", [(0, 500), (500, 1000)]),
    ],
)
def test_satisfiable_ranges_in_the_order_asked_for(value: str, wanted: list[tuple[int, int]]):
    assert ranges(value) == wanted


@pytest.mark.parametrize(
    "value",
    [
        *("bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=-000", "bytes=1000-,2000-3000"),
        *("bytes=18446744073709551616-", "bytes=" + "9" * 5000 + "-", "bytes=5000-, -0"),
        "bytes=99999999999999999999-99999999999999999999",
    ],
)
def test_unsatisfiable(value: str):
    assert ranges(value) is UNSATISFIABLE


@pytest.mark.parametrize(
    "value",
    [
        *("bytes=500-499", "bytes=abc", "bytes=", "bytes=-", "bytes=--1", "bytes=0-1-2", "bytes=5"),
        *("bytes=0-1;2-3", "bytes=a-b", "bytes=0-x", "bytes=x-5", "bytes=0.0-5", "bytes=+0-5"),
        *("bytes=0-+5", "bytes=0x0-0x5", "bytes=0 - 5", "bytes=0-5 6-7", "bytes=\u00b2-5"),
        *("bytes=1_0-2_0", "bytes==0-5", "bytes=,", "bytes=0--5", "bytes=-5-", "bytes=\u0660-5"),
        *(
            "bytes= 0-5",
            "bytes=\t0-5,7-8",
            "bytes= , ",
            "bytes=0-5,5-4",
            "bytes=0-1,x",
            "bytes=5000-,x",
            "bytes=5000-4000",
        ),
        *("items=0-5", "none=0-5", "xbytes=0-5", "bytes", "bytes 0-5", "bytes:0-5", "0-5", "=0-5"),
        *("", "bytes =0-5", " bytes=0-5", "bytes=0-1\0"),
    ],
)
def test_malformed_ranges_and_other_units_are_ignored(value: str):
    assert ranges(value) is None


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=-5", "bytes=5-", "bytes=-0"])
def test_an_empty_file_ignores_ranges(value: str):
    assert ranges(value, size=0) is None


def test_more_ranges_than_the_limit_are_the_whole_file():
    few = "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 32, 2))
    assert len(parse_range(few, 1000, 16) or ()) == 16
    assert ranges(few + ",40-40") is None
    assert ranges("bytes=" + ",".join(["5000-"] * 17)) is None


@pytest.mark.parametrize(
    "value", ["bytes=0-,0-", "bytes=0-999,0-999", "bytes=0-,999-", "bytes=0-599,300-800,700-800"]
)
def test_ranges_that_add_up_to_more_than_the_file_are_the_whole_file(value: str):
    assert ranges(value) is None


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 4), (-1, 4)])
def test_a_range_holds_bytes(start: int, stop: int):
    with pytest.raises(ValueError, match="no bytes"):
        ByteRange(start, stop)


SPECS = st.one_of(
    st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda ends: f"{ends[0]}-{ends[1]}"),
    st.integers(0, 30).map(lambda first: f"{first}-"),
    st.integers(0, 30).map(lambda count: f"-{count}"),
)


@given(specs=st.lists(SPECS, min_size=1, max_size=5), size=st.integers(0, 25))
def test_ranges_are_those_of_a_plain_reading(specs: list[str], size: int):
    wanted: list[tuple[int, int]] = []
    malformed = False
    for spec in specs:
        first, _, last = spec.partition("-")
        if first and last and int(last) < int(first):
            malformed = True
        if first:
            positions = [at for at in range(int(first), size) if not last or at <= int(last)]
        else:
            positions = [at for at in range(size) if at >= size - int(last)]
        if positions:
            wanted.append((positions[0], positions[-1] + 1))
    found = ranges("bytes=" + ",".join(specs), size)
    if malformed or not size or sum(stop - start for start, stop in wanted) > size:
        assert found is None
    else:
        assert found == (wanted or UNSATISFIABLE)


@given(st.text("bytes=0123456789-, \t", max_size=30), st.integers(0, 100))
def test_any_text_gives_ranges_inside_the_file(value: str, size: int):
    for text in (value, "bytes=" + value):
        found = parse_range(text, size, 4)
        if isinstance(found, tuple):
            assert 1 <= len(found) <= 4
            assert all(0 <= one.start < one.stop <= size for one in found)
            assert sum(one.length for one in found) <= size
