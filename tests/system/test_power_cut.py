"""The power goes: nothing under objects/ is wrong, and a start on what is left serves right (I5).

Everything that two lives of a cache do to its directory is recorded (``tests/powercut``). Then
the power is cut after each of these operations, and of what was not synced nothing, some or all is
on the disk, in an order or in none. SOAK_CUTS starts a cache on so many of these states.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from streamcache import CacheStatus
from streamcache.cache import store
from streamcache.cache.blockmap import BLOCK
from streamcache.cache.digests import SUFFIX, digest, digests_of, place
from streamcache.cache.marker import MARK
from streamcache.source.base import Version
from tests.content import verify, write
from tests.daemon_process import REPOSITORY
from tests.powercut import RecordedFS
from tests.powercut.history import Cut, File, Keep, Move, Record, Tree, disk_after
from tests.powercut.recorded import lay_out
from tests.requirements import missing
from tests.slowfs import unsupported
from tests.soak.audit import Books
from tests.system.conftest import OpenCache
from tests.system.site import (
    MiB,
    assert_right,
    disk_usage,
    eventually,
    fetch,
    partials_in,
    settle,
)

FILES = {f"film{number}": MiB // 8 * (number + 1) + 77 * number for number in range(8)}
LIMIT = 3 * MiB
LIVES = 3
STARTS = int(os.environ.get("SOAK_CUTS", "24"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or secrets.randbits(32)


@dataclass(frozen=True, slots=True)
class Recording:
    """What was done to a cache directory, and what the files at its source were meanwhile."""

    source: Path
    records: list[Record]
    versions: dict[str, tuple[str, int]]  # by version: content and size
    now: dict[str, str]  # by name: its content


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Copies, evictions, replaced files; the cache is closed and opened again in between.

    Digests of blocks are recorded in all lives but one.
    """
    if (reason := unsupported()) is not None:
        missing(reason)
    source, versions, now = tmp_path_factory.mktemp("source"), {}, {}

    def put(name: str, content: str) -> None:
        path = write(source, name, FILES[name], content_name=content)
        versions[Version.of(path.stat()).id] = (content, FILES[name])
        now[name] = content

    for name in FILES:
        put(name, name)
    with RecordedFS() as fs:
        for life in range(LIVES):
            command = (sys.executable, "-m", "tests.system.crashing", source, fs.path / "cache")
            more = {"contents": now, "cache": {"checksum": "off" if life == 1 else "xxh3"}}
            rest = (LIMIT, SEED + life, 0, json.dumps(more))
            subprocess.run([*map(str, command + rest)], cwd=REPOSITORY, check=True)
            for name in Random(SEED + life).sample(sorted(FILES), 2):
                put(name, f"{name} of life {life}")
        fs.unmount()
        return Recording(source, fs.records(), versions, now)


def cuts(records: list[Record]) -> list[Cut]:
    """One at each operation, what is left differs from one to the next."""
    random = Random(SEED)
    kinds = list(itertools.product(Keep, Keep, (True, False)))
    return [
        Cut(at, *kinds[(at * 7) % len(kinds)], seed=random.getrandbits(32))
        for at in range(len(records) + 1)
    ]


def wrong_objects(tree: Tree, recording: Recording) -> list[str]:
    """The objects on that disk that are not whole, or of no version; and wrong digests of them."""
    cache = tree.get("cache", {})
    assert isinstance(cache, dict)
    objects = cache.get("objects", {})
    assert isinstance(objects, dict)
    wrong = []
    for folder in objects.values():
        assert isinstance(folder, dict)
        for name, file in folder.items():
            assert isinstance(file, File)
            if name.endswith(SUFFIX):
                object_ = folder.get(name.removesuffix(SUFFIX))
                if isinstance(object_, File) and not are_right(file, object_):
                    wrong.append(f"{name}: digests")
                continue
            content, size = recording.versions[name.partition(".")[2]]
            if len(file.data) != size or verify(content, 0, file.data) is not None:
                wrong.append(f"{name} of {content}")
    return wrong


def are_right(sums: File, object_: File) -> bool:
    """Whether the digests that are recorded are those of the object's blocks."""
    for number, start in enumerate(range(0, len(object_.data), BLOCK)):
        recorded = bytes(sums.data[place(number) : place(number + 1)])
        block = memoryview(object_.data)[start : start + BLOCK]
        if recorded not in (bytes(len(recorded)), digests_of(block, digest())):
            return False
    return len(sums.data) == place(-(-len(object_.data) // BLOCK))


def test_no_object_is_wrong_whenever_the_power_goes(recording: Recording) -> None:
    print(f"SOAK_SEED={SEED}")
    objects = 0
    for cut in cuts(recording.records):
        tree = disk_after(recording.records, cut)
        assert wrong_objects(tree, recording) == [], cut
        objects += "objects" in tree.get("cache", {})
    assert objects > len(recording.records) // 2
    moved = [record.to_name for record in recording.records if isinstance(record, Move)]
    assert len(moved) > 8 and any(name.endswith(SUFFIX) for name in moved)  # published


def test_a_cache_is_known_for_one_before_anything_is_in_it(recording: Recording) -> None:
    """Or the next start would take it for somebody else's directory."""
    begun = 0
    for cut in cuts(recording.records)[:200]:
        cache = disk_after(recording.records, cut).get("cache", {})
        assert isinstance(cache, dict)
        if set(cache) - {"lock", "format"}:
            mark = cache.get("format")
            assert isinstance(mark, File) and bytes(mark.data) == MARK.encode(), cut
            begun += 1
    assert begun > 100


def test_the_model_would_show_an_object_that_was_not_synced(recording: Recording) -> None:
    """Without its fsync calls, the cache fails the test above."""
    from tests.powercut.history import Sync

    unsynced = [record for record in recording.records if not isinstance(record, Sync)]
    states = (disk_after(unsynced, cut) for cut in cuts(unsynced))
    assert any(wrong_objects(tree, recording) for tree in states)


def test_a_start_on_whatever_is_left_serves_right(
    recording: Recording,
    tmp_path: Path,
    open_cache: OpenCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    print(f"SOAK_SEED={SEED}")
    monkeypatch.setattr(store, "_boot_id", lambda: "after the power cut")
    chosen = Random(SEED).sample(cuts(recording.records), STARTS)
    hits = 0
    for number, cut in enumerate(chosen):
        print(cut)
        tree = disk_after(recording.records, cut)
        cache_dir = tmp_path / f"cut{number}"
        left = tree.get("cache", {})
        assert isinstance(left, dict)
        lay_out(left, cache_dir)
        cache = open_cache(recording.source, LIMIT, at=cache_dir, cache={"evict_interval": 0.05})
        for name, content in recording.now.items():
            answer = fetch(cache, name)
            assert_right(answer, content, FILES[name])
            hits += answer.status is CacheStatus.HIT
        # What the sweep finds in use (its key is asked for just then) it takes ten seconds later.
        settle(cache, cache_dir, wait=30.0)
        eventually(lambda at=cache_dir: not partials_in(at), wait=30.0)  # of another boot
        books = eventually(lambda at=cache_dir: (b := Books.read(at)).complete and b)
        assert books.difference(cache_dir) is None
        eventually(lambda at=cache_dir: disk_usage(at) <= LIMIT)
        cache.close()
        shutil.rmtree(cache_dir)
    assert hits > STARTS // 4
