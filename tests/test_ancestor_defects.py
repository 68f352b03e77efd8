"""What went wrong in the ancestor must not come back here.

The IDs are those of the page on the ancestor's behaviour: ``bug`` and a commit for what was fixed
in its history, ``defect`` and a number for what was left in its last version. Those that have their
place in the tests of one module are there: bugs 63c6357b (test_partial), 8cfa40ad
(test_session_changes), c3ddf1ac (test_workers), 62b5c6d7 and 60964f2e (test_ledger), 9fef2a5d
(test_freshness).
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from streamcache import CacheStatus, StreamCache, StreamCacheServer
from streamcache.cache.space import footprint
from streamcache.cache.states import Event, State
from streamcache.errors import AccessDenied, NotFound, SourceChanged, SourceUnavailable
from streamcache.http.plan import head_bytes, plan_error
from streamcache.source.base import SourceFile
from tests import content
from tests.cache.fakes import BLOCK, World
from tests.server.client import Client
from tests.system.site import at_rest, config, eventually, objects_in, settle

FILM = "film.mp4"
SIZE = 40 * BLOCK + 7
Open = Callable[..., StreamCache]


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    yield found
    found.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    content.write(tmp_path / "source", FILM, SIZE)
    return tmp_path / "source"


@pytest.fixture
def open_cache(source: Path, cache_dir: Path) -> Iterator[Open]:
    """``open_cache(size=..., source={...}, copy={...})``: a cache over the source."""
    opened: list[StreamCache] = []

    def start(size: int = 1 << 30, **sections: dict[str, object]) -> StreamCache:
        cache = StreamCache(source, cache_dir, size, config=config(**sections))
        cache.start()
        opened.append(cache)
        return cache

    yield start
    for cache in opened:
        cache.close()


@pytest.fixture
def cache(open_cache: Open) -> StreamCache:
    """One as it comes."""
    return open_cache()


@pytest.fixture
def client(cache: StreamCache) -> Iterator[Client]:
    """Connected to a server over it."""
    server = StreamCacheServer(("127.0.0.1", 0), cache, config=config(log={"access": "off"}))
    server.start()
    with Client(server.address) as found:
        yield found
    server.stop(timeout=0)


def read(cache: StreamCache, name: str = FILM) -> bytes:
    with cache.open(f"/{name}") as file:
        return file.readall()


def right(data: bytes, name: str = FILM, size: int = SIZE) -> bool:
    return len(data) == size and content.verify(name, 0, data) is None


def open_below(*roots: Path) -> list[str]:
    """Files below these that this process has open."""
    targets = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return [target for target in targets if target.startswith(tuple(map(str, roots)))]


# -- bugs of its history


def test_bug_73dc7591_the_source_is_touched_in_worker_threads_only(
    open_cache: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """#1419: open and stat of the network mount blocked the loop (I1)."""
    cache = open_cache(source={"revalidate": 0.0})
    inner = cache._parts.source
    hub, touched = threading.get_ident(), set()

    def watched(name: str) -> Callable[..., object]:
        real = getattr(inner, name)

        def call(*args: object) -> object:
            assert threading.get_ident() != hub, f"{name} in the hub's thread"
            touched.add(name)
            return real(*args)

        return call

    for name in ("open", "stat", "read_into", "fingerprint"):
        monkeypatch.setattr(inner, name, watched(name))
    close = SourceFile.close

    def watched_close(file: SourceFile) -> None:
        assert file.fd < 0 or threading.get_ident() != hub, "close in the hub's thread"
        touched.add("close")
        close(file)

    monkeypatch.setattr(SourceFile, "close", watched_close)
    assert right(read(cache))
    eventually(lambda: at_rest(cache))
    assert right(read(cache))
    with pytest.raises(NotFound):
        cache.find("/none.mp4")
    assert touched == {"open", "stat", "read_into", "fingerprint", "close"}


def test_bug_738d1b67_closing_waits_until_sessions_have_let_go(
    open_cache: Open, cache_dir: Path
) -> None:
    cache = open_cache(copy={"max_bandwidth": 1 << 16})
    with cache.find(f"/{FILM}") as found:
        found.open().close()
    cache.close()
    assert open_below(cache_dir) == []


def test_bug_2a6b0488_closing_a_handle_never_raises(world: World) -> None:
    """#1327: provider.close() that raised left sockets in CLOSE_WAIT."""
    session = world.session(FILM, SIZE)
    clients = [world.client(session) for _ in range(2)]
    session.handle_event(Event.SHUTDOWN)
    world.settle()
    for client in clients:
        client.leave()
        client.leave()


