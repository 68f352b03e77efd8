"""The cache inside another gevent program: it never holds the hub, and leaves others alone."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from gevent.hub import Hub
from gevent.threadpool import ThreadPool

from streamcache import CacheStatus, StreamCache, StreamCacheServer
from streamcache.errors import (
    CacheError,
    Closed,
    ConfigError,
    NotFound,
    SourceChanged,
    SourceError,
    SourceTimeout,
)
from tests.content import content, verify, write
from tests.daemon_process import REPOSITORY
from tests.server.client import Client
from tests.slowfs import SlowFS
from tests.system.conftest import OpenCache
from tests.system.site import (
    WAIT,
    MiB,
    assert_right,
    config,
    eventually,
    fetch,
    objects_in,
    opened,
    read,
    settle,
)

SIZE = MiB + 123
BEAT = 0.002  # s
LONGEST_GAP = 0.05  # s


class Heartbeat:
    """A greenlet that wants to run all the time: the longest that it could not."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.beats = 0

    @contextlib.contextmanager
    def beating(self) -> Iterator[Heartbeat]:
        gc.collect()  # the garbage of other tests is not what is measured
        greenlet = gevent.spawn(self._beat)
        try:
            gevent.sleep(0)
            yield self
        finally:
            greenlet.kill()

    def _beat(self) -> None:
        before = time.monotonic()
        while True:
            gevent.sleep(BEAT)
            now = time.monotonic()
            self.longest = max(self.longest, now - before)
            self.beats += 1
            before = now


def never_held(act: Callable[[], object]) -> None:
    """The heart never stops for long. One try of three: other processes may hold the machine."""
    longest = []
    for _ in range(3):
        with Heartbeat().beating() as heart:
            act()
        assert heart.beats > 10
        longest.append(heart.longest)
        if heart.longest < LONGEST_GAP:
            return
    pytest.fail(f"the hub was held for {min(longest):.3f} s")


def in_process(function: Callable[..., object], *args: object, **options: object) -> object:
    """Run a call that blocks (of slowfs) so that it does not hold the hub itself."""
    pool = ThreadPool(1)
    try:
        return pool.apply(function, args, options)
    finally:
        pool.kill()


# The hub is never held (I1)


