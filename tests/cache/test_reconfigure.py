"""Options that change while a cache runs: all at once, and what they mean from then on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcache import StreamCache
from streamcache.config import TABLE, Config, change, changed
from streamcache.errors import NoSpace
from tests.content import content, write
from tests.server.client import eventually

SIZE = 64 * 2**20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write(tmp_path / "films", "a.mp4", 300_000)
    write(tmp_path / "films", "b.mp4", 300_000)
    return tmp_path / "films"


@pytest.fixture
def cache(source: Path, tmp_path: Path) -> Iterator[StreamCache]:
    with StreamCache(source, tmp_path / "cache", SIZE) as cache:
        yield cache


def other(value: object, section: str, key: str) -> object:
    """A value that is allowed and not this one."""
    known = TABLE[section][key]
    if known.choices:
        return next(each for each in known.choices if each != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value * 0.99 if value else 1.0
    assert isinstance(value, int)
    return value + 1 if value else max(7, int(known.minimum))


def everything(config: Config, sections: tuple[str, ...]) -> Config:
    """All that a reload can change is something else."""
    for section in sections:
        values = {
            key: other(getattr(getattr(config, section), key), section, key)
            for key, known in TABLE[section].items()
            if known.reload
        }
        config = changed(config, section, **values)
    return config


def test_all_that_says_reload_can_change_and_nothing_needs_a_restart(
    cache: StreamCache, source: Path
) -> None:
    wanted = everything(cache.config, ("source", "cache", "copy"))
    assert cache.reconfigure(wanted) == ()
    assert cache.config == wanted
    with cache.open("/a.mp4") as film:
        assert film.read() == (source / "a.mp4").read_bytes()


def test_what_needs_a_restart_is_named_and_stays(cache: StreamCache, tmp_path: Path) -> None:
    before = cache.config
    wanted = changed(before, "cache", size=2 * SIZE, dir=str(tmp_path / "b"), policy="lru")
    assert cache.reconfigure(wanted) == ("cache.dir", "cache.size", "cache.policy")
    assert cache.config == before


def test_a_size_of_0_is_what_was_found_at_the_start(cache: StreamCache) -> None:
    assert cache.reconfigure(changed(cache.config, "cache", size=0)) == ()
    assert cache.config.cache.size == SIZE


def test_shorter_freshness_holds_for_what_is_known_already(
    cache: StreamCache, source: Path
) -> None:
    cache.reconfigure(changed(cache.config, "source", revalidate=3600.0))
    with cache.open("/a.mp4") as film:
        film.read()
    (source / "a.mp4").unlink()
    with cache.open("/a.mp4") as film:  # known for an hour
        assert film.read(10) == content("a.mp4", 0, 10)
    cache.reconfigure(changed(cache.config, "source", revalidate=0.0))
    with pytest.raises(FileNotFoundError):
        cache.open("/a.mp4")


def test_a_smaller_mark_evicts(cache: StreamCache) -> None:
    for name in ("/a.mp4", "/b.mp4"):
        with cache.open(name) as film:
            film.read()
    eventually(lambda: cache.statistics().objects == 2)
    share = 300_000 / SIZE
    cache.reconfigure(
        changed(
            cache.config,
            "cache",
            high_watermark=share,
            low_watermark=share / 2,
            evict_interval=0.01,
        )
    )
    eventually(lambda: cache.statistics().objects == 0)


def test_when_nothing_is_to_be_evicted_any_more_nobody_waits_for_room(cache: StreamCache) -> None:
    cache.reconfigure(changed(cache.config, "cache", cleanup=False))
    space = cache._parts.space
    with pytest.raises(NoSpace):
        space.draw("x", SIZE + 1, SIZE + 1)
    assert not space.cleanup


def test_a_file_that_has_become_too_large_is_no_longer_cached(cache: StreamCache) -> None:
    cache.reconfigure(changed(cache.config, "cache", max_file_size=100_000))
    with cache.open("/a.mp4") as film:
        assert film.read() == content("a.mp4", 0, 300_000)
        assert film.status.value == "bypass"


def test_before_the_start_it_is_what_it_starts_with(source: Path, tmp_path: Path) -> None:
    cache = StreamCache(source, tmp_path / "cache", SIZE)
    assert cache.reconfigure(changed(cache.config, "copy", max_idle=7)) == ()
    with cache:
        assert cache.config.copy.max_idle == 7


def test_changes_are_told_by_name_and_section() -> None:
    old = Config()
    new = changed(changed(old, "limits", ranges=3), "server", backlog=5, drain_timeout=1.0)
    told = change(old, new)
    assert told.applied == ("server.drain_timeout", "limits.ranges")
    assert told.restart == ("server.backlog",)
    assert told.config == changed(changed(old, "limits", ranges=3), "server", drain_timeout=1.0)
    assert change(old, new, ("limits",)).restart == ()