def test_bug_1396c57f_a_reader_stopped_early_leaves_nothing(world: World) -> None:
    world.gate.shut()
    session = world.session(FILM, SIZE)
    for _ in range(10):
        client = world.client(session)
        client.get(0, SIZE)
        client.leave()
    world.gate.open()
    world.settle()
    assert session.ended.is_set()
    assert world.source.open_files == 0


def test_bug_db6fa6bc_a_range_that_ends_beyond_the_file_is_clamped(client: Client) -> None:
    """#1280."""
    answer = client.ask(f"/{FILM}", f"Range: bytes={SIZE - 3}-{SIZE + 100}")
    assert answer.status == 206
    assert answer.fields["content-range"] == f"bytes {SIZE - 3}-{SIZE - 1}/{SIZE}"
    assert answer.body == content.content(FILM, SIZE - 3, SIZE)


def test_bug_ddf44b37_an_error_says_what_becomes_of_the_connection() -> None:
    closing = plan_error(None, 400, close=True)
    assert b"connection: close\r\n" in head_bytes(closing, date=b"now", extra=()).lower()


def test_bug_51c1a35e_a_child_of_a_file_is_not_found(client: Client) -> None:
    for path in (f"/{FILM}/child", f"/{FILM}/.", f"/{FILM}/", "/"):
        assert client.ask(path).status == 404, path


def test_bug_56659225_the_same_path_of_two_sources_is_two_keys(
    tmp_path: Path, cache_dir: Path
) -> None:
    """Keys from the relative path alone collided."""
    pieces = {}
    for number in (1, 2):
        root = tmp_path / f"source{number}"
        path = content.write(root, FILM, SIZE, content_name=f"{FILM}{number}")
        os.utime(path, (1, 1))  # also the same version
        with StreamCache(root, cache_dir, 1 << 30) as cache:
            pieces[number] = read(cache)
            settle(cache, cache_dir)
    for number, data in pieces.items():
        assert right(data, f"{FILM}{number}")


def test_bug_3c476353_statistics_of_nothing_are_nothing(open_cache: Open) -> None:
    """ZeroDivisionError when the first update came at once."""
    said = open_cache().statistics()
    assert (said.requests, said.bytes, said.usage) == ({}, {}, 0)


# -- defects of its last version


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AccessDenied(errno.EACCES, "no"), 403),
        (NotFound(errno.ENOTDIR, "no"), 404),
        (SourceUnavailable(errno.ESTALE, "no"), 503),
        (SourceUnavailable(errno.EIO, "no"), 503),
    ],
)
def test_defects_01_and_02_every_fault_of_an_open_has_its_status(
    open_cache: Open, monkeypatch: pytest.MonkeyPatch, error: OSError, status: int
) -> None:
    """403 was unreachable; ENOTDIR, ESTALE and EIO were 500."""
    cache = open_cache()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cache._parts.source, "open", fail)
    server = StreamCacheServer(("127.0.0.1", 0), cache, config=config(log={"access": "off"}))
    server.start()
    with Client(server.address) as client:
        assert client.ask(f"/{FILM}").status == status
    server.stop(timeout=0)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("bytes=abc-", 200),
        ("bytes=-", 200),
        ("bytes=5-3", 200),
        (f"bytes={SIZE}-", 416),
        (f"bytes={SIZE + 5}-{SIZE + 9}", 416),
        ("bytes=-0", 416),
    ],
)
def test_defect_03_an_odd_range_is_ignored_or_unsatisfiable(
    client: Client, value: str, status: int
) -> None:
    """It was a 500, or a 206 of a negative length."""
    answer = client.ask(f"/{FILM}", f"Range: {value}")
    assert answer.status == status
    if status == 416:
        assert answer.fields["content-range"] == f"bytes */{SIZE}"
    else:
        assert right(answer.body)


def test_defect_04_what_needs_no_bytes_copies_nothing(client: Client, cache: StreamCache) -> None:
    """HEAD, 304 and 416 started a copy, and left it open."""
    tag = client.ask(f"/{FILM}", method="HEAD").fields["etag"]
    assert client.ask(f"/{FILM}", f"If-None-Match: {tag}").status == 304
    assert client.ask(f"/{FILM}", 'If-Match: "other"').status == 412
    assert client.ask(f"/{FILM}", f"Range: bytes={SIZE}-").status == 416
    statistics = cache.statistics()
    assert (statistics.copies_started, statistics.bytes_from_source) == (0, 0)


