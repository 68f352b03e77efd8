"""What a worker gets of the whole daemon's limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.config import TABLE, Config, changed
from streamcache.daemon.shares import share_of

DIVIDED = (
    *("source.workers", "source.meta_workers", "cache.workers", "limits.connections"),
    *("copy.in_flight", "copy.max_idle", "copy.max_bandwidth"),
)


def value(config: Config, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


def with_value(name: str, wanted: int) -> Config:
    section, _, key = name.partition(".")
    return changed(Config(), section, **{key: wanted})


@pytest.mark.parametrize(
    ("name", "whole", "workers", "each"),
    [
        ("source.workers", 16, 2, 8),
        ("source.workers", 16, 64, 4),
        ("source.workers", 2, 8, 2),
        ("source.meta_workers", 8, 2, 4),
        ("cache.workers", 8, 8, 4),
        ("copy.in_flight", 3, 2, 2),
        ("copy.in_flight", 16, 4, 4),
        ("copy.in_flight", 3, 16, 2),
        ("copy.in_flight", 1, 16, 1),
        ("copy.max_idle", 2, 2, 1),
        ("copy.max_idle", 2, 16, 1),
        ("copy.max_idle", 0, 16, 0),
        ("copy.max_bandwidth", 0, 2, 0),
        ("copy.max_bandwidth", 10 * 2**20, 2, 5 * 2**20),
        ("copy.max_bandwidth", 100 * 2**10, 4, 64 * 2**10),
        ("limits.connections", 0, 2, 0),
        ("limits.connections", 1001, 2, 501),
        ("limits.connections", 1, 2, 1),
    ],
)
def test_what_is_divided(name: str, whole: int, workers: int, each: int) -> None:
    assert value(share_of(with_value(name, whole), workers), name) == each


@given(st.sampled_from(DIVIDED), st.integers(2**16, 2**20), st.integers(1, 1024))
def test_a_share_is_allowed_enough_and_never_more_than_the_whole(
    name: str, whole: int, workers: int
) -> None:
    section, _, key = name.partition(".")
    whole = min(whole, int(TABLE[section][key].maximum))
    each = value(share_of(with_value(name, whole), workers), name)
    assert 0 < each <= whole <= each * workers


def test_all_else_stays_and_the_reference_says_what_does_not() -> None:
    config, share = Config(), share_of(Config(), 1000)
    for section, options in TABLE.items():
        for key, option in options.items():
            name = f"{section}.{key}"
            divided = name in DIVIDED
            assert ("divided over the workers" in option.why) == divided, name
            assert divided or value(share, name) == value(config, name), name


def test_one_worker_has_everything() -> None:
    assert share_of(Config(), 1) == Config()