def test_the_hub_is_not_held_while_the_source_hangs(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache, serve: Callable[[StreamCache], Client]
) -> None:
    for name in ("warm", "cold", "half"):
        write(fast.backing, name, SIZE)
    cache = open_cache(fast.path, source_options={"timeout": 1.2, "revalidate": 0.1})
    fetch(cache, "warm")
    settle(cache, cache_dir)
    client = serve(cache)
    fault = fast.fault("hang", "half", operations=("read",), start=SIZE // 2)

    def half() -> None:
        with opened(cache, "half") as delegate, pytest.raises(SourceTimeout):
            read(delegate, 0, SIZE)

    reader = gevent.spawn(half)
    eventually(lambda: fast.counters("half").hanging)
    hang = fast.fault("hang")

    def others() -> None:
        cold = gevent.spawn(fetch, cache, "cold")
        for _ in range(3):
            answer = client.ask("/warm")
            assert answer.status == 200 and verify("warm", 0, answer.body) is None
        with pytest.raises(SourceTimeout):
            cold.get()

    never_held(others)
    reader.get()
    # What hangs may come back when everybody has left: nothing is lost by then.
    with Heartbeat().beating():
        in_process(fast.release, fault)
        in_process(fast.release, hang)
        settle(cache, cache_dir)
    assert_right(fetch(cache, "cold"), "cold", SIZE)


def test_the_hub_is_not_held_by_a_start_on_a_source_that_hangs(
    fast: SlowFS, cache_dir: Path
) -> None:
    write(fast.backing, "film", SIZE)
    hang = fast.fault("hang")
    cache = StreamCache(fast.path, cache_dir, "1GB")
    start = gevent.spawn(cache.start)
    never_held(lambda: gevent.sleep(0.5))
    assert not start.ready()
    fast.release(hang)
    start.get(timeout=5)
    assert_right(fetch(cache, "film"), "film", SIZE)
    cache.close()


def test_a_cache_closes_while_its_source_hangs(fast: SlowFS, cache_dir: Path) -> None:
    write(fast.backing, "film", SIZE)
    cache = StreamCache(fast.path, cache_dir, "1GB")
    hang = fast.fault("hang", "film", operations=("read",), start=SIZE // 2)

    def reads() -> None:
        with pytest.raises(Closed), opened(cache, "film") as delegate:
            read(delegate, 0, SIZE)

    reader = gevent.spawn(reads)
    eventually(lambda: fast.counters("film").hanging)

    def close() -> None:
        cache.close(timeout=0.2)

    with Heartbeat().beating() as heart:
        started = time.monotonic()
        close()
        assert time.monotonic() - started < 8
        reader.get(timeout=2)
    assert heart.longest < 1
    fast.release(hang)  # its threads and descriptors go; the leak check sees to that


def test_the_hub_is_not_held_while_much_is_copied(
    source: Path, cache_dir: Path, open_cache: OpenCache, serve: Callable[[StreamCache], Client]
) -> None:
    size = 48 * MiB
    data = content("film", 0, MiB)
    for number in range(3):
        with open(source / f"film{number}", "wb") as file:
            for _ in range(size // MiB):
                file.write(data)
        os.utime(source / f"film{number}", (1, 1))
    write(source, "small", SIZE)
    cache = open_cache(source)
    client = serve(cache)
    number = iter(range(3))

    def copy() -> None:
        name = f"/film{next(number)}"
        with cache.find(name) as found:
            delegate = found.open()
        for _ in range(20):
            assert client.ask("/small").status == 200
        eventually(lambda: cache.statistics().sessions == ())
        delegate.close()

    never_held(copy)


def test_other_greenlets_work_while_the_server_serves(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(source, "film", 8 * MiB)
    cache = open_cache(source)
    server = StreamCacheServer(("127.0.0.1", 0), cache, config=config(log={"access": "off"}))
    served = gevent.spawn(server.serve_forever)
    eventually(lambda: server.started)
    worked = []

    def work() -> None:
        while True:
            worked.append(sum(range(100)))
            gevent.sleep(0)

    worker = gevent.spawn(work)
    try:
        with Client(server.address) as client:
            for _ in range(3):
                answer = client.ask("/film")
                assert verify("film", 0, answer.body) is None
        assert len(worked) > 20
    finally:
        worker.kill()
    server.stop(timeout=5)
    served.join(5)
    assert served.ready()
    # The cache stays open.
    assert fetch(cache, "film", 5).status is CacheStatus.HIT
    assert cache.statistics().connections_accepted == 1


# Whose it is


def test_it_works_in_a_program_that_has_patched_everything(source: Path, cache_dir: Path) -> None:
    size = 3 * MiB + 5
    write(source, "film", size)
    command = [sys.executable, "-m", "tests.system.embedded", source, cache_dir, "film", str(size)]
    done = subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "streamcache; fwd=miss; stored" in done.stdout
    assert "streamcache; hit" in done.stdout


IMPORT = """
import logging, signal, sys, threading, asyncio, socket, warnings
before = {number: signal.getsignal(number) for number in signal.valid_signals()}
handlers, levels = logging.root.handlers[:], logging.root.level
sleep, sock, lock = __import__("time").sleep, socket.socket, threading.Lock
threads = threading.active_count()
import streamcache
for name in streamcache.__all__:
    getattr(streamcache, name)
from streamcache import StreamCache, StreamCacheServer
cache = StreamCache(source="/nowhere", cache_dir="/nowhere/either", cache_size="1GB")
server = StreamCacheServer(("127.0.0.1", 0), cache)
assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
assert (logging.root.handlers, logging.root.level) == (handlers, levels)
package = [logging.getLogger(name) for name in logging.root.manager.loggerDict
           if name.split(".")[0] == "streamcache"]
assert package and not any(each.handlers or each.level for each in package)
assert (__import__("time").sleep, socket.socket, threading.Lock) == (sleep, sock, lock)
assert threading.active_count() == threads
import os
assert len(os.listdir("/proc/self/task")) == 1
from gevent._hub_local import get_hub_if_exists
assert get_hub_if_exists() is None
print("nothing")
"""


def test_importing_and_making_one_has_no_effects() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "nothing\n"), done.stderr


def test_another_thread_is_refused(source: Path, cache_dir: Path, open_cache: OpenCache) -> None:
    write(source, "film", SIZE)
    cache = open_cache(source)

    def elsewhere() -> list[str]:
        refused = []
        for use in (cache.start, lambda: cache.open("/film"), lambda: cache.find("/film")):
            try:
                use()
            except RuntimeError as error:
                refused.append(str(error))
        hub = gevent.get_hub()
        assert isinstance(hub, Hub)
        return refused

    pool = ThreadPool(1)
    try:
        refused = pool.apply(elsewhere)
    finally:
        pool.kill()
    assert len(refused) == 3 and all("thread" in text for text in refused)
    assert_right(fetch(cache, "film"), "film", SIZE)


def test_a_fork_is_refused(source: Path, cache_dir: Path, open_cache: OpenCache) -> None:
    write(source, "film", SIZE)
    cache = open_cache(source)
    fetch(cache, "film")
    settle(cache, cache_dir)
    there, here = os.pipe()
    child = os.fork()
    if not child:
        code = b"no error"
        try:
            cache.open("/film")
        except RuntimeError:
            code = b"refused"
        except BaseException as error:
            code = repr(error).encode()
        finally:
            os.write(here, code)
            os._exit(0)
    os.close(here)
    with open(there, "rb") as answer:
        assert answer.read() == b"refused"
    os.waitpid(child, 0)
    assert fetch(cache, "film").status is CacheStatus.HIT


def test_a_forked_child_that_closes_takes_nothing_from_its_parent(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """It waited for threads that it does not have; and what it gave back was its parent's."""
    write(source, "film", SIZE)
    cache = open_cache(source)
    fetch(cache, "film")
    settle(cache, cache_dir)
    (name,) = objects_in(cache_dir)
    with opened(cache, "film") as delegate:
        child = os.fork()
        if not child:
            signal.alarm(5)
            try:
                cache.close()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert cache._parts.store.objects.remove_unread([name]) == []
        assert verify("film", 0, read(delegate, 0, SIZE)) is None
    assert fetch(cache, "film").status is CacheStatus.HIT


def test_a_second_cache_on_the_directory_is_welcome_if_it_has_the_same_size(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(source, "film", SIZE)
    cache = open_cache(source)
    with pytest.raises(CacheError, match=r"cache\.size.*allowed: 1 ?GiB"):
        StreamCache(source, cache_dir, "2GB").start()
    assert_right(fetch(cache, "film"), "film", SIZE)
    settle(cache, cache_dir)
    with StreamCache(source, cache_dir, 1 << 30) as second:
        answer = fetch(second, "film")
        assert answer.status is CacheStatus.HIT
        assert_right(answer, "film", SIZE)
        cache.close()
        with pytest.raises(Closed):
            cache.open("/film")
        assert_right(fetch(second, "film"), "film", SIZE)
    with StreamCache(source, cache_dir, "2GB") as alone:
        assert_right(fetch(alone, "film"), "film", SIZE)


def test_two_caches_in_one_program(source: Path, cache_dir: Path, open_cache: OpenCache) -> None:
    write(source, "film", SIZE)
    one = open_cache(source, at=cache_dir / "one")
    two = open_cache(source, at=cache_dir / "two")
    readers = [gevent.spawn(fetch, cache, "film") for cache in (one, two)]
    for reader in gevent.joinall(readers, raise_error=True):
        assert_right(reader.value, "film", SIZE)
    settle(one, cache_dir / "one")
    settle(two, cache_dir / "two")


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


@pytest.mark.parametrize(
    "options",
    [
        {"source": None},
        {"cache_dir": None},
        {"cache_size": "many"},
        {"cache_size": -1},
        {"source": "/no/such/folder"},
    ],
    ids=str,
)
def test_what_cannot_be_used_is_a_config_error(
    source: Path, cache_dir: Path, options: dict
) -> None:
    given = {"source": source, "cache_dir": cache_dir, "cache_size": "1GB"} | options
    with pytest.raises(ConfigError):
        StreamCache(**given).start()


# The file


def test_a_stream_file_is_a_file(source: Path, cache_dir: Path, open_cache: OpenCache) -> None:
    path = write(source, "a/film", SIZE)
    cache = open_cache(source)
    expected = content("a/film", 0, SIZE)
    for status in (CacheStatus.MISS, CacheStatus.HIT):
        with cache.open("/a/film") as file:
            assert isinstance(file, io.RawIOBase)
            assert file.readable() and file.seekable() and not file.writable()
            assert (file.size, file.status) == (SIZE, status)
            assert file.version.mtime_ns == path.stat().st_mtime_ns
            assert file.tell() == 0
            first = file.read(100)
            assert first == expected[: len(first)] and first
            assert file.seek(1000) == file.tell() == 1000
            buffer = bytearray(50)
            assert file.readinto(buffer) == 50
            assert buffer == expected[1000:1050]
            assert file.tell() == 1050
            assert file.seek(-7, os.SEEK_END) == SIZE - 7
            assert file.read(100) == expected[-7:]
            assert file.read(1) == b"" and file.read() == b""
            assert file.seek(10, os.SEEK_SET) == 10
            assert file.seek(5, os.SEEK_CUR) == 15
            assert file.readall() == expected[15:]
            assert file.seek(SIZE + 10) == SIZE + 10
            assert file.read(5) == b""
            for offset, whence in ((-1, os.SEEK_SET), (0, 9)):
                with pytest.raises(ValueError):
                    file.seek(offset, whence)
            with pytest.raises((io.UnsupportedOperation, NotImplementedError)):
                file.write(b"x")
            assert "film" in repr(file)
        assert file.closed
        file.close()
        for use in (file.read, file.tell, lambda: file.seek(0)):
            with pytest.raises(ValueError):
                use()
        settle(cache, cache_dir)


def test_a_buffered_reader_reads_one(source: Path, cache_dir: Path, open_cache: OpenCache) -> None:
    size = 3 * MiB + 11
    write(source, "film", size)
    cache = open_cache(source)
    for _ in range(2):
        with io.BufferedReader(cache.open("film"), 100_000) as file:
            assert verify("film", 0, file.read(250_000)) is None
            assert file.seek(2 * MiB) == 2 * MiB
            assert verify("film", 2 * MiB, file.peek(10)[:10]) is None
            assert verify("film", 2 * MiB, file.read(200)) is None
            file.seek(0)
            whole = file.read()
            assert len(whole) == size and verify("film", 0, whole) is None
        settle(cache, cache_dir)
    assert cache.statistics().bytes_from_source == size


def test_a_stream_file_keeps_its_version(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(source, "film", SIZE)
    cache = open_cache(source, source_options={"revalidate": 0.0})
    with cache.open("film") as old:
        head = old.read(10)
        write(source, "film", SIZE + 1, content_name="new", age=100)
        with cache.open("film") as new:
            assert new.size == SIZE + 1 and new.version != old.version
            assert verify("new", 0, new.readall()) is None
        with contextlib.suppress(SourceChanged):
            assert verify("film", 0, head + old.readall()) is None
        assert old.size == SIZE


@pytest.mark.parametrize("path", ["/missing", "/", "", "/a", "/a/../film", "/film/", "/a\0b"])
def test_what_is_no_file_is_file_not_found(
    source: Path, cache_dir: Path, open_cache: OpenCache, path: str
) -> None:
    write(source, "film", SIZE)
    (source / "a").mkdir()
    cache = open_cache(source)
    with pytest.raises(FileNotFoundError) as caught:
        cache.open(path)
    assert isinstance(caught.value, NotFound)
    assert caught.value.filename == "/" + path.removeprefix("/")  # as clients and logs have it


def test_a_link_that_leads_out_is_refused(
    source: Path, cache_dir: Path, open_cache: OpenCache, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    (source / "link").symlink_to(tmp_path / "secret")
    (source / "inside").symlink_to("film")
    write(source, "film", SIZE)
    cache = open_cache(source)
    with pytest.raises(SourceError):
        cache.open("/link")
    assert_right(fetch(cache, "inside"), "film", SIZE)


# Statistics


def test_statistics_after_known_traffic(
    fast: SlowFS, cache_dir: Path, open_cache: OpenCache
) -> None:
    write(fast.backing, "film", SIZE)
    write(fast.backing, "fresh", 1000, age=0)
    cache = open_cache(fast.path, source_options={"revalidate": 0.1})
    assert cache.statistics().requests == {}
    hang = fast.fault("hang", "film", operations=("read",), start=SIZE // 2)
    first = gevent.spawn(fetch, cache, "film")
    eventually(lambda: cache.statistics().sessions)
    second = gevent.spawn(fetch, cache, "film", 1000)
    eventually(lambda: cache.statistics().sessions[0].readers == 2)
    eventually(lambda: fast.counters("film").hanging)
    eventually(lambda: cache.statistics().sessions[0].state == "copying")
    (session,) = cache.statistics().sessions
    assert (session.path, session.size) == ("film", SIZE)
    assert 0 <= session.present < SIZE
    assert cache.statistics().reserved >= SIZE
    fast.release(hang)
    gevent.joinall([first, second], raise_error=True)
    settle(cache, cache_dir)
    fetch(cache, "film")
    fetch(cache, "film", 0, 100)
    fetch(cache, "fresh")
    fault = fast.fault("EIO")
    eventually(lambda: fetch(cache, "film", 0, 1).status is CacheStatus.STALE)
    fast.release(fault)
    with pytest.raises(NotFound):
        eventually(lambda: fetch(cache, "missing"))

    after = cache.statistics()
    hits = after.requests["hit"]
    assert after.requests == {"miss": 1, "collapsed": 1, "hit": hits, "bypass": 1, "stale": 1}
    assert after.bytes == {
        "miss": SIZE,
        "collapsed": SIZE - 1000,
        "hit": SIZE + 100 + hits - 2,
        "bypass": 1000,
        "stale": 1,
    }
    assert after.bytes_from_source == SIZE + 1000 == fast.counters().bytes_read
    assert after.bytes_from_cache >= SIZE + 100
    assert (after.copies_started, after.copies_finished) == (1, 1)
    assert (after.copies_cancelled, after.copies_failed, after.evictions) == (0, 0, 0)
    assert (after.objects, after.reserved, after.sessions) == (1, 0, ())
    assert after.limit == 1 << 30
    assert after.source_errors >= 1
    assert objects_in(cache_dir)
    with pytest.raises(AttributeError):
        after.objects = 5
    after.requests.clear()  # a copy of ours
    assert cache.statistics().requests
