"""What a hostile review once broke: each test is one promise that did not hold."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import gevent
import pytest
from gevent import Timeout

from streamcache import CacheStatus, StreamCache
from streamcache.cache import locks, workers
from streamcache.cache.states import Event
from streamcache.cache.workers import WorkerPool
from streamcache.errors import (
    Closed,
    NotFound,
    SourceBusy,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
)
from streamcache.source.base import Fingerprint, SourceFile, Version
from streamcache.source.feed import Piece
from streamcache.source.scheduler import Scheduler
from streamcache.stats import Counters
from tests.content import content, verify, write
from tests.requirements import missing
from tests.server.client import Client, get
from tests.slowfs import SlowFS
from tests.system.conftest import OpenCache
from tests.system.site import (
    WAIT,
    MiB,
    assert_right,
    at_rest,
    eventually,
    fetch,
    objects_in,
    opened,
    read,
    settle,
    take,
)

NOW = Fingerprint(1, 2, 3, 4, 5, 6)
CROWD = 500
NAME = "ab" * 16 + "." + "cd" * 16  # of a partial, as it could be


class Held:
    """Calls that wait in their worker threads."""

    def __init__(self) -> None:
        self.calls = 0
        self._open = threading.Event()

    def wait(self) -> None:
        self.calls += 1
        self._open.wait(WAIT)

    def release(self) -> None:
        self._open.set()

    @property
    def entered(self) -> bool:
        return self.calls > 0


@contextlib.contextmanager
def holding(
    owner: object,
    name: str,
    *,
    which: Callable[..., bool] = lambda *args: True,
    after: bool = False,
) -> Iterator[Held]:
    """Calls of this method hang, before or after they are done, until the end of the block."""
    held, real = Held(), getattr(owner, name)

    def slow(*args: Any, **options: Any) -> Any:
        chosen = which(*args)
        if chosen and not after:
            held.wait()
        result = real(*args, **options)
        if chosen and after:
            held.wait()
        return result

    with mock.patch.object(owner, name, slow):
        try:
            yield held
        finally:
            held.release()


@contextlib.contextmanager
def mounted_over(path: Path) -> Iterator[None]:
    """An empty file system hides what is there."""
    if os.geteuid() != 0:
        missing("mounting a tmpfs needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"size=1m"):
        missing(f"no tmpfs here: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        libc.umount2(os.fsencode(path), 2)


def tidy(cache: StreamCache) -> bool:
    """Nothing is being removed, recorded or resumed."""
    provider = cache._parts.provider
    return not (provider._removal._tasks or provider.copies._resumers)


def test_a_file_system_mounted_over_the_source_is_a_fault(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """Hidden files are not gone: what is cached is served on, and kept."""
    for name in ("film", "other"):
        write(source, name, MiB)
    cache = open_cache(source, source_options={"revalidate": 0.0})
    fetch(cache, "film")
    settle(cache, cache_dir)
    kept = objects_in(cache_dir)
    assert kept
    with mounted_over(source):
        answer = fetch(cache, "film")
        assert answer.status is CacheStatus.STALE
        assert_right(answer, "film", MiB)
        with pytest.raises(SourceUnavailable):
            fetch(cache, "other")
        eventually(lambda: tidy(cache))
        assert objects_in(cache_dir) == kept
    assert fetch(cache, "film").status is CacheStatus.HIT


@pytest.mark.parametrize("what", ["seek", "steps"])
def test_a_file_whose_reads_hang_does_not_stall_others(
    fast: SlowFS, open_cache: OpenCache, cache_dir: Path, what: str
) -> None:
    """After about two seconds what hangs takes no place in the queue any more."""
    write(fast.backing, "bad", 16 * MiB)
    write(fast.backing, "good", 4 * MiB)
    cache = open_cache(fast.path, source_options={"timeout": 8.0})
    start, times = (8 * MiB, 1) if what == "seek" else (MiB, None)

    def read_bad() -> None:
        with contextlib.suppress(SourceError), opened(cache, "bad") as delegate:
            take(delegate, 8 * MiB if what == "seek" else 0, 16 * MiB)
            read(delegate, 64 * 1024, 16 * MiB)

    fast.fault("hang", "bad", operations=("read",), start=start, times=times)
    reader = gevent.spawn(read_bad)
    try:
        eventually(lambda: fast.counters("bad").hanging >= (1 if what == "seek" else 3))
        with (
            Timeout(5, AssertionError("the good file has to wait for the bad one")),
            opened(cache, "good") as delegate,
        ):
            take(delegate, 0, 1)
            eventually(lambda: 4 * MiB in objects_in(cache_dir).values())
            assert verify("good", 0, read(delegate, 0, 4 * MiB)) is None
    finally:
        fast.release()
        reader.kill()


def test_two_greenlets_may_be_the_first_users_at_once(source: Path, cache_dir: Path) -> None:
    """The second one waits until the cache is open."""
    for name in ("a", "b"):
        write(source, name, MiB)
    cache = StreamCache(source, cache_dir, 1 << 30)
    try:
        readers = [gevent.spawn(fetch, cache, name) for name in ("a", "b")]
        gevent.joinall(readers, timeout=WAIT, raise_error=True)
        for name, reader in zip(("a", "b"), readers, strict=True):
            assert_right(reader.value, name, MiB)
    finally:
        cache.close()


def test_a_growing_file_is_served_past_the_cache(
    source: Path, open_cache: OpenCache, serve: Callable[[StreamCache], Client]
) -> None:
    """It never looks twice the same, and still each request is answered in full."""
    write(source, "log", MiB)
    cache = open_cache(source)
    client = serve(cache)
    end = threading.Event()
    appended = [0]

    def append() -> None:
        with open(source / "log", "ab", buffering=0) as file:
            while not end.wait(0.02):
                file.write(content("log", file.tell(), file.tell() + 1000))
                appended[0] += 1

    real = cache._parts.source.open

    def slow(*args: Any) -> Any:
        time.sleep(0.015)  # as a network file system: it grows between two looks
        return real(*args)

    writer = threading.Thread(target=append)
    writer.start()
    try:
        eventually(lambda: appended[0])
        with mock.patch.object(cache._parts.source, "open", slow):
            for _ in range(20):
                response = client.ask("/log")
                assert response.status == 200
                assert len(response.body) > MiB
                assert verify("log", 0, response.body) is None
    finally:
        end.set()
        writer.join()
    assert cache.statistics().requests["bypass"] == 20


def test_a_partial_that_is_being_dropped_is_not_begun_meanwhile(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """Its unlink would hit the new copy, which waits for it; one that waits too long is none."""
    size = 8 * MiB
    write(source, "film", size)
    cache = open_cache(source, copy={"when_idle": "stop", "max_bandwidth": 8 * MiB})
    parts = cache._parts
    for patience in (locks.LOCK_WAIT, 0.1):
        with opened(cache, "film") as delegate:
            take(delegate, 0, MiB)
            eventually(lambda: cache.statistics().sessions[0].present)
        eventually(lambda: parts.ledger.reservations() and at_rest(cache))
        with (
            holding(parts.store.partials, "remove") as held,
            mock.patch.object(locks, "LOCK_WAIT", patience),
        ):
            dropping = gevent.spawn(parts.recovery.drop_oldest, 1 << 40)
            eventually(lambda: held.entered)
            reader = gevent.spawn(fetch, cache, "film")
            if patience < 1:
                answer = reader.get(timeout=WAIT)
                assert answer.status is CacheStatus.BYPASS
                assert_right(answer, "film", size)
            else:
                gevent.sleep(0.05)
                assert not reader.ready()
        dropping.get(timeout=WAIT)
        assert_right(reader.get(timeout=WAIT), "film", size)
        settle(cache, cache_dir)
        if patience >= 1:
            (name,) = objects_in(cache_dir)
            parts.objects.discard(name)  # and once more
    assert_right(fetch(cache, "film"), "film", size)
    settle(cache, cache_dir)
    assert list(objects_in(cache_dir).values()) == [size]


def test_a_lease_that_races_eviction_keeps_no_unlinked_file(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """Its blocks would be in no account."""
    write(source, "film", MiB)
    cache = open_cache(source)
    fetch(cache, "film")
    settle(cache, cache_dir)
    parts = cache._parts
    (name,) = objects_in(cache_dir)
    parts.objects._forget(name)  # as when many others were used since
    with holding(parts.store.objects, "open", after=True) as held:
        reader = gevent.spawn(fetch, cache, "film")
        eventually(lambda: held.entered)
        parts.provider._removal.remove([name], "f")
        eventually(lambda: tidy(cache))
        held.release()
        answer = reader.get(timeout=WAIT)
    # It was opened with the lock of a reader, so it is in the trash, and counts there.
    assert answer.status is CacheStatus.HIT
    assert_right(answer, "film", MiB)
    assert objects_in(cache_dir) == {}
    settle(cache, cache_dir)
    assert cache.statistics().usage > 0
    parts.recovery.sweep()
    parts.objects.let_go_of_removed()
    settle(cache, cache_dir)
    assert cache.statistics().usage == 0
    eventually(lambda: not unlinked_and_open(cache_dir))
    assert fetch(cache, "film").status is CacheStatus.MISS


def unlinked_and_open(cache_dir: Path) -> list[str]:
    """Files of the cache that only a descriptor of ours keeps."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in found if str(cache_dir) in path and path.endswith("(deleted)")]


