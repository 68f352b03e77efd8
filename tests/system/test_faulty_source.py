"""What goes wrong at the source, done to a real file system, while a crowd is served hits.

The table of docs/reliability.md, row by row.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket as sockets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.errors import SourceChanged, SourceError, SourceTimeout, SourceUnavailable
from tests.content import verify, write
from tests.daemon_process import DaemonProcess
from tests.mounts import local
from tests.server.client import Client
from tests.slowfs import SlowFS
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
    read,
    settle,
    take,
    tidy,
)

SIZE = MiB + 5
WARM = [f"warm{number}" for number in range(8)]
WARM_SIZE = 20_000
COLD = [f"cold{number}" for number in range(8)]
REVALIDATE = 0.2  # s
WAIT = 1.0  # s: ``revalidate_wait``, long enough to be told from a machine that is busy
TIMEOUT = 2.0  # s
SLOW = {"revalidate": REVALIDATE, "revalidate_wait": WAIT, "timeout": TIMEOUT}

Serve = Callable[[StreamCache], Client]


def filled(backing: Path, cache: StreamCache, cache_dir: Path) -> None:
    """A cache that has the warm files, and none of the cold ones."""
    for name in WARM:
        write(backing, name, WARM_SIZE)
    for name in COLD:
        write(backing, name, SIZE)
    for name in WARM:
        fetch(cache, name)
    settle(cache, cache_dir)


def address_of(client: Client) -> tuple[str, int]:
    return client.socket.getpeername()


def ask(address: tuple[str, int], path: str) -> tuple[int, float, str]:
    """Status, seconds and Retry-After of one request on a connection of its own."""
    with Client(address) as client:
        client.socket.settimeout(4 * TIMEOUT)
        started = time.monotonic()
        answer = client.ask(path)
        return answer.status, time.monotonic() - started, answer.fields.get("retry-after", "")


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def closed(cache: StreamCache) -> bool:
    return cache.statistics().source_answers


# -- every call hangs


def test_a_dead_server(
    fast: SlowFS,
    cache_dir: Path,
    open_cache: OpenCache,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = open_cache(fast.path, source_options=SLOW)
    filled(fast.backing, cache, cache_dir)
    address = address_of(serve(cache))
    parts = cache._parts
    caplog.set_level(logging.WARNING, "streamcache.source.breaker")
    with crowd(address, WARM) as hits:
        eventually(lambda: sum(hits.served.values()) > 200)
        assert set(hits.served) == {"hit"}
        fast.fault("hang")

        # The first that want what is not cached wait for the source's timeout.
        asking = [gevent.spawn(ask, address, f"/{name}") for name in COLD[:4]]
        for status, seconds, _ in (each.get() for each in asking):
            assert (status, seconds > TIMEOUT - 0.2) == (504, True)
        eventually(lambda: not closed(cache))

        # From now on nothing is asked, and nobody waits.
        gevent.sleep(0.1)
        hits.forget()
        hanging = fast.counters().hanging
        for path in (*COLD, "never-there", *COLD):
            status, seconds, retry = ask(address, f"/{path}")
            assert status in (503, 504), path
            assert status == 504 or retry
            assert seconds < TIMEOUT / 2, path
        eventually(lambda: sum(hits.served.values()) > 300)
        assert set(hits.served) == {"fwd=stale"}
        assert hits.slowest < WAIT, "one of them waited for the source"
        assert fast.counters().hanging <= hanging + 1, "more than a probe was asked"
        statistics = cache.statistics()
        assert statistics.source_openings == 1
        limit = parts.meta.size + 1
        assert 0 < fast.counters().hanging <= limit
        eventually(lambda: 0 < cache.statistics().source_stuck <= limit)

        # And back, by itself.
        fast.release()
        eventually(lambda: closed(cache))
        assert cache.statistics().source_openings == 1
        hits.forget()
        eventually(lambda: hits.served["hit"] > 100)
        for name in COLD:
            assert_right(fetch(cache, name), name, SIZE)
        hits.check()
    said = [record.levelname for record in caplog.records if record.name.endswith("breaker")]
    assert said == ["ERROR", "WARNING"]
    settle(cache, cache_dir)
    eventually(lambda: not cache.statistics().source_stuck)
    eventually(lambda: fast.counters().open_files == 0)
    pools = (parts.reads, parts.meta, parts.disk, parts.probe)
    assert all(pool.pending == 0 and pool.threads <= pool.size for pool in pools)
    # Greenlets and, once it is closed, threads: the leak check of every test.


def test_a_dead_server_behind_the_daemon(
    fast: SlowFS, cache_dir: Path, daemon: Callable[..., DaemonProcess]
) -> None:
    """Also stopped while it hangs."""
    for name in WARM:
        write(fast.backing, name, WARM_SIZE)
    write(fast.backing, "cold", SIZE)
    running = daemon(
        fast.path,
        cache_dir=cache_dir,
        environment={
            "STREAMCACHE_SOURCE_REVALIDATE": "200ms",
            "STREAMCACHE_SOURCE_REVALIDATE_WAIT": "1s",
            "STREAMCACHE_SOURCE_TIMEOUT": "1s",
            "STREAMCACHE_SERVER_DRAIN_TIMEOUT": "1s",
        },
    )
    proc = Path("/proc", str(running.pid))

    def source_descriptors() -> list[str]:
        found = []
        for link in (proc / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(link)
                if target.startswith(str(fast.path)):
                    found.append(target)
        return found

    for name in WARM:
        assert ask(running.address, f"/{name}")[0] == 200
    with crowd(running.address, WARM, 20) as hits:
        eventually(lambda: sum(hits.served.values()) > 50)
        fast.fault("hang")
        statuses = [
            each.get()[0]
            for each in [gevent.spawn(ask, running.address, f"/new{n}") for n in range(4)]
        ]
        assert set(statuses) <= {503, 504}
        eventually(lambda: "source does not answer" in running.log)
        before = len(list((proc / "task").iterdir()))
        hits.forget()
        for number in range(50):
            assert ask(running.address, f"/other{number}")[0] == 503
        eventually(lambda: sum(hits.served.values()) > 100)
        assert hits.slowest < 1.0
        assert len(list((proc / "task").iterdir())) <= before + 1
        fast.release()
        eventually(lambda: "source answers again" in running.log)
        eventually(lambda: ask(running.address, "/cold")[0] == 200)
        assert ask(running.address, "/other1")[0] == 404
    eventually(lambda: not source_descriptors())
    fast.fault("hang")
    gevent.sleep(0.3)
    asking = gevent.spawn(ask, running.address, "/new-one")
    eventually(lambda: fast.counters().hanging)
    started = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - started < 10
    asking.kill()
    fast.release()


def test_one_path_that_hangs_takes_one_thread(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, serve: Serve
) -> None:
    cache = open_cache(fast.path, source_options={**SLOW, "timeout": 0.3})
    filled(fast.backing, cache, cache_dir)
    address = address_of(serve(cache))
    with crowd(address, WARM, 10) as hits:
        fast.fault("hang", "cold0", operations=("open",))
        for _ in range(12):
            assert ask(address, "/cold0")[0] == 504
        assert fast.counters().hanging == 1
        for name in COLD[1:]:
            assert_right(fetch(cache, name), name, SIZE)
        statistics = cache.statistics()
        assert statistics.source_answers and statistics.source_openings == 0
        assert statistics.source_stuck == 1
        assert set(hits.served) == {"hit"}
        fast.release()
        eventually(lambda: not cache.statistics().source_stuck)
    assert_right(fetch(cache, "cold0"), "cold0", SIZE)


@pytest.mark.parametrize("aged", [True, False], ids=["copied", "past the cache"])
def test_one_file_whose_reads_hang_does_not_take_all_workers(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, serve: Serve, aged: bool
) -> None:
    """However many come, seek, give up and come again."""
    cache = open_cache(fast.path, source_options=SLOW)
    filled(fast.backing, cache, cache_dir)
    write(fast.backing, "bad", 64 * MiB, **({} if aged else {"age": 0}))
    address = address_of(serve(cache))
    stop = False

    def come_again(number: int) -> None:
        offset = (number + 1) * MiB
        while not stop:
            with (
                contextlib.suppress(SourceError),
                opened(cache, "bad") as delegate,
                gevent.Timeout(0.3, False),
            ):
                take(delegate, offset, 64 * MiB)
            offset = (offset + 7 * 65536) % (63 * MiB) + 65536
            gevent.sleep(0.02)

    with opened(cache, "bad") as delegate, crowd(address, WARM, 10) as hits:
        take(delegate, 0, 1000)
        fast.fault("hang", "bad", operations=("read",), start=65536)
        readers = [gevent.spawn(come_again, number) for number in range(30)]
        most = 0
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            most = max(most, cache._parts.reads.pending)
            gevent.sleep(0.05)
        assert most <= 12, "a quarter of the workers is for the others"
        for name in COLD:
            assert_right(fetch(cache, name), name, SIZE)
        assert closed(cache)
        stop = True
        fast.release()
        gevent.joinall(readers, timeout=10, raise_error=True)
        assert set(hits.served) == {"hit"}
        assert verify("bad", 2 * MiB, read(delegate, 2 * MiB, 4 * MiB)) is None
    assert not cache._parts.provider._r.scheduler._held
    eventually(lambda: not cache._parts.reads.pending)


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
            gevent.Timeout(5, AssertionError("the good file has to wait for the bad one")),
            opened(cache, "good") as delegate,
        ):
            take(delegate, 0, 1)
            eventually(lambda: 4 * MiB in objects_in(cache_dir).values())
            assert verify("good", 0, read(delegate, 0, 4 * MiB)) is None
    finally:
        fast.release()
        reader.kill()


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


# -- unmounted


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A mounted source, and the directory behind it; it can be taken away and come back."""
    behind, point = tmp_path / "behind", tmp_path / "source"
    behind.mkdir()
    point.mkdir()
    local.mount(str(behind), point, "", flags=local.BIND)
    try:
        yield behind, point
    finally:
        while os.path.ismount(point) or behind.samefile(point):
            local.unmount(point)


