"""What goes wrong with the cache's disk, done to a real file system, while clients are served.

The table "The cache misbehaves" of docs/reliability.md, row by row.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.cache import headroom as headroom_module
from streamcache.cache import health as health_module
from streamcache.cache.database import CatalogLate
from streamcache.cache.listing import Listing
from streamcache.cache.selection import Selection
from tests.content import verify, write
from tests.mounts import local
from tests.requirements import missing
from tests.server.client import Client
from tests.slowfs import SlowFS, unsupported
from tests.slowfs.model import WRITING
from tests.system.conftest import OpenCache
from tests.system.crowd import crowd
from tests.system.holding import holding
from tests.system.site import (
    MiB,
    assert_right,
    at_rest,
    eventually,
    fetch,
    objects_in,
    opened,
    partials_in,
    read,
    settle,
    take,
)

SIZE = MiB + 5
WARM = [f"warm{number}" for number in range(4)]
WARM_SIZE = 20_000
COLD = [f"cold{number}" for number in range(6)]

Serve = Callable[[StreamCache], Client]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, sooner."""
    monkeypatch.setattr(health_module, "SILENT", 1.0)
    monkeypatch.setattr(health_module, "_LOOK", 0.2)
    monkeypatch.setattr(headroom_module, "_LOOK", 0.2)


@pytest.fixture
def disk() -> Iterator[SlowFS]:
    """A disk that does what it is told; the kernel knows its attributes, as it does of local ones.

    The cache is to be at ``disk.path / "cache"``.
    """
    reason = unsupported()
    if reason is not None:
        missing(reason)
    known = {"attr_timeout": 1e6, "entry_timeout": 1e6}
    with SlowFS(writable=True, latency=0, meta_latency=0, bandwidth=0, **known) as mounted:
        yield mounted


@pytest.fixture
def titles(source: Path) -> Path:
    for name in WARM:
        write(source, name, WARM_SIZE)
    for name in COLD:
        write(source, name, SIZE)
    return source


def warmed(cache: StreamCache, at: Path) -> StreamCache:
    """It has the warm files, and none of the cold ones."""
    for name in WARM:
        fetch(cache, name)
    settle(cache, at)
    return cache


def is_normal(cache: StreamCache) -> bool:
    return cache.statistics().disk_normal


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records if record.name.endswith(".health")]


def assert_works_again(cache: StreamCache, at: Path, name: str = COLD[-1]) -> None:
    """What is asked for now is cached, and the account is true."""

    def cached() -> bool:
        answer = fetch(cache, name)
        assert_right(answer, name, SIZE)
        return answer.status is CacheStatus.HIT

    eventually(cached)
    settle(cache, at)


# -- errors


@pytest.mark.parametrize(
    ("code", "operations"),
    [("EIO", WRITING), ("EROFS", WRITING), ("EIO", ("fsync",)), ("EIO", ("create",))],
    ids=["EIO", "EROFS", "fsync", "create"],
)
def test_a_disk_that_fails(
    titles: Path,
    disk: SlowFS,
    open_cache: OpenCache,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    code: str,
    operations: tuple[str, ...],
) -> None:
    at = disk.path / "cache"
    cache = warmed(open_cache(titles, at=at), at)
    kept = objects_in(disk.backing / "cache")
    caplog.set_level(logging.WARNING, "streamcache.cache.health")
    with crowd(serve(cache).socket.getpeername(), WARM, 20) as hits:
        disk.fault(code, operations=operations)
        assert_right(fetch(cache, COLD[0]), COLD[0], SIZE)
        eventually(lambda: not is_normal(cache))
        assert os.strerror(getattr(errno, code)) in cache.statistics().disk_reason or (
            "catalog" in cache.statistics().disk_reason
        )
        hits.forget()
        before = disk.counters().writes
        for name in COLD:
            answer = fetch(cache, name)
            if name != COLD[0]:  # whose copy may be under way, if the catalog failed first
                assert answer.status is CacheStatus.BYPASS
            assert_right(answer, name, SIZE)
            assert_right(fetch(cache, name, SIZE - 10), name, SIZE, SIZE - 10)
        eventually(lambda: sum(hits.served.values()) > 100)
        assert set(hits.served) == {"hit"}
        assert disk.counters().writes - before < 20, "more than a probe was written"
        assert kept.items() <= objects_in(disk.backing / "cache").items()
        assert cache.statistics().disk_failures == 1
        assert said(caplog) == ["ERROR"]

        disk.release()
        eventually(lambda: is_normal(cache))
        assert said(caplog) == ["ERROR", "WARNING"]
        assert cache.statistics().disk_reason == ""
        assert_works_again(cache, at)
        assert kept.items() <= objects_in(disk.backing / "cache").items()