@pytest.mark.parametrize("times", [1, 1000], ids=["once", "always"])
def test_an_error_that_nobody_expected_loses_no_claim(
    source: Path, cache_dir: Path, open_cache: OpenCache, times: int
) -> None:
    """The block is read again, or its reader is told; the session ends either way."""
    write(source, "film", 4 * MiB)
    cache = open_cache(source)
    real, left = cache._parts.source.read_into, [times]

    def broken(*args: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise MemoryError
        return real(*args)

    with (
        mock.patch.object(cache._parts.source, "read_into", broken),
        Timeout(WAIT, AssertionError("a claim was lost")),
    ):
        if times == 1:
            assert_right(fetch(cache, "film"), "film", 4 * MiB)
        else:
            with pytest.raises(SourceError):
                fetch(cache, "film")
        assert left[0] < times
        eventually(lambda: at_rest(cache))
    assert_right(fetch(cache, "film"), "film", 4 * MiB)
    settle(cache, cache_dir)


def test_a_pool_recovers_when_threads_can_be_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A shortage refuses calls; it leaves none behind in the queue."""

    def refused(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    pool = WorkerPool("test", size=4)
    with monkeypatch.context() as shortage:
        shortage.setattr(workers, "_start_new_thread", refused)
        for _ in range(5):
            with pytest.raises(SourceBusy):
                pool.call(os.getpid)
    with Timeout(WAIT):
        assert pool.call(os.getpid) == os.getpid()
    assert (pool.pending, pool.threads) == (0, 1)
    pool.close()
    assert pool.join(WAIT)


def test_a_cache_disk_that_hangs_does_not_hang_requests(
    source: Path, open_cache: OpenCache
) -> None:
    """The source is fine, and the cache is optional."""
    write(source, "film", MiB)
    cache = open_cache(source)
    objects = cache._parts.store.objects
    with holding(objects, "open") as object_held, holding(objects, "versions") as versions_held:
        with Timeout(4, AssertionError("waits for the cache's disk")):
            assert_right(fetch(cache, "film"), "film", MiB)
        assert object_held.entered and versions_held.entered


def test_a_request_that_is_killed_while_it_looks_leaves_no_key_locked(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """Else nobody, in no process, could cache that file any more."""
    write(source, "film", MiB)
    cache = open_cache(source)
    parts = cache._parts
    with holding(parts.store.objects, "versions") as held:
        reader = gevent.spawn(fetch, cache, "film")
        eventually(lambda: held.entered)
        assert parts.keys._held
        reader.kill()
        assert not parts.keys._held
    assert_right(fetch(cache, "film"), "film", MiB)
    settle(cache, cache_dir)
    assert list(objects_in(cache_dir).values()) == [MiB]


def test_a_session_closed_before_it_ran_asks_for_no_room(
    source: Path, open_cache: OpenCache
) -> None:
    """Nobody waits for space that nobody wants."""
    write(source, "film", 16 * MiB)
    cache = open_cache(source, copy={"when_idle": "stop"})
    space = cache._parts.space
    with mock.patch.object(space, "draw", side_effect=space.draw) as draw:
        with opened(cache, "film"):
            assert cache._parts.provider.copies.sessions
        eventually(lambda: at_rest(cache))
    assert draw.call_count == 0
    assert space.reserved == 0


def test_idle_copies_go_on_although_others_that_paused_were_deleted(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """A paused copy that cannot be resumed gives its turn to the next one."""
    names = [f"film{number}" for number in range(10)]
    for name in names:
        write(source, name, MiB // 2)
    cache = open_cache(
        source,
        source_options={"revalidate": 0.0},
        copy={"max_idle": 1, "max_bandwidth": 2 * MiB},
    )
    for name in names:
        with opened(cache, name) as delegate:
            take(delegate, 0, 1)
    deleted = list(cache._parts.provider.copies.fills._paused)[:6]
    assert len(deleted) == 6
    for name in deleted:
        (source / name).unlink()
    eventually(lambda: len(objects_in(cache_dir)) == 4)
    settle(cache, cache_dir)
    left = [name for name in names if name not in deleted]
    assert [fetch(cache, name).status for name in left] == [CacheStatus.HIT] * 4


@pytest.mark.parametrize("stays", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("how", ["replaced", "gone"])
def test_a_version_outdated_while_it_is_published_leaves_no_object(
    source: Path, cache_dir: Path, open_cache: OpenCache, how: str, stays: bool
) -> None:
    """Its reader gets it to the end; nobody after, and it is in no account."""
    write(source, "film", 2 * MiB)
    cache = open_cache(source, source_options={"revalidate": 0.0})
    with holding(cache._parts.store.objects, "publish") as held, contextlib.ExitStack() as stack:
        delegate = stack.enter_context(opened(cache, "film"))
        eventually(lambda: held.entered)
        if not stays:
            stack.pop_all().close()
        if how == "replaced":
            write(source, "film", 2 * MiB + 1, content_name="other", age=500)
            cache.find("/film").close()
        else:
            (source / "film").unlink()
            with pytest.raises(NotFound):
                cache.find("/film")
        held.release()
        if stays:
            assert verify("film", 0, read(delegate, 0, 2 * MiB)) is None
    eventually(lambda: tidy(cache))
    settle(cache, cache_dir)
    assert objects_in(cache_dir) == {}


class FakePool:
    """Runs calls at once."""

    size = 16
    pending = 0

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        gevent.sleep(0)
        return function(*args)


class FakeSource:
    """As quick as nothing."""

    def read_into(self, file: object, buffer: memoryview, offset: int) -> int:
        return len(buffer)

    def fingerprint(self, file: object) -> Fingerprint:
        return NOW


class FakeFeed:
    """Wants more as long as the race goes on."""

    file = SourceFile(-1, Version("0", 1 << 30, 0), NOW)
    sink = None

    def __init__(self, race: list[FakeFeed], steps: int, on_step: Callable[[], None]) -> None:
        self.seen = NOW
        self.got = 0
        self._race = race
        self._steps = steps
        self._on_step = on_step

    def demanded(self, offset: int, length: int) -> None:
        return None

    def sequential(self, length: int) -> Piece | None:
        if sum(feed.got for feed in self._race) >= self._steps:
            return None
        self.got += 1
        return Piece(0, 65536)

    def arrived(self, piece: Piece, data: memoryview, now: object) -> None:
        self._on_step()

    def failed(self, piece: Piece, error: Exception) -> None:
        raise error


def test_readers_that_join_one_title_take_no_turns_from_others() -> None:
    """Five titles get the same, although readers of the first come and go at each step."""
    scheduler = Scheduler(FakeSource(), FakePool(), Counters(), in_flight=1)
    feeds: list[FakeFeed] = []
    feeds += [FakeFeed(feeds, 500, lambda: scheduler.add(feeds[0], idle=False)) for _ in range(5)]
    for feed in feeds:
        scheduler.add(feed, idle=False)
    eventually(lambda: sum(feed.got for feed in feeds) >= 500 and not scheduler._steps.running)
    got = [feed.got for feed in feeds]
    assert min(got) > max(got) / 2, got


def test_a_question_that_hangs_takes_one_thread_however_often_its_path_is_wanted(
    source: Path, open_cache: OpenCache
) -> None:
    """Nobody waits for it for longer than the source's timeout, and nobody asks anew."""
    write(source, "film", MiB)
    write(source, "other", MiB)
    cache = open_cache(source, source_options={"timeout": 1.0})
    with holding(cache._parts.source, "open", which=lambda path, *args: path == "film") as held:
        for _ in range(20):
            with pytest.raises(SourceTimeout):
                fetch(cache, "film")
        assert held.calls == 1
        assert cache.statistics().source_stuck == 1
        assert_right(fetch(cache, "other"), "other", MiB)
    eventually(lambda: not cache.statistics().source_stuck)
    assert_right(fetch(cache, "film"), "film", MiB)


def test_an_open_that_races_close_is_told_so(source: Path, cache_dir: Path) -> None:
    """And what it had opened is given back."""
    write(source, "film", MiB)
    cache = StreamCache(source, cache_dir, 1 << 30)
    cache.start()
    parts = cache._parts
    cache.find("/film").close()
    with cache.find("/film") as found, holding(parts.source, "open") as held:
        opening = gevent.spawn(found.open, "t")
        eventually(lambda: held.entered)
        closing = gevent.spawn(cache.close)
        eventually(lambda: parts.provider.copies.closed)
        held.release()
        with pytest.raises(Closed):
            opening.get(timeout=WAIT)
        closing.get(timeout=WAIT)
    assert not parts.provider.copies.sessions


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not kept"])
def test_a_crowd_that_waits_for_one_block_costs_one_copy_of_it(
    source: Path, open_cache: OpenCache, kept: bool
) -> None:
    """Views of the same bytes, not bytes for each."""
    write(source, "film", 16 * MiB)
    cache = open_cache(source)
    offset = 8 * MiB
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(holding(cache._parts.source, "read_into"))
        crowd = [stack.enter_context(opened(cache, "film")) for _ in range(CROWD)]
        reads = [gevent.spawn(delegate.ready, offset, 16 * MiB) for delegate in crowd]
        (session,) = cache._parts.provider.copies.sessions.values()
        eventually(lambda: len(session._waiting) == CROWD)
        if not kept:
            session.handle_event(Event.SPACE_DENIED)
        held.release()
        gevent.joinall(reads, timeout=WAIT, raise_error=True)
        delivered = [ready.value.data for ready in reads if ready.value.data is not None]
        assert delivered
        assert len({id(data.obj) for data in delivered}) == 1
        assert verify("film", offset, delivered[0]) is None


def test_a_change_is_acted_on_once_however_many_asked(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """One removal for each question to the source, not for each who waits for its answer."""
    write(source, "film", MiB)
    cache = open_cache(source, source_options={"revalidate": 0.0})
    fetch(cache, "film")
    settle(cache, cache_dir)
    removal = cache._parts.provider._removal

    def crowd(look: Callable[[], None]) -> int:
        """How many removals there were."""
        with mock.patch.object(removal, "_remove", side_effect=removal._remove) as remove:
            lookers = [gevent.spawn(look) for _ in range(CROWD)]
            gevent.joinall(lookers, timeout=WAIT, raise_error=True)
            eventually(lambda: tidy(cache))
            return remove.call_count

    def look_gone() -> None:
        with pytest.raises(NotFound):
            cache.find("/film")

    write(source, "film", MiB + 1, age=500)
    assert crowd(lambda: cache.find("/film").close()) == 1
    assert objects_in(cache_dir) == {}
    (source / "film").unlink()
    assert crowd(look_gone) == 1


def test_a_client_that_resets_while_its_file_is_looked_up_is_no_fault_of_ours(
    source: Path,
    open_cache: OpenCache,
    serve: Callable[[StreamCache], Client],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No traceback, and the next client is served."""
    write(source, "film", MiB)
    cache = open_cache(source)
    client = serve(cache)
    address = client.socket.getpeername()
    with holding(cache._parts.source, "open") as held:
        client.send(get("/film"))
        eventually(lambda: held.entered)
        client.reset()
    eventually(lambda: cache._parts.meta.pending == 0)
    with Client(address) as other:
        assert other.ask("/film").status == 200
    eventually(lambda: at_rest(cache))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert "Traceback" not in capfd.readouterr().err


def test_a_fifo_is_not_found(
    source: Path, open_cache: OpenCache, serve: Callable[[StreamCache], Client]
) -> None:
    """It is no file, and nobody waits for its writer."""
    os.mkfifo(source / "pipe")
    assert serve(open_cache(source)).ask("/pipe").status == 404


def _map(raw: bytes) -> Callable[[Path], None]:
    def prepare(cache_dir: Path) -> None:
        (cache_dir / "partial" / f"{NAME}.data").touch()
        (cache_dir / "partial" / f"{NAME}.map").write_bytes(raw)

    return prepare


def _header(text: bytes) -> bytes:
    return b"streamcache map\n%08x" % (24 + len(text)) + text


def _map_is_fifo(cache_dir: Path) -> None:
    (cache_dir / "partial" / f"{NAME}.data").touch()
    os.mkfifo(cache_dir / "partial" / f"{NAME}.map")


def _map_is_directory(cache_dir: Path) -> None:
    (cache_dir / "partial" / f"{NAME}.data").touch()
    (cache_dir / "partial" / f"{NAME}.map").mkdir()


def _map_is_symlink(cache_dir: Path) -> None:
    (cache_dir / "partial" / f"{NAME}.data").touch()
    (cache_dir / "partial" / f"{NAME}.map").symlink_to("/dev/zero")


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "deep JSON": _map(_header(b"[" * 100_000)),
    "huge number": _map(_header(b"1" * 6000)),
    "short map": _map(b"streamcache map\n00"),
    "not ASCII": _map(_header(b"\xff" * 200)),
    "map is a FIFO": _map_is_fifo,
    "map is a folder": _map_is_directory,
    "map is a symlink": _map_is_symlink,
    "data is a folder": lambda at: (at / "partial" / f"{NAME}.data").mkdir(),
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
    with Timeout(WAIT, AssertionError("the start hangs")):
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


def test_a_hard_link_made_at_the_end_does_not_throw_the_copy_away(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """The content is what it was, though its ctime is not."""
    path = write(source, "film", 2 * MiB)
    cache = open_cache(source)
    with holding(cache._parts.source, "stat") as held, opened(cache, "film") as delegate:
        assert verify("film", 0, read(delegate, 0, 2 * MiB)) is None
        eventually(lambda: held.entered)
        path.with_name("link").hardlink_to(path)
    settle(cache, cache_dir)
    assert list(objects_in(cache_dir).values()) == [2 * MiB]