@pytest.mark.parametrize("how", ["unmounted", "mounted over"])
def test_the_source_goes_and_comes_back_under_load(
    bound: tuple[Path, Path], cache_dir: Path, open_cache: OpenCache, serve: Serve, how: str
) -> None:
    behind, point = bound
    cache = open_cache(point, source_options=SLOW)
    filled(behind, cache, cache_dir)
    kept = objects_in(cache_dir)
    assert len(kept) == len(WARM)
    address = address_of(serve(cache))
    with crowd(address, WARM) as hits:
        eventually(lambda: sum(hits.served.values()) > 100)
        if how == "unmounted":
            local.unmount(point)
        else:
            local.mount("none", point, "tmpfs", "size=8m")
        assert not list(point.iterdir())
        eventually(lambda: not closed(cache))
        gevent.sleep(2 * REVALIDATE)
        hits.forget()
        for path in (*COLD, "never-there", *WARM[:2]):
            status, _, retry = ask(address, f"/{path}")
            assert (status, bool(retry)) == ((200, False) if path in WARM else (503, True)), path
        eventually(lambda: sum(hits.served.values()) > 200)
        assert set(hits.served) == {"fwd=stale"}
        assert objects_in(cache_dir) == kept

        if how == "unmounted":
            local.mount(str(behind), point, "", flags=local.BIND)
        else:
            local.unmount(point)
        eventually(lambda: closed(cache))
        hits.forget()
        eventually(lambda: hits.served["hit"] > 100)
        assert ask(address, "/never-there")[0] == 404
        assert_right(fetch(cache, "cold0"), "cold0", SIZE)
    assert set(kept) <= set(objects_in(cache_dir))


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
    with local.tmpfs(source, "size=1m"):
        answer = fetch(cache, "film")
        assert answer.status is CacheStatus.STALE
        assert_right(answer, "film", MiB)
        with pytest.raises(SourceUnavailable):
            fetch(cache, "other")
        eventually(lambda: tidy(cache))
        assert objects_in(cache_dir) == kept
    assert fetch(cache, "film").status is CacheStatus.HIT