def test_defect_05_short_read_is_never_the_end_of_a_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any short read published a file padded with zeros, even if the attributes say nothing."""
    read_into = world.source.read_into

    def short(file: SourceFile, buffer: memoryview, offset: int) -> int:
        count = read_into(file, buffer, offset)
        return count - 1 if offset <= 20 * BLOCK < offset + count else count

    monkeypatch.setattr(world.source, "read_into", short)
    session = world.session(FILM, SIZE)
    client = world.client(session)
    answer = client.get(20 * BLOCK, SIZE)
    world.settle()
    assert isinstance(answer.error, SourceChanged)
    assert session.state is State.DETACHED
    assert world.object_of(session) is None
    client.leave()


def test_defect_05_a_source_that_grows_is_not_copied_past_its_reservation(world: World) -> None:
    world.gate.shut()
    session = world.session(FILM, SIZE)
    client = world.client(session)
    with open(world.path(FILM), "ab") as file:
        file.write(bytes(10 * BLOCK))
    answer = client.get(0, SIZE)
    world.gate.open()
    world.settle()
    assert answer.complete
    assert max(start + count for start, count in world.source.reads) <= SIZE
    client.leave()


def test_defect_06_a_read_that_fails_is_answered(world: World) -> None:
    """The read that failed was lost: its client hung, and so did all that were queued."""
    world.gate.shut()
    session = world.session(FILM, SIZE)
    clients = [world.client(session) for _ in range(5)]
    answers = [client.get(number * 8 * BLOCK, SIZE) for number, client in enumerate(clients)]
    world.settle()
    world.source.break_down(errno.EIO)
    world.gate.open()
    world.settle()
    assert [answer.waits for answer in answers] == [False] * 5
    assert world.counters.copies_failed == 1
    for client in clients:
        client.leave()


def test_defect_07_an_outdated_copy_does_not_publish_its_successors_file(world: World) -> None:
    """Temporary names were fixed: two sessions renamed each other's file into the cache."""
    world.gate.shut()
    old = world.session(FILM, SIZE)
    clients = [world.client(old) for _ in range(2)]
    world.settle()
    world.write(FILM, SIZE, content_name="other")
    new = world.session(FILM)
    old.handle_event(Event.OUTDATED)
    assert old.name != new.name
    answers = [client.get(0, SIZE) for client in clients]
    world.gate.open()
    world.settle()
    assert all(answer.complete for answer in answers)
    assert world.object_of(new, "other") == "whole"
    assert world.object_of(old) is None
    for client in clients:
        client.leave()


