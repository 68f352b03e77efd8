from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.http.dates import MAX_DATE, MIN_DATE, format_date, parse_date

NOW = 1_790_000_000  # 2026-09-21
LEAP = 1709210096  # Thu, 29 Feb 2024 12:34:56 GMT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("Thu, 29 Feb 2024 12:34:56 GMT", LEAP),
        ("Thursday, 29-Feb-24 12:34:56 GMT", LEAP),
        ("Thu Feb 29 12:34:56 2024", LEAP),
        ("Mon, 29 Feb 2024 12:34:56 GMT", LEAP),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_DATE),
        ("Mon, 01 Jan 0001 00:00:00 GMT", MIN_DATE),
    ],
)
def test_dates_in_three_forms(text: str, seconds: int):
    assert parse_date(text, NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "1709210096", "2026-02-28T00:00:00Z", "*", '"x"'),
        "Sat, 31 Feb 2026 00:00:00 GMT",
        "Thu, 29 Feb 2023 00:00:00 GMT",
        "Sat, 28 Feb 2026 24:00:00 GMT",
        "Sat, 28 Feb 2026 25:00:00 GMT",
        "Sat, 28 Feb 2026 00:60:00 GMT",
        "Sat, 28 Feb 2026 00:00:61 GMT",
        "Sat, 00 Feb 2026 00:00:00 GMT",
        "Mon, 01 Jan 0000 00:00:00 GMT",
        "Sat, 28 Feb 2026 00:00:00 UTC",
        "Sat, 28 Feb 2026 00:00:00 +0000",
        "Sat, 28 Feb 2026 00:00:00",
        "Sat, 28 Feb 2026 00:00:00 gmt",
        "sat, 28 feb 2026 00:00:00 GMT",
        "Sat, 28 February 2026 00:00:00 GMT",
        "Sat, 8 Feb 2026 00:00:00 GMT",
        "Sat 28 Feb 2026 00:00:00 GMT",
        "28 Feb 2026 00:00:00 GMT",
        "Sat, 28 Feb 26 00:00:00 GMT",
        "Sat, 28-Feb-26 00:00:00 GMT",
        "Saturday, 28-Feb-2026 00:00:00 GMT",
        "Saturday, 28 Feb 2026 00:00:00 GMT",
        "Sat Feb 8 00:00:00 2026",
        "Sat Feb 28 00:00:00 2026 GMT",
        "Sat, 28 Feb 2026 00:00:00 GMT, Sat, 28 Feb 2026 00:00:00 GMT",
        "Sat, 28 Feb 2026 00:00:00 GMT ",
        "Sat, \u0662\u0668 Feb 2026 00:00:00 GMT",
        "Fri, 31 Dec 10000 23:59:59 GMT",
    ],
)
def test_what_is_no_http_date(text: str):
    assert parse_date(text, NOW) is None


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("Monday, 21-Sep-26 00:00:00 GMT", 2026),
        ("Monday, 01-Jan-27 00:00:00 GMT", 2027),
        ("Monday, 01-Jan-76 00:00:00 GMT", 2076),  # 50 years less some months ahead
        ("Monday, 31-Dec-76 00:00:00 GMT", 1976),  # more than 50 years ahead
        ("Monday, 01-Jan-77 00:00:00 GMT", 1977),
        ("Monday, 01-Jan-99 00:00:00 GMT", 1999),
        ("Monday, 01-Jan-00 00:00:00 GMT", 2000),
    ],
)
def test_two_digit_years_are_at_most_50_years_ahead(text: str, year: int):
    found = parse_date(text, NOW)
    assert found is not None
    assert format_date(found)[12:16] == str(year)


def test_two_digit_years_cross_the_century():
    new_years_eve_2099 = parse_date("Thu, 31 Dec 2099 00:00:00 GMT", NOW)
    assert new_years_eve_2099 is not None
    found = parse_date("Saturday, 02-Jan-01 00:00:00 GMT", new_years_eve_2099)
    assert found is not None
    assert format_date(found).startswith("Sun, 02 Jan 2101")


@given(st.integers(-(2**40), 2**40))
def test_a_date_comes_back(seconds: int):
    if MIN_DATE <= seconds <= MAX_DATE:
        assert parse_date(format_date(seconds), NOW) == seconds
    else:
        with pytest.raises(ValueError, match="no HTTP date"):
            format_date(seconds)


@given(st.integers(0, 2**33))
def test_dates_are_written_as_the_standard_library_does(seconds: int):
    assert format_date(seconds) == email.utils.formatdate(seconds, usegmt=True)