# -- slow


def test_a_source_that_is_a_hundred_times_slower_and_then_well(
    slowfs: SlowFS, cache_dir: Path, open_cache: OpenCache, serve: Serve
) -> None:
    """The deadline is one of each read: the file takes several times as long."""
    usual, slow = {"latency": 0.004, "bandwidth": 200 * MiB}, {"latency": 0.4, "bandwidth": 2 * MiB}
    slowfs.set(**usual, meta_latency=0.002)
    cache = open_cache(slowfs.path, source_options={**SLOW, "timeout": 3.0})
    filled(slowfs.backing, cache, cache_dir)
    size = 24 * MiB
    for name in ("film", "other"):
        write(slowfs.backing, name, size)
    address = address_of(serve(cache))
    scheduler = cache._parts.provider._r.scheduler
    with crowd(address, WARM, 20), opened(cache, "film") as player, opened(cache, "other") as other:
        data = take(player, 0, MiB)
        slowfs.set(**slow)
        started = time.monotonic()

        def play() -> bytes:
            return data + read(player, len(data), size)

        def copy_other() -> bytes:
            return read(other, 0, 4 * MiB)

        playing, reading = gevent.spawn(play), gevent.spawn(copy_other)
        eventually(lambda: scheduler._steps.running >= 2)
        for offset in (20 * MiB, 22 * MiB, 17 * MiB):
            with opened(cache, "film") as seeker:
                before = cache.statistics().bytes_from_source
                assert verify("film", offset, take(seeker, offset, offset + 1000)) is None
                # What was in flight, and what others waited for: no copying went before it.
                passed = cache.statistics().bytes_from_source - before
                assert passed <= 8 * scheduler._rate.step + MiB, passed
        while time.monotonic() - started < 4.0:
            gevent.sleep(0.1)
        assert not playing.ready(), "it is no test if it does not take longer than the timeout"
        assert closed(cache)
        slowfs.set(**usual)
        assert verify("film", 0, playing.get(timeout=30)) is None
        assert verify("other", 0, reading.get(timeout=30)) is None
    settle(cache, cache_dir, 30)
    statistics = cache.statistics()
    assert (statistics.source_openings, statistics.copies_failed) == (0, 0)
    assert list(objects_in(cache_dir).values()).count(size) == 2


