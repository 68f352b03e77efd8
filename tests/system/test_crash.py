"""SIGKILL at any step leaves what the next process can trust (I5, I6, I8, I13)."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.cache import ledger
from streamcache.cache.database import CatalogError
from tests.content import verify, write
from tests.daemon_process import REPOSITORY
from tests.system.conftest import OpenCache
from tests.system.site import (
    MiB,
    assert_right,
    at_rest,
    disk_usage,
    eventually,
    fetch,
    objects_in,
    partials_in,
    settle,
)

FILES = {f"film{number}": MiB // 4 * (number + 1) + 77 * number for number in range(6)}
LIMIT = 4 * MiB
POINTS = 20


def start(source: Path, cache_dir: Path, seed: int, kill_at: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.system.crashing", str(source), str(cache_dir)),
            *map(str, (LIMIT, seed, kill_at)),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def ended(child: subprocess.Popen[str]) -> str:
    out, _ = child.communicate(timeout=30)
    return out


def assert_trustworthy(source: Path, cache_dir: Path) -> int:
    """Before anybody repairs anything: objects and present blocks; how many of both."""
    by_version = {}
    with StreamCache(source, cache_dir.with_name("other"), MiB) as other:
        for name in FILES:
            with other.find(f"/{name}") as found:
                by_version[other._parts.provider._name(name, found.version)] = name
    for stored in (cache_dir / "objects").glob("*/*"):
        name = by_version[stored.name]
        data = stored.read_bytes()
        assert len(data) == FILES[name]
        assert verify(name, 0, data) is None
    partials = partials_in(cache_dir)
    for partial in partials:
        assert partial.wrong_byte(partial.header.path) is None
    assert disk_usage(cache_dir) <= LIMIT
    return len(objects_in(cache_dir)) + len(partials)


def test_a_kill_at_any_step_leaves_what_can_be_trusted(
    filled: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    seed = 7
    whole = start(filled, cache_dir / "whole", seed, 0)
    total = int(ended(whole).split()[1])
    assert whole.returncode == 0 and total > 100
    random = Random(seed)
    points = sorted(random.sample(range(15, total), POINTS))
    seen = 0
    # Some after the other on one directory, so that what one leaves is the start of the next.
    for row in range(4):
        at = cache_dir / f"row{row}"
        for point in points[row::4]:
            child = start(filled, at, seed + point, point)
            out = ended(child)
            if child.returncode != -signal.SIGKILL:
                assert (child.returncode, out.split()[0]) == (0, "steps")  # fewer steps this time
            seen += assert_trustworthy(filled, at)
        cache = open_cache(filled, LIMIT, at=at)
        settle(cache, at)  # what was found on disk, and nothing else
        for name, size in FILES.items():
            assert_right(fetch(cache, name), name, size)
            assert_right(fetch(cache, name, size // 2), name, size, size // 2)
        settle(cache, at)
        assert disk_usage(at) <= LIMIT
        cache.close()
    assert seen > POINTS


def test_killed_twice_between_the_name_and_the_catalog(
    source: Path, cache_dir: Path, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time while it starts: the third one must still learn of the object."""
    write(source, "film", MiB)

    def killed(*_: object) -> None:
        raise CatalogError("as if killed")

    with monkeypatch.context() as patched:
        patched.setattr(ledger.Ledger, "add", killed)
        cache = open_cache(source)
        fetch(cache, "film")
        eventually(lambda: objects_in(cache_dir) and at_rest(cache))
        cache.close()
        patched.setattr(ledger.Ledger, "start", killed)
        with pytest.raises(CatalogError):
            open_cache(source)

    cache = open_cache(source)
    assert fetch(cache, "film").status is CacheStatus.HIT
    settle(cache, cache_dir)
    assert cache.statistics().objects == 1
