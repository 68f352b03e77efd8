"""Names of files in a cache directory, and how paths are written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.cache.names import (
    decoded,
    encoded,
    is_key,
    is_name,
    key_for,
    key_of,
    name_of,
    version_of,
)

KEY, VERSION = "ab" * 16, "01" * 16
NAME = name_of(KEY, VERSION)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (NAME, True),
        (NAME.upper(), False),
        (KEY, False),
        (f"{KEY}.", False),
        (f"{NAME}x", False),
        (f"{NAME}.data", False),
        (f"../{KEY[3:]}.{VERSION}", False),
        ("", False),
    ],
)
def test_names_are_two_digests(text: str, good: bool) -> None:
    assert is_name(text) is good


@pytest.mark.parametrize(
    ("text", "good"), [(KEY, True), (KEY.upper(), False), (KEY[1:], False), (f"{KEY[1:]}g", False)]
)
def test_a_key_is_a_digest(text: str, good: bool) -> None:
    assert is_key(text) is good


def test_a_name_is_taken_apart_as_it_was_made() -> None:
    assert (key_of(NAME), version_of(NAME)) == (KEY, VERSION)
    assert key_of(KEY) == KEY


def test_names_stay_what_they_are_on_disks() -> None:
    """A cache of another release is worth nothing to one that gives its files other names."""
    assert name_of(KEY, VERSION) == f"{KEY}.{VERSION}"
    assert key_for("/films", "mtime", "a/\udcff.mp4") == "e002e5f19d97fdbed64ca84cfa3ec0f4"
    assert key_for("/films", "mtime+ctime", "a/\udcff.mp4") == "4517c782da8706e9eb4bd36b3195af9c"


@given(st.binary())
def test_any_path_comes_back_as_it_was_written(octets: bytes) -> None:
    assert encoded(decoded(octets)) == octets