def test_defect_08_temporary_files_lie_beside_their_destination(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were made in $TMPDIR: EXDEV where that is another file system."""
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    session = world.session(FILM, SIZE)
    world.settle()
    assert world.object_of(session) == "whole"
    root = world.root / "cache"
    assert os.stat(root / "partial").st_dev == os.stat(root / "objects").st_dev


def test_defect_09_a_session_without_room_goes_when_its_reader_does(world: World) -> None:
    """It stayed in the index for ever, and caching was never tried again."""
    world.space.resize(1000)
    session = world.session(FILM, SIZE)
    client = world.client(session)
    world.settle()
    client.leave()
    world.settle()
    assert session.ended.is_set()
    assert world.source.open_files == 0
    world.space.resize(1 << 30)
    again = world.session(FILM)
    world.settle()
    assert world.object_of(again) == "whole"


@pytest.mark.parametrize("event", [Event.OUTDATED, Event.COPY_FAILED, Event.SPACE_DENIED])
def test_defect_10_a_cancelled_session_is_closed_with_its_last_reader(
    world: World, event: Event
) -> None:
    """Its descriptors, its temporary file and its reservation leaked."""
    world.gate.shut()
    session = world.session(FILM, SIZE)
    clients = [world.client(session) for _ in range(2)]
    world.settle()
    session.handle_event(event)
    for client in clients:
        client.leave()
    world.gate.open()
    world.settle()
    assert session.ended.is_set()
    assert world.source.open_files == 0
    # World.close looks at partials and reservations: what is sound of a failed copy is kept.


def test_defect_11_the_end_of_an_old_session_leaves_the_new_one_in_the_index(
    open_cache: Open, source: Path
) -> None:
    cache = open_cache(source={"revalidate": 0.0}, copy={"max_bandwidth": 1 << 16})
    sessions = cache._parts.provider.copies.sessions
    with cache.open(f"/{FILM}") as old:
        content.write(source, FILM, SIZE, content_name="other")
        with cache.open(f"/{FILM}") as new:
            assert old.version != new.version
            old.close()
            eventually(lambda: not cache._parts.provider.copies.ending)
            (session,) = sessions.values()
            assert session.version == new.version
            assert right(new.readall(), "other")


def test_defect_12_room_is_not_made_of_running_copies(
    open_cache: Open, source: Path, cache_dir: Path
) -> None:
    """Clean-up removed the temporary files of running copies."""
    for number in range(8):
        content.write(source, f"other{number}", SIZE)
    cache = open_cache(4 * footprint(SIZE), copy={"max_bandwidth": 1 << 16})
    with cache.open(f"/{FILM}") as slow:
        slow.read(10)
        for number in range(8):
            assert right(read(cache, f"other{number}"), f"other{number}")
        slow.seek(0)
        assert right(slow.readall())


def test_defect_13_a_file_that_is_too_large_evicts_nothing(
    open_cache: Open, source: Path, cache_dir: Path
) -> None:
    """A few oversize titles drained the cache."""
    content.write(source, "large", 4 * SIZE)
    cache = open_cache(2 * footprint(SIZE))
    assert right(read(cache))
    settle(cache, cache_dir)
    before = objects_in(cache_dir)
    with cache.open("/large") as large:
        assert large.status is CacheStatus.BYPASS
        assert right(large.readall(), "large", 4 * SIZE)
    settle(cache, cache_dir)
    assert objects_in(cache_dir) == before
    assert before


def test_defect_14_what_is_reserved_counts_before_it_is_on_disk(world: World) -> None:
    """Usage was what du said: reservations not yet on disk were forgotten."""
    world.gate.shut()
    sessions = [world.session(f"film{number}", SIZE) for number in range(3)]
    world.settle()
    assert world.space.reserved == 3 * footprint(SIZE)
    assert sum(world.on_disk(session.name) for session in sessions) < footprint(SIZE)


def test_defect_15_room_that_comes_too_late_starts_no_copy(world: World) -> None:
    world.space.evicting = True
    blocker = world.fill()
    session = world.session(FILM, SIZE)
    client = world.client(session)
    world.settle()
    session.handle_event(Event.OUTDATED)
    blocker.release()
    world.settle()
    assert world.source.bytes_read == 0
    assert (world.partials(), world.space.reserved) == ([], 0)
    client.leave()


def test_defect_16_closing_in_the_middle_of_a_copy_closes_its_files(
    open_cache: Open, source: Path, cache_dir: Path
) -> None:
    cache = open_cache(copy={"max_bandwidth": 1 << 16})
    with cache.open(f"/{FILM}") as file:
        file.read(10)
        cache.close()
    eventually(lambda: not open_below(cache_dir, source))


@pytest.mark.parametrize("what", ["time", "size"])
def test_defect_17_a_version_is_more_than_whole_seconds(
    open_cache: Open, source: Path, what: str
) -> None:
    """mtime was compared in whole seconds, and nothing else was."""
    path = source / FILM
    second = (int(time.time()) - 3600) * 10**9
    os.utime(path, ns=(second, second))
    cache = open_cache(source={"revalidate": 0.0})
    assert right(read(cache))
    new = content.write(source, FILM, SIZE - (what == "size"), content_name="other")
    moment = second + (what == "time")
    os.utime(new, ns=(moment, moment))
    with cache.open(f"/{FILM}") as file:
        assert right(file.readall(), "other", SIZE - (what == "size"))


def test_defect_18_a_read_before_there_is_room_does_not_hold_the_hub(world: World) -> None:
    """Reads while "not copying" blocked the main loop on the network file system."""
    world.space.evicting = True
    blocker = world.fill()
    world.gate.shut()
    session = world.session(FILM, SIZE)
    client = world.client(session)
    answer = client.get(0, BLOCK)
    world.settle()
    beats = 0
    for _ in range(100):
        gevent.sleep(0)
        beats += 1
    assert (answer.waits, beats) == (True, 100)
    world.gate.open()
    world.settle()
    assert answer.complete
    blocker.release()
    client.leave()


def test_defect_19_an_empty_file_is_a_file(client: Client, source: Path) -> None:
    """Cancelling it divided by zero; its Range was "bytes 0--1/0"."""
    content.write(source, "empty", 0)
    for fields in ((), ("Range: bytes=0-",), ("Range: bytes=0-9",)):
        answer = client.ask("/empty", *fields)
        assert (answer.status, answer.body) == (200, b"")
        assert "content-range" not in answer.fields


def test_defect_19_an_empty_copy_can_be_cancelled(world: World) -> None:
    for event in (Event.IDLE, Event.OUTDATED, Event.SHUTDOWN):
        session = world.session(f"empty {event.name}", 0)
        session.handle_event(event)
        world.settle()
        assert session.ended.is_set()


def test_defect_21_a_link_does_not_leave_the_root(
    client: Client, source: Path, tmp_path: Path
) -> None:
    """The check looked at the string only."""
    (tmp_path / "source-secret").mkdir()
    content.write(tmp_path / "source-secret", "file", 10)
    (source / "link").symlink_to(tmp_path / "source-secret")
    assert client.ask("/link/file").status == 404
    assert client.ask("/%2e%2e/source-secret/file").status in (400, 404)
