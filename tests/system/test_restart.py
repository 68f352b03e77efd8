"""What was cached is there after a restart, whatever the last process left behind."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from streamcache import CacheStatus
from streamcache.cache import store
from streamcache.cache.blockmap import BLOCK
from tests.content import Verifier, verify, write
from tests.daemon_process import DaemonProcess
from tests.slowfs import SlowFS
from tests.system.conftest import OpenCache
from tests.system.site import (
    WAIT,
    MiB,
    account_is_true,
    assert_right,
    at_rest,
    disk_usage,
    eventually,
    fetch,
    files_below,
    objects_in,
    opened,
    partials_in,
    settle,
    take,
    tidy,
)

NAMES = [f"film{number}" for number in range(8)]
SIZE = MiB


def fill(source: Path, cache_dir: Path, open_cache: OpenCache) -> None:
    """A cache with all of NAMES, closed."""
    cache = open_cache(source)
    for name in NAMES:
        write(source, name, SIZE)
        assert_right(fetch(cache, name), name, SIZE)
    settle(cache, cache_dir)
    assert len(objects_in(cache_dir)) == len(NAMES)
    cache.close()


def leave_partial(fs: SlowFS, cache_dir: Path, open_cache: OpenCache, name: str, size: int) -> None:
    """A cache with the first quarter of a file, or more, closed."""
    fault = fs.fault("hang", name, operations=("read",), start=size // 2)
    cache = open_cache(fs.path, copy={"when_idle": "stop"})
    with opened(cache, name) as delegate:
        offset = 0
        while offset < size // 4:
            offset += len(take(delegate, offset, size // 4))
        eventually(lambda: cache.statistics().sessions[0].present >= size // 4)
    fs.release(fault)
    settle(cache, cache_dir)
    cache.close()


def test_objects_are_hits_at_once_and_only_validated(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    fill(fast.backing, cache_dir, lambda _: open_cache(fast.path))
    fast.reset()
    cache = open_cache(fast.path)
    for name in NAMES:
        answer = fetch(cache, name)
        assert answer.status is CacheStatus.HIT
        assert_right(answer, name, SIZE)
    seen = fast.counters()
    assert (seen.reads, seen.opens) == (0, len(NAMES))
    assert cache.statistics().objects == len(NAMES)


def test_a_partial_is_continued(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    size = 6 * MiB + 5
    write(fast.backing, "film", size)
    leave_partial(fast, cache_dir, open_cache, "film", size)
    (partial,) = partials_in(cache_dir)
    assert partial.wrong_byte("film") is None
    fast.reset()
    fast.drop_cache()
    cache = open_cache(fast.path)
    assert cache.statistics().reserved == disk_usage(cache_dir)
    assert_right(fetch(cache, "film"), "film", size)
    settle(cache, cache_dir)
    assert cache.statistics().bytes_from_source == size - partial.present_bytes
    resumed = f"copy resumed path='/film' present={partial.present_bytes} bytes={size}"
    assert resumed in caplog.messages
    assert list(objects_in(cache_dir).values()) == [size]


def test_a_partial_of_a_changed_file_is_not_continued(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    size = 6 * MiB + 5
    write(fast.backing, "film", size)
    leave_partial(fast, cache_dir, open_cache, "film", size)
    write(fast.backing, "film", size, content_name="new", age=100)
    cache = open_cache(fast.path)
    assert_right(fetch(cache, "film"), "new", size)
    settle(cache, cache_dir)
    assert not partials_in(cache_dir)
    assert list(objects_in(cache_dir).values()) == [size]


def test_partials_of_another_boot_are_dropped(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 6 * MiB + 5
    write(fast.backing, "film", size)
    leave_partial(fast, cache_dir, open_cache, "film", size)
    monkeypatch.setattr(store, "_boot_id", lambda: "another boot")
    cache = open_cache(fast.path)
    assert disk_usage(cache_dir) == 0 == cache.statistics().usage
    assert_right(fetch(cache, "film"), "film", size)
    settle(cache, cache_dir)
    assert cache.statistics().bytes_from_source == size


def test_partials_in_a_copy_of_the_directory_are_dropped(
    source: Path, cache_dir: Path, tmp_path: Path, open_cache: OpenCache
) -> None:
    """A backup that was made while bytes arrived: its maps may be newer than its data."""
    size, moved = 8 * MiB, tmp_path / "moved"
    write(source, "film", size)
    cache = open_cache(source, copy={"max_bandwidth": 2 * MiB})
    with opened(cache, "film") as player:
        take(player, 0, 1000)
        (session,) = cache._parts.provider.copies.sessions.values()
        eventually(lambda: session.map.present > 8)
        shutil.copytree(cache_dir, moved, ignore=shutil.ignore_patterns("*.map"))
        present = session.map.present
        eventually(lambda: session.map.present > present + 8)
        for path in (cache_dir / "partial").glob("*.map"):
            shutil.copy2(path, moved / "partial")
    cache.close()
    moved.chmod(0o700)
    again = open_cache(source, at=moved)
    assert_right(fetch(again, "film"), "film", size)
    settle(again, moved)
    assert again.statistics().bytes_from_source == size


def test_after_a_reboot_the_catalog_may_have_lost_its_last_transactions(
    source: Path, cache_dir: Path, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut takes what SQLite has not synced, and keeps objects, which were."""
    fill(source, cache_dir, open_cache)
    older = {path: path.read_bytes() for path in cache_dir.glob("catalog-*.sqlite")}
    assert len(older) == 1
    cache = open_cache(source)
    write(source, "more", SIZE)
    known = set(objects_in(cache_dir))
    fetch(cache, "more")  # is to be unknown to the older catalog
    settle(cache, cache_dir)
    cache.close()
    objects = set(objects_in(cache_dir))
    for path, content in older.items():
        path.write_bytes(content)
    gone = next(path for path in (cache_dir / "objects").glob("*/*") if path.name in known)
    gone.unlink()
    monkeypatch.setattr(store, "_boot_id", lambda: "another boot")

    cache = open_cache(source)
    settle(cache, cache_dir)
    catalog = cache._parts.ledger.catalog
    names = cache._parts.ledger.call(catalog.names)
    assert set(names) == set(objects_in(cache_dir)) == objects - {gone.name}
    paths = [cache._parts.ledger.call(catalog.get, name).path for name in names]
    assert len({*paths} & {*NAMES}) == len(NAMES) - 1, "still known"
    cache.close()

    cache = open_cache(source)  # in the same boot: nothing is looked through again
    assert cache._parts.space.known and cache._parts.ledger.rebuilds == 0
    assert cache.statistics().usage == disk_usage(cache_dir)


