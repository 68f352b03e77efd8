"""Sizes and durations: read as people write them, written so that they read back the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1kB", 1000),
        ("1KB", 1000),
        ("500MB", 500 * 10**6),
        ("500 MB", 500 * 10**6),
        ("2TB", 2 * 10**12),
        ("1PB", 10**15),
        ("1KiB", 2**10),
        ("10GiB", 10 * 2**30),
        ("10gib", 10 * 2**30),
        (" 1.5 GiB ", 3 * 2**29),
        ("0.1GB", 10**8),
        ("1TiB", 2**40),
        ("1PiB", 2**50),
        ("500G", 500 * 2**30),
        ("500M", 500 * 2**20),
        ("1.5k", 1536),
        ("2t", 2**41),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MB",
        "-1",
        "+1",
        "1e9",
        "1_000",
        "10 XB",
        "10Mb/s",
        "1..5MB",
        "١٠MB",
        "0x10",
        "1.5",
        "nan",
        "inf",
        "1  MB",
        "9" * 100_000,
    ],
)
def test_what_is_no_size_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: bytes as a plain number") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 250  # however long the text is


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1, "1"),
        (1000, "1kB"),
        (1024, "1KiB"),
        (1025, "1025"),
        (1_048_576, "1MiB"),
        (5 * 10**8, "500MB"),
        (10 * 2**30, "10GiB"),
    ],
)
def test_a_size_is_written_in_the_unit_that_is_whole(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 2**63 - 1))
def test_a_size_reads_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("2", 2.0),
        ("0.5", 0.5),
        ("250ms", 0.25),
        ("15 ms", 0.015),
        ("2s", 2.0),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("1D", 86400.0),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1e3", "2 min", "1m30s", "2us", "inf", "nan"])
def test_what_is_no_duration_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: seconds as a plain number"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (2.0, "2s"),
        (0.25, "250ms"),
        (75, "75s"),
        (300, "5m"),
        (3600, "1h"),
        (86400, "1d"),
        (0.0005, "0.0005s"),
        (90, "90s"),
        (1.5, "1500ms"),
    ],
)
def test_a_duration_is_written_in_the_unit_that_is_whole(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, 1e9, allow_nan=False).map(lambda value: round(value, 6)))
def test_a_duration_reads_back_exactly(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