# -- errors while it is copied


def test_a_read_that_fails_once_is_tried_again(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, serve: Serve
) -> None:
    cache = open_cache(fast.path, source_options=SLOW)
    filled(fast.backing, cache, cache_dir)
    write(fast.backing, "film", 8 * MiB)
    with crowd(address_of(serve(cache)), WARM) as hits:
        fast.fault("EIO", "film", operations=("read",), start=3 * MiB, times=1)
        assert_right(fetch(cache, "film"), "film", 8 * MiB)
        settle(cache, cache_dir)
        assert fast.counters("film").errors == 1
        assert 8 * MiB in objects_in(cache_dir).values()
        assert set(hits.served) == {"hit"}


def test_reads_that_fail_for_ever_end_the_copy_and_no_other(
    fast: SlowFS,
    cache_dir: Path,
    open_cache: OpenCache,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = open_cache(fast.path, source_options=SLOW)
    filled(fast.backing, cache, cache_dir)
    write(fast.backing, "film", 8 * MiB)
    address = address_of(serve(cache))
    with crowd(address, WARM) as hits:
        for _ in range(4):
            fast.fault("EIO", "film", operations=("read",), start=3 * MiB)
            with Client(address) as client, pytest.raises((EOFError, OSError)):
                client.ask("/film")  # cut short: fewer bytes than its Content-Length
            eventually(lambda: at_rest(cache))
            assert 8 * MiB not in objects_in(cache_dir).values()
        assert any("copy failed path='/film'" in line for line in caplog.messages)
        assert any("Input/output error" in line for line in caplog.messages)
        assert closed(cache) and cache.statistics().source_openings == 0, "it is one bad file"
        fast.release()
        assert_right(fetch(cache, "film"), "film", 8 * MiB)
        settle(cache, cache_dir)
        assert 8 * MiB in objects_in(cache_dir).values()
        assert set(hits.served) == {"hit"}


# -- stale handles


@pytest.mark.parametrize("aged", [True, False], ids=["copied", "past the cache"])
@pytest.mark.parametrize("replaced", [False, True], ids=["the same", "replaced"])
def test_a_restarted_server(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, serve: Serve, aged: bool, replaced: bool
) -> None:
    """It knows the handles of before no more (ESTALE)."""
    fast.set(keep_cache=False)
    cache = open_cache(fast.path, source_options=SLOW, copy={"in_flight": 2})
    filled(fast.backing, cache, cache_dir)
    size = 16 * MiB
    write(fast.backing, "film", size, age=3600 if aged else 0)
    address = address_of(serve(cache))
    with crowd(address, WARM) as hits:
        gate = fast.fault("hang", "film", operations=("read",), start=4 * MiB)
        with opened(cache, "film") as delegate:
            assert (delegate.status is CacheStatus.MISS) == aged
            data = read(delegate, 0, MiB)
            if replaced:
                write(fast.backing, "film", size, content_name="new", age=3000 if aged else 0)
            stale = fast.fault("ESTALE", "film", operations=("read",), existing=True)
            fast.release(gate)
            if replaced:
                with pytest.raises(SourceChanged):
                    while len(data) < size:
                        data += take(delegate, len(data), size)
                assert verify("film", 0, data) is None
            else:
                data += read(delegate, len(data), size)
                assert verify("film", 0, data) is None
                # What was being read on the old handle meanwhile may have opened it once more.
                assert 2 <= fast.counters("film").opens <= 5
        fast.release(stale)
        settle(cache, cache_dir)
        if aged:
            assert (size in objects_in(cache_dir).values()) != replaced
            assert cache.statistics().copies_failed == replaced
        gevent.sleep(2 * REVALIDATE)
        assert_right(fetch(cache, "film"), "new" if replaced else "film", size)
        assert closed(cache)
        assert set(hits.served) == {"hit"}
    settle(cache, cache_dir)
    eventually(lambda: fast.counters().open_files == 0)


# -- what is no file to serve


def test_what_cannot_be_served_is_an_answer_and_never_a_hang(
    source: Path, cache_dir: Path, open_cache: OpenCache, serve: Serve
) -> None:
    cache = open_cache(source, source_options=SLOW)
    filled(source, cache, cache_dir)
    address = address_of(serve(cache))
    (source / "circle").symlink_to("circle")
    (source / "out").symlink_to("/etc/passwd")
    (source / "folder").mkdir()
    os.mkfifo(source / "fifo")
    with sockets.socket(sockets.AF_UNIX) as listener, contextlib.chdir(source):
        listener.bind("socket")
    names = ["warm0/below", "circle", "out", "folder", "fifo", "socket", "n" * 300, "never"]
    with contextlib.suppress(PermissionError):
        os.mknod(source / "null", 0o666 | 0o020000, os.makedev(1, 3))
        os.mknod(source / "zero", 0o666 | 0o020000, os.makedev(1, 5))
        names += ["null", "zero"]
    with crowd(address, WARM) as hits:
        for name in names:
            for _ in range(2):
                assert ask(address, f"/{name}")[0] == 404, name
        assert closed(cache)
        assert set(hits.served) == {"hit"}


def test_what_is_forbidden_is_403(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, serve: Serve
) -> None:
    cache = open_cache(fast.path, source_options=SLOW)
    filled(fast.backing, cache, cache_dir)
    address = address_of(serve(cache))
    with crowd(address, WARM) as hits:
        for operation, code in (("open", "EACCES"), ("open", "EPERM"), ("lookup", "EACCES")):
            fault = fast.fault(code, "cold*", operations=(operation,))
            for name in COLD:
                assert ask(address, f"/{name}")[0] == 403, (operation, code)
            fast.release(fault)
        assert closed(cache)
        assert set(hits.served) == {"hit"}
    for name in COLD:
        assert_right(fetch(cache, name), name, SIZE)
