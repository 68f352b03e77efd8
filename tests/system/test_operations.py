"""What an operator does to a cache that runs: it is done, and nobody gets a wrong byte."""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gevent
import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.cache import operations
from streamcache.cache.listing import Listing
from streamcache.cache.operations import Purged
from streamcache.cache.removal import Removal
from streamcache.cache.selection import Selection
from streamcache.errors import CacheBusy, NoSpace
from streamcache.source.base import SourceFile
from streamcache.source.filesystem import FileSystemSource
from tests.content import verify, write, write_all
from tests.server.client import Client
from tests.slowfs import SlowFS
from tests.system.conftest import OpenCache
from tests.system.site import (
    MiB,
    assert_right,
    eventually,
    fetch,
    files_below,
    objects_in,
    opened,
    partials_in,
    read,
    settle,
    take,
)

SIZE = 300_000
put = functools.partial(write_all, size=SIZE)
LONG = {"revalidate": 3600.0}  # s: nothing is asked again but for a reason


def cached(cache: StreamCache, cache_dir: Path, *names: str) -> None:
    for name in names:
        assert_right(fetch(cache, name), name, SIZE)
    settle(cache, cache_dir)


def paths(cache: StreamCache) -> list[str]:
    listing = Listing(Selection.everything())
    return [one.path for one in cache.operations.entries(listing, all_sources=True).entries]


def status(cache: StreamCache, name: str) -> CacheStatus:
    answer = fetch(cache, name)
    assert_right(answer, name, SIZE)
    return answer.status


# -- purge


def test_what_is_purged_comes_from_the_source_again(
    open_cache: OpenCache, source: Path, cache_dir: Path
) -> None:
    put(source, "a/1", "a/2", "b/1")
    cache = open_cache(source, source_options=LONG)
    cached(cache, cache_dir, "a/1", "a/2", "b/1")
    usage, blocks = (
        cache.statistics().usage,
        sum(s.st_blocks for s in files_below(cache_dir).values()),
    )
    meant = Selection.of(prefix="/a/")
    would = cache.operations.purge(meant, dry_run=True)
    assert (would.matched, would.removed, would.dry_run) == (2, 2, True)
    assert 0 < would.bytes < blocks * 512
    assert len(paths(cache)) == 3  # it was a dry run
    assert cache.operations.purge(meant) == Purged(2, 2, would.bytes, dry_run=False)
    assert paths(cache) == ["b/1"]
    assert len(objects_in(cache_dir)) == 1
    assert cache.statistics().usage == usage - would.bytes
    assert status(cache, "a/1") is CacheStatus.MISS
    assert status(cache, "b/1") is CacheStatus.HIT
    assert cache.operations.purge(Selection.of(path="/a/2")) == Purged(0, 0, 0, dry_run=False)


def test_a_purged_object_is_read_to_its_end_and_joined_by_nobody(
    open_cache: OpenCache, source: Path, cache_dir: Path
) -> None:
    put(source, "f")
    cache = open_cache(source, source_options=LONG)
    cached(cache, cache_dir, "f")
    with opened(cache, "f") as before:
        begun = take(before, 0, 1000)
        purged = cache.operations.purge(Selection.of(path="f"))
        assert (purged.matched, purged.removed) == (1, 1)
        # Another content, which the attributes do not show: so we see whose bytes are served.
        write(source, "f", SIZE, content_name="other")
        answer = fetch(cache, "f")
        assert answer.status is CacheStatus.MISS
        assert_right(answer, "other", SIZE)
        assert_right(type(answer)(answer.status, SIZE, begun + read(before, 1000, SIZE)), "f", SIZE)
        assert any(name.startswith("trash/") for name in files_below(cache_dir))
    settle(cache, cache_dir)
    assert not any(name.startswith("trash/") for name in files_below(cache_dir))
    assert_right(fetch(cache, "f"), "other", SIZE)