def test_copies_under_way_keep_nothing_while_the_disk_fails_and_go_on_when_it_works(
    titles: Path, disk: SlowFS, open_cache: OpenCache
) -> None:
    """Another file's write failed: what they have is sound, and is not dropped."""
    at = disk.path / "cache"
    size = 8 * MiB
    write(titles, "film", size)
    cache = warmed(open_cache(titles, at=at, copy={"max_bandwidth": MiB}), at)
    with opened(cache, "film") as player:
        data = bytes(take(player, 0, 100_000))
        session = next(iter(cache._parts.provider.copies.sessions.values()))
        eventually(lambda: session.map.present > 4)
        disk.fault("EIO", "cache/probe", operations=("create",))
        cache._parts.health.failed(OSError(errno.EIO, os.strerror(errno.EIO)))
        assert not is_normal(cache)
        gevent.sleep(0.1)  # what was on its way
        present = session.map.present
        with opened(cache, "film") as seeker:
            assert seeker.status is CacheStatus.COLLAPSED
            assert verify("film", 6 * MiB, read(seeker, 6 * MiB, 7 * MiB)) is None
        assert session.map.present == present
        assert partials_in(disk.backing / "cache")[0].wrong_byte("film") is None
        disk.release()
        eventually(lambda: is_normal(cache))
        eventually(lambda: session.map.present > present)
        assert verify("film", 0, data + read(player, len(data), 2 * MiB)) is None
    cache.close()
    assert partials_in(disk.backing / "cache")[0].wrong_byte("film") is None


# -- no answer