@pytest.mark.parametrize("progress", [0.2, 0.5, 0.8])
def test_a_killed_daemon_reads_only_what_is_missing(
    slowfs: SlowFS, cache_dir: Path, daemon: Callable[..., DaemonProcess], progress: float
) -> None:
    size = 16 * MiB + 77
    slowfs.set(latency=0.002, meta_latency=0.001, bandwidth=40 * MiB)
    write(slowfs.backing, "film", size)
    first = daemon(slowfs.path, cache_dir=cache_dir)
    verifier = Verifier("film", 0, size)
    with get(first, "/film") as answer:
        while verifier.offset < progress * size:
            assert verifier.feed(answer.recv(65536)) is None
        first.kill()
    (partial,) = partials_in(cache_dir)
    assert partial.wrong_byte("film") is None
    assert partial.present_bytes >= verifier.offset - 4 * BLOCK
    eventually(lambda: not slowfs.counters("film").open_files)  # its last reads have ended
    slowfs.reset()
    slowfs.drop_cache()

    second = daemon(slowfs.path, cache_dir=cache_dir)
    verifier = Verifier("film", 0, size)
    with get(second, "/film") as answer:
        while piece := answer.recv(1 << 20):
            assert verifier.feed(piece) is None
    assert verifier.missing() is None
    assert slowfs.counters("film").bytes_read <= size - partial.present_bytes + 2 * BLOCK
    assert slowfs.repeated("film") == 0


def get(process: DaemonProcess, path: str) -> socket.socket:
    """A connection on which the body comes next, until it is closed."""
    peer = socket.create_connection(process.address, timeout=20)
    peer.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = peer.recv(1)
        assert byte
        head += byte
    assert head.startswith(b"HTTP/1.1 200 ")
    return peer