def test_what_is_not_purged_is_named(
    open_cache: OpenCache,
    source: Path,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The key is held, by a process that was stopped perhaps: an object in use, and a partial."""
    put(source, "a/f")
    write(source, "a/g", 8 * MiB)
    cache = open_cache(source, copy={"max_bandwidth": 2 * MiB})
    cached(cache, cache_dir, "a/f")

    def held(*_: object) -> bool:
        raise CacheBusy("held")

    monkeypatch.setattr(Removal, "purge", held)
    with opened(cache, "a/f"), opened(cache, "a/g") as film:
        take(film, 0, MiB)
        eventually(lambda: partials_in(cache_dir))
        purged = cache.operations.purge(Selection.of(prefix="/a/"))
        assert (purged.matched, purged.removed) == (2, 0)
    for name in ("f", "g"):
        assert re.search(
            rf"not purged path='/a/{name}' name=[0-9a-f.]{{65}} error=held", caplog.text
        )


def test_a_copy_that_is_purged_gives_no_byte_to_who_comes_after(
    open_cache: OpenCache, fast: SlowFS, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers of the old copy go on with it; the same version is copied anew, into another file."""
    size = 4 * MiB
    put(fast.backing, "f", size=size)
    cache = open_cache(fast.path, source_options=LONG, cache={"evict_interval": 0.05})
    fast.set(bandwidth=4 * MiB)
    with opened(cache, "f") as first, opened(cache, "f") as second:
        got = take(first, 0, 1000)
        take(second, 0, 1000)
        eventually(lambda: partials_in(cache_dir) and partials_in(cache_dir)[0].present_bytes)
        (old,) = partials_in(cache_dir)
        inode = os.stat(old.data).st_ino
        purged = cache.operations.purge(Selection.of(glob="*"))
        assert (purged.matched, purged.removed) == (1, 1) and purged.bytes >= size
        assert partials_in(cache_dir) == []
        assert cache.statistics().usage >= size  # it is in use, so it counts
        fast.set(bandwidth=0)
        assert_right(fetch(cache, "f"), "f", size)
        (name,) = eventually(lambda: objects_in(cache_dir))
        assert os.stat(cache_dir / "objects" / name[:2] / name).st_ino != inode
        assert_right(
            type(fetch(cache, "f"))(CacheStatus.MISS, size, got + read(first, 1000, size)),
            "f",
            size,
        )
        read(second, 1000, size)
    monkeypatch.setattr(cache._parts.evictor, "_sweep_interval", 0.01)
    settle(cache, cache_dir)
    assert not any(one.startswith(("trash/", "partial/")) for one in files_below(cache_dir))


def test_a_copy_that_waits_is_purged_too_and_not_taken_up(
    open_cache: OpenCache, fast: SlowFS, cache_dir: Path
) -> None:
    put(fast.backing, "a/f", "b/f", size=2 * MiB)
    cache = open_cache(fast.path, source_options=LONG, copy={"when_idle": "stop"})
    fast.set(bandwidth=4 * MiB)
    for name in ("a/f", "b/f"):
        with opened(cache, name) as delegate:
            take(delegate, 0, 1000)
            eventually(lambda: cache.statistics().sessions[0].present)
    settle(cache, cache_dir)
    assert len(partials_in(cache_dir)) == 2
    assert cache.operations.purge(Selection.of(prefix="a/"), dry_run=True).matched == 1
    purged = cache.operations.purge(Selection.of(prefix="a/"))
    assert (purged.matched, purged.removed) == (1, 1) and purged.bytes > 0
    assert [one.header.path for one in partials_in(cache_dir)] == ["b/f"]
    settle(cache, cache_dir)
    purged = cache.operations.purge(Selection.everything())
    assert (purged.matched, purged.removed) == (1, 1)
    assert (partials_in(cache_dir), cache.statistics().usage) == ([], 0)


def test_a_soft_purge_asks_the_source_once_and_serves_what_is_still_true(
    open_cache: OpenCache, source: Path, cache_dir: Path
) -> None:
    put(source, "same", "changes", "other", "goes")
    cache = open_cache(source, source_options=LONG)
    cached(cache, cache_dir, "same", "changes", "other", "goes")
    write(source, "changes", SIZE + 1, content_name="new")
    (source / "goes").unlink()
    assert status(cache, "changes") is CacheStatus.HIT
    opens = cache.statistics().source_opens
    everything = Selection.everything()
    assert cache.operations.purge(everything, mode="soft", dry_run=True).matched == 4
    assert status(cache, "same") is CacheStatus.HIT
    assert cache.statistics().source_opens == opens
    assert cache.operations.purge(everything, mode="soft") == Purged(4, 0, 0, dry_run=False)
    known = cache.operations.known("/same")
    assert known is not None and known.fresh_for == 0
    assert [status(cache, "same") for _ in range(2)] == [CacheStatus.HIT] * 2
    assert cache.statistics().source_opens == opens + 1
    assert_right(fetch(cache, "changes"), "new", SIZE + 1)
    with pytest.raises(FileNotFoundError):
        fetch(cache, "goes")
    settle(cache, cache_dir)
    assert paths(cache) == ["changes", "other", "same"]


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("was_cached", [True, False], ids=["cached", "not cached"])
def test_an_answer_on_its_way_when_a_file_is_purged_counts_for_nobody_who_comes_later(
    open_cache: OpenCache,
    source: Path,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    was_cached: bool,
) -> None:
    put(source, "f")
    cache = open_cache(source, source_options={**LONG, "revalidate_wait": 10.0})
    if was_cached:
        cached(cache, cache_dir, "f")
        cache.operations.purge(Selection.of(path="/f"), mode="soft")  # so that it is asked again
    opened, go, really = threading.Event(), threading.Event(), FileSystemSource.open

    def held(self: FileSystemSource, path: str, ahead: int | None = None) -> SourceFile:
        file = really(self, path, ahead)
        opened.set()
        assert go.wait(20)
        return file

    with monkeypatch.context() as patch:
        patch.setattr(FileSystemSource, "open", held)
        early = gevent.spawn(fetch, cache, "f")
        eventually(opened.is_set)
    write(source, "f", SIZE + 1, content_name="new")
    cache.operations.purge(Selection.of(path="/f"), mode=mode)
    go.set()
    early.join()  # it was asked for before
    settle(cache, cache_dir)
    for _ in range(2):
        assert_right(fetch(cache, "f"), "new", SIZE + 1)


def test_a_purge_makes_the_fast_path_look_again(
    open_cache: OpenCache, source: Path, cache_dir: Path, serve: Callable[[StreamCache], Client]
) -> None:
    put(source, "f")
    cache = open_cache(source, source_options=LONG)
    client = serve(cache)
    seen = []
    for mode in ("", "", "soft", "", "hard", ""):
        if mode:
            cache.operations.purge(Selection.of(path="/f"), mode=mode)
        seen.append(client.ask("/f").fields["cache-status"])
        settle(cache, cache_dir)
    kinds = [re.sub(r".*(hit|miss).*", r"\1", one) for one in seen]
    assert kinds == ["miss", "hit", "hit", "hit", "miss", "hit"]


def test_another_process_lets_go_of_what_was_purged_here(
    open_cache: OpenCache, source: Path, cache_dir: Path
) -> None:
    put(source, "f", "g")
    here = open_cache(source, source_options=LONG)
    there = open_cache(source, source_options=LONG)  # as another worker: all is its own
    cached(here, cache_dir, "f", "g")
    cached(there, cache_dir, "f", "g")
    with opened(there, "f") as reading:
        begun = take(reading, 0, 10)
        here.operations.purge(Selection.everything())
        assert there.operations.purge(Selection.everything()).matched == 0
        write(source, "f", SIZE, content_name="other")
        assert_right(fetch(there, "f"), "other", SIZE)
        assert_right(
            type(fetch(there, "g"))(CacheStatus.HIT, SIZE, begun + read(reading, 10, SIZE)),
            "f",
            SIZE,
        )
    settle(here, cache_dir)


def test_files_of_another_source_are_shown_and_not_touched(
    open_cache: OpenCache, source: Path, cache_dir: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    put(source, "f")
    put(elsewhere, "f", "g")
    ours, theirs = open_cache(source), open_cache(elsewhere)
    cached(ours, cache_dir, "f")
    cached(theirs, cache_dir, "f", "g")
    assert paths(ours) == ["f", "f", "g"]
    listing = Listing(Selection.everything(), limit=1)
    first = ours.operations.entries(listing)
    assert [ours.operations.is_ours(each) for each in first.entries] == [True]
    assert (first.count, first.next, first.others.count) == (1, "", 2)
    assert first.others.bytes == sum(each.on_disk for each in theirs.operations.entry("/f") * 2)
    first = theirs.operations.entries(listing)
    assert (first.count, first.others.count) == (2, 1)
    second = theirs.operations.entries(replace(listing, after=first.next))
    assert [each.path for each in (*first.entries, *second.entries)] == ["f", "g"]
    theirs.operations.pin(Selection.of(path="/g"))
    assert (theirs.operations.pins(), ours.operations.pins()) == (("/g",), ())
    theirs.operations.unpin(Selection.everything())
    assert len(ours.operations.entry("/f")) == 1
    assert ours.operations.pin(Selection.everything()).matched == 1
    assert theirs.operations.unpin(Selection.everything()).paths == 0
    assert ours.operations.purge(Selection.everything()).removed == 1
    assert status(theirs, "g") is CacheStatus.HIT


def test_many_are_purged_and_other_greenlets_run_meanwhile(
    open_cache: OpenCache, source: Path, cache_dir: Path
) -> None:
    names = [f"d/{number:03}" for number in range(300)]
    for name in names:
        put(source, name, size=10)
    cache = open_cache(source, source_options=LONG)
    for name in names:
        fetch(cache, name)
    settle(cache, cache_dir)
    turns = []

    def beat() -> None:
        while True:
            gevent.sleep(0.001)
            turns.append(len(objects_in(cache_dir)))

    beating = gevent.spawn(beat)
    purged = cache.operations.purge(Selection.of(glob="/d/*"))
    beating.kill()
    assert (purged.matched, purged.removed) == (300, 300)
    assert any(0 < count < 300 for count in turns)
    assert (objects_in(cache_dir), cache.statistics().usage) == ({}, 0)


# -- pin


def test_what_is_pinned_stays_when_room_is_made(
    open_cache: OpenCache, source: Path, cache_dir: Path
) -> None:
    names = [f"{number:02}" for number in range(20)]
    put(source, *names)
    cache = open_cache(source, size=3 * MiB, cache={"policy": "lru"})
    cached(cache, cache_dir, *names[:2])
    pinned = cache.operations.pin(Selection.of(path=f"/{names[0]}"))
    assert (pinned.matched, pinned.paths) == (1, 1)
    for name in names[1:]:
        fetch(cache, name)
        settle(cache, cache_dir)
    assert names[0] in paths(cache) and names[1] not in paths(cache)
    (entry,) = cache.operations.entry(f"/{names[0]}")
    assert entry.pinned
    assert cache.operations.pins() == (f"/{names[0]}",)
    unpinned = cache.operations.unpin(Selection.everything())
    assert (unpinned.matched, unpinned.paths, cache.operations.pins()) == (1, 1, ())


def test_a_pin_outlives_a_restart_a_purge_a_new_version_and_the_catalog(
    source: Path, cache_dir: Path
) -> None:
    put(source, "f", "g")
    with StreamCache(source, cache_dir, "1GB") as cache:
        cached(cache, cache_dir, "g")
        cache.operations.pin(Selection.of(path="/f"))  # before it is there
        cached(cache, cache_dir, "f")
        assert cache.operations.entry("f")[0].pinned
        cache.operations.purge(Selection.everything())
        write(source, "f", SIZE + 1, content_name="new")
        fetch(cache, "f")
        fetch(cache, "g")
        settle(cache, cache_dir)
    for file in cache_dir.glob("catalog*"):
        file.unlink()
    with StreamCache(source, cache_dir, "1GB") as cache:
        eventually(lambda: len(paths(cache)) == 2)
        assert [cache.operations.entry(name)[0].pinned for name in "fg"] == [True, False]
        assert cache.operations.pins() == ("/f",)


def test_a_pin_whose_process_died_half_way_counts_as_the_disk_says(
    source: Path, cache_dir: Path
) -> None:
    put(source, "f", "g")
    with StreamCache(source, cache_dir, "1GB") as cache:
        cached(cache, cache_dir, "f", "g")
        ledger, key = cache._parts.ledger, cache._parts.provider.key
        cache._parts.store.pins.add({key("f"): "f"})  # a file without a row
        ledger.call(ledger.catalog.pin, {key("g"): "g"})  # a row without a file
    with StreamCache(source, cache_dir, "1GB") as cache:
        assert cache.operations.pins() == ("/f",)


def test_a_pin_that_has_lost_its_path_can_be_taken_away(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(source, "film", 1000)
    cache = open_cache(source)
    cache.operations.pin(Selection.of(path="/film"))
    cache.close()
    (pin,) = (cache_dir / "pins").iterdir()
    os.truncate(pin, 0)
    os.unlink(cache_dir / "catalog.sqlite")
    cache = open_cache(source)
    assert cache.operations.pins() == ("/",)
    assert cache.operations.unpin(Selection.of(path="/other")).paths == 0
    assert cache.operations.unpin(Selection.of(path="/film")).paths == 1
    assert cache.operations.pins() == () and not list((cache_dir / "pins").iterdir())


def test_many_are_pinned_and_let_go_in_pieces(
    source: Path, cache_dir: Path, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_PIECE", 3)
    for number in range(10):
        write(source, f"a/{number}", 1000)
        write(source, f"b/{number}", 1000)
    cache = open_cache(source)
    for folder in "ab":
        for number in range(10):
            fetch(cache, f"{folder}/{number}")
    settle(cache, cache_dir)
    pinned = cache.operations.pin(Selection.of(glob="/*/[0-7]"))
    assert (pinned.matched, pinned.paths) == (16, 16)
    wanted = tuple(f"/{folder}/{number}" for folder in "ab" for number in range(8))
    assert cache.operations.pins() == wanted
    freed = cache.operations.unpin(Selection.of(prefix="/a/"))
    assert (freed.matched, freed.paths) == (8, 8)
    assert cache.operations.pins() == wanted[8:]


def test_so_much_cannot_be_pinned_that_nothing_could_be_evicted(
    open_cache: OpenCache, source: Path, cache_dir: Path
) -> None:
    names = [f"{number}" for number in range(8)]
    put(source, *names)
    cache = open_cache(source, size=3 * MiB, cache={"high_watermark": 0.95, "low_watermark": 0.5})
    cached(cache, cache_dir, *names[:6])
    with pytest.raises(NoSpace, match=r"1\d{6} bytes would be pinned; at most 1572864"):
        cache.operations.pin(Selection.everything())
    assert cache.operations.pins() == ()
    assert cache.operations.pin(Selection.of(glob="[0-3]")).paths == 4


# -- the path of an object


def test_paths_outlive_the_catalog(source: Path, cache_dir: Path) -> None:
    odd = os.fsdecode(b"d/\xff \xc3\xbc" + b"x" * 150)
    put(source, "a/b c", "d/plain")
    (source / "d/plain").rename(source / odd)
    with StreamCache(source, cache_dir, "1GB") as cache:
        cached(cache, cache_dir, "a/b c")
        fetch(cache, odd)
        settle(cache, cache_dir)
    for file in cache_dir.glob("catalog*"):
        file.unlink()
    with StreamCache(source, cache_dir, "1GB") as cache:
        eventually(lambda: len(paths(cache)) == 2)
        assert paths(cache) == ["a/b c", odd]
        assert cache.operations.purge(Selection.of(path="/a/b c")).removed == 1


def test_an_object_whose_path_is_lost_goes_with_all_others(source: Path, cache_dir: Path) -> None:
    put(source, "f")
    with StreamCache(source, cache_dir, "1GB") as cache:
        cached(cache, cache_dir, "f")
    (name,) = objects_in(cache_dir)
    os.removexattr(cache_dir / "objects" / name[:2] / name, "user.streamcache.path")
    for file in cache_dir.glob("catalog*"):
        file.unlink()
    with StreamCache(source, cache_dir, "1GB") as cache:
        eventually(lambda: paths(cache) == [""])
        assert cache.operations.purge(Selection.of(glob="**")).matched == 0
        assert cache.operations.purge(Selection.everything()).removed == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_copy_of_another_process_is_purged_under_it(
    open_cache: OpenCache,
    fast: SlowFS,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: bool,
) -> None:
    """It goes on with what it has open, publishes nothing, and its bytes count until it ends."""
    size = 4 * MiB
    put(fast.backing, "f", size=size)
    here = open_cache(fast.path, source_options=LONG)
    there = open_cache(fast.path, source_options=LONG)  # as another worker: all is its own
    fast.set(bandwidth=4 * MiB)
    with opened(there, "f") as reading:
        begun = take(reading, 0, 1000)
        eventually(lambda: there.statistics().sessions[0].present)
        purged = here.operations.purge(Selection.of(path="/f"))
        assert (purged.matched, purged.removed) == (1, 1)
        assert partials_in(cache_dir) == []
        assert here.statistics().usage >= size
        if told:
            there.operations.purge(Selection.of(path="/f"))
            assert there.statistics().sessions == ()
        fast.set(bandwidth=0)
        answer = fetch(here, "f")
        assert answer.status is CacheStatus.MISS
        assert_right(answer, "f", size)
        eventually(lambda: objects_in(cache_dir))
        assert verify("f", 0, begun + read(reading, 1000, size)) is None
        eventually(lambda: not there.statistics().sessions)
    for cache in (here, there):
        monkeypatch.setattr(cache._parts.evictor, "_sweep_interval", 0.01)
    settle(here, cache_dir)
    assert not any(one.startswith(("trash/", "partial/")) for one in files_below(cache_dir))
    assert len(objects_in(cache_dir)) == 1
    assert fetch(there, "f").status is CacheStatus.HIT


def test_who_leaves_a_purged_copy_leaves_the_new_one_alone(
    open_cache: OpenCache, fast: SlowFS, cache_dir: Path
) -> None:
    size = 4 * MiB
    put(fast.backing, "f", size=size)
    cache = open_cache(fast.path, source_options=LONG, copy={"when_idle": "stop"})
    fast.set(bandwidth=4 * MiB)
    with opened(cache, "f") as old:
        take(old, 0, 1000)
        eventually(lambda: cache.statistics().sessions[0].present)
        cache.operations.purge(Selection.of(path="/f"))
        with opened(cache, "f") as new:
            take(new, 0, 1000)
            eventually(lambda: cache.statistics().sessions[0].present)
        eventually(lambda: not cache.statistics().sessions)  # it waits, with its partial
        (waiting,) = partials_in(cache_dir)
    eventually(lambda: not cache._parts.provider.copies.ending)
    (left,) = partials_in(cache_dir)
    assert left.present_bytes == waiting.present_bytes > 0
    assert left.wrong_byte("f") is None
    fast.set(bandwidth=0)
    assert_right(fetch(cache, "f"), "f", size)