def test_a_disk_that_hangs(
    titles: Path,
    disk: SlowFS,
    open_cache: OpenCache,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever would be written; the catalog too."""
    at = disk.path / "cache"
    size = 8 * MiB
    write(titles, "film", size)
    cache = warmed(open_cache(titles, at=at, copy={"max_bandwidth": 2 * MiB}), at)
    caplog.set_level(logging.WARNING, "streamcache.cache.health")
    with crowd(serve(cache).socket.getpeername(), WARM, 20) as hits:
        with opened(cache, "film") as player:
            data = bytes(take(player, 0, 100_000))
            (session,) = cache._parts.provider.copies.sessions.values()
            eventually(lambda: session.map.present > 2)  # it writes what it reads
            disk.fault("hang", operations=(*WRITING, "open"))
            started = time.monotonic()
            cold = [gevent.spawn(fetch, cache, name) for name in COLD[:3]]
            data += read(player, len(data), size)
            for name, each in zip(COLD, cold, strict=False):
                assert_right(each.get(timeout=15), name, SIZE)
            # A second each for some looks, and for each piece that a write was late for.
            assert time.monotonic() - started < 15
            assert verify("film", 0, data) is None
            eventually(lambda: not is_normal(cache))
            assert "no answer" in cache.statistics().disk_reason
            eventually(lambda: cache.statistics().disk_stuck)

            hits.forget()
            for name in COLD:
                started = time.monotonic()
                answer = fetch(cache, name)
                assert_right(answer, name, SIZE)
                assert time.monotonic() - started < 1.0, "it waited for the disk"
            eventually(lambda: sum(hits.served.values()) > 100)
            assert set(hits.served) == {"hit"}
            assert said(caplog) == ["ERROR"]
            disk.release()
            eventually(lambda: is_normal(cache))
        assert said(caplog) == ["ERROR", "WARNING"]
        assert_works_again(cache, at)
        assert_right(fetch(cache, "film"), "film", size)
        settle(cache, at)
    for name in COLD:
        assert_right(fetch(cache, name), name, SIZE)


def test_a_look_at_a_disk_that_hangs_does_not_hang_requests(
    source: Path, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the disk is called degraded."""
    monkeypatch.setattr(health_module, "SILENT", 60.0)
    write(source, "film", MiB)
    cache = open_cache(source)
    objects = cache._parts.store.objects
    with holding(objects, "open") as object_held, holding(objects, "versions") as versions_held:
        with gevent.Timeout(4, AssertionError("waits for the cache's disk")):
            assert_right(fetch(cache, "film"), "film", MiB)
        assert object_held.entered and versions_held.entered


def test_a_listing_does_not_wait_for_ever_for_a_disk_that_hangs(
    titles: Path, disk: SlowFS, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamcache.cache.ledger._LISTING_WAIT", 0.2)
    cache = warmed(open_cache(titles, at=disk.path / "cache"), disk.path / "cache")
    listing = Listing(Selection.of(prefix="/"))
    names = [entry.path for entry in cache.operations.entries(listing).entries]
    assert names == WARM
    disk.fault("hang", operations=("open",))
    with gevent.Timeout(10), pytest.raises(CatalogLate, match=r"no answer within 0\.2 s"):
        cache.operations.entries(listing)
    disk.release()
    assert [entry.path for entry in cache.operations.entries(listing).entries] == names


def test_a_cache_closes_while_its_disk_hangs(
    titles: Path, disk: SlowFS, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamcache.cache.ledger._END_WAIT", 0.5)
    at = disk.path / "cache"
    cache = warmed(open_cache(titles, at=at), at)
    disk.fault("hang", operations=WRITING)
    assert_right(fetch(cache, COLD[0]), COLD[0], SIZE)
    eventually(lambda: not is_normal(cache))
    started = time.monotonic()
    cache.close(timeout=1.0)
    assert time.monotonic() - started < 20
    disk.release()


# -- full


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB and a hundred files."""
    with local.tmpfs(tmp_path / "small", "size=8m,nr_inodes=100") as path:
        yield path


def fill(path: Path, leave: int = 0) -> None:
    """Somebody else takes what is free, but for ``leave`` bytes."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))
    os.truncate(path, max(0, path.stat().st_size - leave))


def test_what_others_take_of_the_disk_is_left_to_them(
    titles: Path, small: Path, open_cache: OpenCache, caplog: pytest.LogCaptureFixture
) -> None:
    """Less is taken, what is worth least goes, and new files are cached; then all of it again."""
    at = small / "cache"
    cache = open_cache(titles, 6 * MiB, at=at)
    for name in COLD[:4]:
        assert_right(fetch(cache, name), name, SIZE)
        settle(cache, at)
    caplog.set_level(logging.WARNING, "streamcache.cache.headroom")
    fill(small / "theirs", leave=MiB // 4)
    for name in COLD[4:]:
        assert_right(fetch(cache, name), name, SIZE)
    eventually(lambda: cache.statistics().limit < 6 * MiB)
    eventually(lambda: cache.statistics().evictions > 0)
    assert is_normal(cache)
    assert_works_again(cache, at)
    os.unlink(small / "theirs")
    eventually(lambda: cache.statistics().limit == 6 * MiB)
    assert len([record for record in caplog.records if record.name.endswith(".headroom")]) == 2
    for name in COLD:
        assert_right(fetch(cache, name), name, SIZE)
        settle(cache, at)
    assert len(objects_in(at)) >= 4


def test_a_disk_without_inodes(titles: Path, small: Path, open_cache: OpenCache) -> None:
    at = small / "cache"
    cache = open_cache(titles, 6 * MiB, at=at)
    for name in COLD[:3]:
        assert_right(fetch(cache, name), name, SIZE)
        settle(cache, at)
    with contextlib.suppress(OSError):
        for number in range(200):
            (small / f"theirs{number}").touch()
    for _ in range(2):
        for name in COLD:
            assert_right(fetch(cache, name), name, SIZE)
    for path in small.glob("theirs*"):
        path.unlink()
    eventually(lambda: is_normal(cache))
    assert_works_again(cache, at)


def test_a_quota_that_is_used_up(titles: Path, disk: SlowFS, open_cache: OpenCache) -> None:
    """No look tells how much there is: less is taken, and if that does not help, nothing."""
    at = disk.path / "cache"
    cache = warmed(open_cache(titles, 64 * MiB, at=at), at)
    disk.fault("EDQUOT", "cache/partial/*", operations=("write", "create"))
    assert_right(fetch(cache, COLD[0]), COLD[0], SIZE)
    eventually(lambda: cache.statistics().limit < 64 * MiB)
    for name in COLD:
        assert_right(fetch(cache, name), name, SIZE)
    disk.release()
    eventually(lambda: at_rest(cache))


# -- not what it was


@pytest.mark.parametrize("what", ["", "partial", "objects", "trash"])
def test_a_directory_that_is_removed_is_made_again(
    titles: Path, tmp_path: Path, open_cache: OpenCache, what: str
) -> None:
    at = tmp_path / "cache"
    cache = warmed(open_cache(titles, at=at), at)
    shutil.rmtree(at / what)
    for name in COLD[:3]:
        assert_right(fetch(cache, name), name, SIZE)
    eventually(lambda: is_normal(cache) and (at / (what or "lock")).exists())
    assert_works_again(cache, at)
    for name in WARM:
        assert_right(fetch(cache, name), name, WARM_SIZE)
    settle(cache, at)
    cache.close()
    cache = open_cache(titles, at=at)
    assert fetch(cache, COLD[-1]).status is CacheStatus.HIT


def test_a_directory_of_somebody_else_in_its_place_stays_as_it_is(
    titles: Path, tmp_path: Path, open_cache: OpenCache
) -> None:
    at, moved = tmp_path / "cache", tmp_path / "moved"
    cache = warmed(open_cache(titles, at=at), at)
    at.rename(moved)
    at.mkdir()
    at.chmod(0o755)
    (at / "thesis.tex").write_text("mine")
    for name in COLD:
        assert_right(fetch(cache, name), name, SIZE)
    eventually(lambda: "it has 'thesis.tex'" in cache.statistics().disk_reason)
    gevent.sleep(1.5)  # another probe, and looks at the catalog
    assert not is_normal(cache)
    assert os.listdir(at) == ["thesis.tex"]
    assert at.stat().st_mode & 0o777 == 0o755
    at.rename(tmp_path / "theirs")
    moved.rename(at)
    eventually(lambda: is_normal(cache))
    assert_works_again(cache, at)


def test_nothing_is_written_where_a_symbolic_link_leads(
    titles: Path, tmp_path: Path, open_cache: OpenCache
) -> None:
    at, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    elsewhere.mkdir()
    cache = warmed(open_cache(titles, at=at), at)
    (at / "partial").rename(at / "aside")
    (at / "partial").symlink_to(elsewhere)
    eventually(lambda: not is_normal(cache))
    assert "no directory any more" in cache.statistics().disk_reason
    for name in COLD:
        assert_right(fetch(cache, name), name, SIZE)
        assert fetch(cache, WARM[0]).status is CacheStatus.HIT
    assert list(elsewhere.iterdir()) == []
    (at / "partial").unlink()
    eventually(lambda: is_normal(cache))
    assert_works_again(cache, at)


def test_another_file_system_is_not_filled_when_the_disk_is_unmounted(
    titles: Path, tmp_path: Path, open_cache: OpenCache
) -> None:
    at = tmp_path / "point" / "cache"
    with local.tmpfs(tmp_path / "point", "size=16m"):
        cache = warmed(open_cache(titles, at=at), at)
    assert not at.exists()
    eventually(lambda: not is_normal(cache))
    assert_right(fetch(cache, COLD[0]), COLD[0], SIZE)
    gevent.sleep(1.5)  # a probe or two
    assert not at.exists() or not any(at.iterdir())
    assert not is_normal(cache)


# -- files that are not what they should be


def object_of(at: Path, size: int) -> Path:
    """The one of this size."""
    (found,) = [path for path in at.glob("objects/*/*") if path.stat().st_size == size]
    return found


def whole(at: Path) -> bool:
    """The object of cold0 is there, with the right bytes."""
    found = [path.read_bytes() for path in at.glob("objects/*/*") if path.stat().st_size == SIZE]
    return len(found) == 1 and verify("cold0", 0, found[0]) is None


def damage(path: Path, how: str) -> None:
    """By somebody who can write there."""
    if how == "truncated":
        os.truncate(path, 300_000)
    elif how == "overwritten":
        with open(path, "r+b") as file:
            file.seek(500_000)
            file.write(b"not what was there")
    elif how == "replaced":
        path.unlink()
        path.write_bytes(bytes(SIZE))
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["truncated", "overwritten", "replaced", "a folder"])
def test_an_object_that_somebody_else_wrote_to_is_copied_anew(
    titles: Path, tmp_path: Path, open_cache: OpenCache, serve: Serve, how: str
) -> None:
    """Also if it is open, and hot."""
    at = tmp_path / "cache"
    cache = warmed(open_cache(titles, at=at, cache={"evict_interval": 0.2}), at)
    assert_right(fetch(cache, "cold0"), "cold0", SIZE)
    settle(cache, at)
    with Client(serve(cache).socket.getpeername()) as client:
        assert client.ask("/cold0").fields["cache-status"] == "streamcache; hit"
        damage(object_of(at, SIZE), how)
        if how == "truncated":  # shows when it is sent; the others when it is looked at
            answer = client.ask("/cold0")
            assert verify("cold0", 0, answer.body) is None and len(answer.body) == SIZE
            assert cache.statistics().objects_damaged == 1

        def healed() -> bool:
            answer = client.ask("/cold0")
            right = verify("cold0", 0, answer.body) is None
            return right and answer.fields["cache-status"] == "streamcache; hit"

        if how == "a folder":  # foreign: it is left alone, and the file is served past it
            eventually(lambda: "hit" not in client.ask("/cold0").fields["cache-status"])
            assert verify("cold0", 0, client.ask("/cold0").body) is None
            return
        eventually(lambda: healed() and whole(at))
    settle(cache, at)


def test_an_object_that_cannot_be_read_is_served_from_the_source_and_copied_anew(
    titles: Path, disk: SlowFS, open_cache: OpenCache, serve: Serve
) -> None:
    """EIO in the middle: the response is whole all the same."""
    at = disk.path / "cache"
    cache = warmed(open_cache(titles, at=at), at)
    assert_right(fetch(cache, "cold0"), "cold0", SIZE)
    settle(cache, at)
    path = object_of(at, SIZE)
    disk.fault("EIO", operations=("read",), start=400_000)  # far beyond the catalog's end
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with Client(serve(cache).socket.getpeername()) as client:
        answer = client.ask("/cold0")
        assert answer.status == 200 and len(answer.body) == SIZE
        assert verify("cold0", 0, answer.body) is None
    assert cache.statistics().objects_damaged == 1
    disk.release()
    assert_works_again(cache, at, "cold0")


def test_an_object_that_cannot_be_opened_is_named(
    titles: Path, disk: SlowFS, open_cache: OpenCache, caplog: pytest.LogCaptureFixture
) -> None:
    at = disk.path / "cache"
    warmed(open_cache(titles, at=at), at).close()
    cache = open_cache(titles, at=at)
    disk.fault("EIO", "cache/objects/*", operations=("open",))
    assert_right(fetch(cache, WARM[0]), WARM[0], WARM_SIZE)
    assert f"object not readable path='/{WARM[0]}' name=" in caplog.text


@pytest.mark.parametrize("moment", ["at once", "after a write"])
def test_a_partial_that_was_truncated_is_read_past_and_copied_anew(
    titles: Path,
    tmp_path: Path,
    open_cache: OpenCache,
    caplog: pytest.LogCaptureFixture,
    moment: str,
) -> None:
    at, size = tmp_path / "cache", 8 * MiB
    write(titles, "film", size)
    cache = open_cache(titles, at=at, copy={"max_bandwidth": 2 * MiB})
    with cache.open("/film") as film:
        film.read(MiB)
        (found,) = eventually(lambda: [one for one in partials_in(at) if one.present_bytes])
        os.truncate(found.data, 0)
        if moment == "after a write":  # which would make it long again, with zeros before it
            eventually(lambda: "was cut by somebody else" in caplog.text)
        film.seek(0)
        data = bytearray()
        while piece := film.read(MiB):
            data += piece
        assert len(data) == size and verify("film", 0, data) is None
    eventually(lambda: at_rest(cache))
    cache.close()
    cache = open_cache(titles, at=at)
    assert_right(fetch(cache, "film"), "film", size)
    settle(cache, at)
    assert_right(fetch(cache, "film"), "film", size)


@pytest.mark.parametrize("folder", ["objects", "objects/ab", "partial", "trash", "."])
def test_foreign_files_harm_nothing(
    titles: Path, tmp_path: Path, open_cache: OpenCache, folder: str
) -> None:
    at = tmp_path / "cache"
    for name in ("objects/ab", "partial", "trash"):
        (at / name).mkdir(parents=True)
    (at / "format").write_text("streamcache 1\n")
    there = at / folder
    (there / "note.txt").write_text("somebody's")
    (there / "folder").mkdir()
    (there / ("ab" * 16 + "." + "cd" * 16)).mkdir()
    os.mkfifo(there / "pipe")
    (there / "link").symlink_to("/etc/passwd")
    (there / ("ab" * 16 + "." + "ef" * 16)).symlink_to("/etc/passwd")
    cache = warmed(open_cache(titles, at=at), at)
    assert_works_again(cache, at)
    assert is_normal(cache)
    assert (there / "folder").is_dir()


# -- the real thing


def test_an_ext4_that_has_gone_read_only(
    titles: Path, tmp_path: Path, open_cache: OpenCache, serve: Serve
) -> None:
    """As the kernel does when it finds an error on the disk."""
    with local.ext4(tmp_path / "disk", 64 * MiB) as loop:
        at = tmp_path / "disk" / "cache"
        cache = warmed(open_cache(titles, 32 * MiB, at=at), at)
        with crowd(serve(cache).socket.getpeername(), WARM, 10) as hits:
            loop.break_down()
            for name in COLD:
                assert_right(fetch(cache, name), name, SIZE)
            eventually(lambda: not is_normal(cache))
            hits.forget()
            eventually(lambda: sum(hits.served.values()) > 50)
            assert set(hits.served) == {"hit"}
            assert fetch(cache, COLD[0]).status is CacheStatus.BYPASS
        cache.close()


# -- the catalog


def test_a_catalog_that_another_program_locks(
    titles: Path, tmp_path: Path, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamcache.cache.database.BUSY", 1.0)
    at = tmp_path / "cache"
    cache = warmed(open_cache(titles, at=at), at)
    other = sqlite3.connect(at / "catalog.sqlite", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        for name in COLD[:3]:
            started = time.monotonic()
            assert_right(fetch(cache, name), name, SIZE)
            assert time.monotonic() - started < 4
            assert fetch(cache, WARM[0]).status is CacheStatus.HIT
        eventually(lambda: not is_normal(cache))
        assert fetch(cache, COLD[4]).status is CacheStatus.BYPASS
        other.execute("ROLLBACK")
        eventually(lambda: is_normal(cache))
    finally:
        other.close()
    assert_works_again(cache, at)