# What is foreign, and what is broken


def test_foreign_files_are_dropped_or_left_alone(
    source: Path, cache_dir: Path, tmp_path: Path, open_cache: OpenCache
) -> None:
    fill(source, cache_dir, open_cache)
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = outside / "precious"
    precious.write_text("precious")
    inside = outside / f"{'a' * 32}.{'b' * 32}"
    inside.write_text("precious too")
    key = f"{'c' * 32}.{'d' * 32}"
    pairs = ("".join(pair) for pair in itertools.product("abdef", repeat=2))
    unused = next(pair for pair in pairs if not (cache_dir / "objects" / pair).exists())
    for kind in ("partial", "objects", "trash"):
        folder = cache_dir / kind
        (folder / "note.txt").write_text("foreign")
        (folder / "folder").mkdir()
        (folder / "link").symlink_to(precious)
        (folder / unused).symlink_to(outside)
        os.mkfifo(folder / "fifo")
    partial = cache_dir / "partial"
    (partial / f"{key}.data").mkdir()
    (partial / f"{key}.map").write_bytes(b"streamcache map\nffffffff{]")
    (partial / f"{'e' * 32}.{'f' * 32}.map").write_bytes(b"\0" * 100)
    (partial / f"{'e' * 32}.{'f' * 32}.data").symlink_to(precious)
    (partial / f"{'1' * 32}.{'2' * 32}.data").write_bytes(b"no map")
    (cache_dir / "objects" / "cc").mkdir(exist_ok=True)  # a title may have its object there
    (cache_dir / "objects" / "cc" / key).mkdir()
    (cache_dir / "objects" / "cc" / "stranger").write_text("foreign")
    (cache_dir / "catalog.sqlite").unlink()  # so that all is looked at

    cache = open_cache(source)
    for name in NAMES:
        answer = fetch(cache, name)
        assert answer.status is CacheStatus.HIT
        assert_right(answer, name, SIZE)
    eventually(lambda: cache._parts.space.known)
    assert cache.statistics().objects == len(NAMES)
    cache._parts.recovery.sweep()  # as the Evictor does, every ten seconds
    assert cache.statistics().usage == sum(
        stat.st_blocks * 512
        for path, stat in files_below(cache_dir).items()
        if stat.st_size == SIZE and path.startswith("objects/")
    )
    assert precious.read_text() == "precious"
    assert inside.read_text() == "precious too"
    left = {path for path, stat in files_below(cache_dir).items() if stat.st_size != SIZE}
    assert left == set()
    write(source, "more", SIZE)
    fetch(cache, "more")
    settle(cache, cache_dir)
    assert fetch(cache, "more").status is CacheStatus.HIT


STRAY = f"{'ab' * 16}.{'cd' * 16}"  # a partial, as it could be


def with_map(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """A partial whose map is what ``make`` makes of its path."""

    def prepare(at: Path) -> None:
        (at / "partial" / f"{STRAY}.data").touch()
        make(at / "partial" / f"{STRAY}.map")

    return prepare


def map_file(raw: bytes) -> Callable[[Path], None]:
    return with_map(lambda path: path.write_bytes(raw))


def header(text: bytes) -> bytes:
    return b"streamcache map\n%08x" % (24 + len(text)) + text


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "deep JSON": map_file(header(b"[" * 100_000)),
    "huge number": map_file(header(b"1" * 6000)),
    "short map": map_file(b"streamcache map\n00"),
    "not ASCII": map_file(header(b"\xff" * 200)),
    "map is a FIFO": with_map(os.mkfifo),
    "map is a folder": with_map(Path.mkdir),
    "map is a symlink": with_map(lambda path: path.symlink_to("/dev/zero")),
    "data is a folder": lambda at: (at / "partial" / f"{STRAY}.data").mkdir(),
    "empty format": lambda at: (at / "format").write_bytes(b""),
    "file among folders": lambda at: (at / "objects" / "zz").touch(),
}


@pytest.mark.parametrize("prepare", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_in_the_cache_directory_do_not_stop_the_start(
    source: Path, cache_dir: Path, open_cache: OpenCache, prepare: Callable[[Path], Any]
) -> None:
    """What is not ours is left alone or goes; the cache works."""
    write(source, "film", MiB)
    open_cache(source).close()
    prepare(cache_dir)
    with gevent.Timeout(WAIT, AssertionError("the start hangs")):
        cache = open_cache(source)
        assert_right(fetch(cache, "film"), "film", MiB)
    eventually(lambda: at_rest(cache) and tidy(cache))
    assert list(objects_in(cache_dir).values()).count(MiB) == 1


def test_a_symbolic_link_among_the_objects_is_not_followed(
    source: Path, cache_dir: Path, tmp_path: Path, open_cache: OpenCache
) -> None:
    """What it leads to is not ours to tidy up."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis").touch()
    open_cache(source).close()
    (cache_dir / "objects" / "ab").symlink_to(precious)
    for file in cache_dir.glob("catalog*"):
        file.unlink()
    cache = open_cache(source)
    eventually(lambda: cache._parts.space.known)
    assert [path.name for path in precious.iterdir()] == ["thesis"]


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def truncated(path: Path) -> None:
    os.truncate(path, 5000)


def holed(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)


def deleted(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def of_another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE objects (name TEXT)")
    db.close()


DAMAGES = (garbage, truncated, holed, deleted, emptied, of_another_program)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_lost_or_broken_catalog_is_rebuilt_while_hits_are_served(
    source: Path, cache_dir: Path, open_cache: OpenCache, damage: Callable[[Path], None]
) -> None:
    fill(source, cache_dir, open_cache)
    damage(cache_dir / "catalog.sqlite")
    cache = open_cache(source)
    for name in NAMES:
        answer = fetch(cache, name)
        assert answer.status is CacheStatus.HIT
        assert_right(answer, name, SIZE)
    eventually(lambda: account_is_true(cache, cache_dir))
    assert cache.statistics().objects == len(NAMES)
    write(source, "more", SIZE)
    assert fetch(cache, "more").status is CacheStatus.MISS
    settle(cache, cache_dir)
    assert cache.statistics().objects == len(NAMES) + 1
    cache.close()

    # And what was found again can be evicted.
    cache = open_cache(source, 6 * MiB, cache={"evict_interval": 0.05})
    eventually(lambda: cache.statistics().usage <= 0.85 * 6 * MiB)
    settle(cache, cache_dir)


def test_objects_that_were_deleted_are_copied_again(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    fill(source, cache_dir, open_cache)
    for path in (cache_dir / "objects").glob("*/*"):
        path.unlink()
    cache = open_cache(source)
    for name in NAMES:
        answer = fetch(cache, name)
        assert answer.status is CacheStatus.MISS
        assert_right(answer, name, SIZE)
        eventually(lambda: at_rest(cache))
    settle(cache, cache_dir)
    assert cache.statistics().objects == len(NAMES)


def test_an_object_that_was_cut_short_is_copied_again(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    fill(source, cache_dir, open_cache)
    for path in (cache_dir / "objects").glob("*/*"):
        os.truncate(path, SIZE // 2)
    cache = open_cache(source)
    for name in NAMES:
        assert_right(fetch(cache, name), name, SIZE)
    settle(cache, cache_dir)
    assert set(objects_in(cache_dir).values()) == {SIZE}


def test_a_lowered_size_evicts_in_the_background_while_hits_are_served(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    fill(source, cache_dir, open_cache)
    limit = 5 * MiB
    cache = open_cache(source, limit, cache={"evict_interval": 0.05})
    with opened(cache, NAMES[0]) as reader:
        assert reader.status is CacheStatus.HIT
        data = take(reader, 0, SIZE)
        eventually(lambda: cache.statistics().usage <= 0.85 * limit)
        data += b"".join(take(reader, at, SIZE) for at in range(len(data), SIZE, SIZE))
        assert verify(NAMES[0], 0, data) is None
        assert fetch(cache, NAMES[0]).status is CacheStatus.HIT  # leased: not taken
    settle(cache, cache_dir)
    assert disk_usage(cache_dir) <= 0.85 * limit
    assert cache.statistics().evictions == len(NAMES) - len(objects_in(cache_dir))
    assert cache.statistics().objects == len(objects_in(cache_dir))
    for name in NAMES:
        assert_right(fetch(cache, name), name, SIZE)
