"""The slow file system is as slow as it says, shows its backing directory, and fails on demand."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.content import content, verify, write
from tests.requirements import missing
from tests.slowfs import SlowFS, SlowFSError

MiB = 1024 * 1024


def read(fs: SlowFS, name: str, offset: int = 0, size: int = 1 << 30) -> bytes:
    """Bytes of a file, past the page cache's read-ahead."""
    fd = os.open(fs.path / name, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        size = min(size, max(0, os.fstat(fd).st_size - offset))
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


# What it shows


def test_the_tree_is_shown_as_it_is(fast: SlowFS) -> None:
    write(fast.backing, "a/b/film.mp4", 3 * MiB + 5)
    write(fast.backing, "empty", 0)
    (fast.backing / "link").symlink_to("a/b/film.mp4")
    names = sorted(str(p.relative_to(fast.path)) for p in fast.path.rglob("*"))
    assert names == ["a", "a/b", "a/b/film.mp4", "empty", "link"]
    assert verify("a/b/film.mp4", 0, (fast.path / "link").read_bytes()) is None
    assert (fast.path / "empty").read_bytes() == b""
    shown, real = os.stat(fast.path / "a/b/film.mp4"), os.stat(fast.backing / "a/b/film.mp4")
    for name in ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_mode", "st_nlink"):
        assert getattr(shown, name) == getattr(real, name)


def test_a_directory_of_many_names_is_whole(fast: SlowFS) -> None:
    for number in range(1000):
        (fast.backing / f"{'long name ' * 8}{number:04}").touch()
    assert len(os.listdir(fast.path)) == 1000


def test_it_cannot_be_written_to(fast: SlowFS) -> None:
    write(fast.backing, "film", 10)
    for action in (
        lambda: os.open(fast.path / "film", os.O_RDWR),
        lambda: os.unlink(fast.path / "film"),
        lambda: os.open(fast.path / "new", os.O_CREAT | os.O_WRONLY),
    ):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.EROFS


def test_changes_show_at_once(fast: SlowFS) -> None:
    path = write(fast.backing, "film", 100_000)
    assert os.stat(fast.path / "film").st_size == 100_000
    with open(path, "ab") as file:
        file.write(content("film", 100_000, 150_000))
    assert os.stat(fast.path / "film").st_size == 150_000
    assert verify("film", 0, read(fast, "film")) is None
    path.unlink()
    with pytest.raises(FileNotFoundError):
        os.stat(fast.path / "film")


def test_a_replaced_file_stays_readable_through_open_handles(fast: SlowFS) -> None:
    write(fast.backing, "film", MiB)
    with open(fast.path / "film", "rb", buffering=0) as old:
        assert verify("film", 0, old.read(1000)) is None
        for version in range(5):  # inode numbers come back, the versions must not
            write(fast.backing, "film", MiB, content_name=f"version {version}")
            assert verify(f"version {version}", 0, read(fast, "film")) is None
        assert verify("film", 1000, old.read()) is None


def test_the_mount_goes_away_with_the_block() -> None:
    with SlowFS() as fs:
        assert os.path.ismount(fs.path)
        serving = fs.pid
    assert not os.path.exists(fs.path)
    with pytest.raises(ProcessLookupError):
        os.kill(serving, 0)
    with pytest.raises(SlowFSError):
        fs.counters()


def test_the_mount_goes_away_with_a_killed_parent() -> None:
    program = (
        "import os, signal\n"
        "from tests.slowfs import SlowFS\n"
        "fs = SlowFS()\n"
        "print(fs.path, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    path = Path(done.stdout.strip())
    deadline = time.monotonic() + 10
    while os.path.ismount(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.ismount(path)
    while path.parent.exists():  # its server is tidying up too
        shutil.rmtree(path.parent, ignore_errors=True)


# How slow it is: lower bounds are exact, upper bounds leave room for a busy machine


def test_each_operation_takes_its_latency(slowfs: SlowFS) -> None:
    write(slowfs.backing, "film", MiB)
    began = time.monotonic()
    fd = os.open(slowfs.path / "film", os.O_RDONLY)  # lookup, open
    opened = time.monotonic()
    os.fstat(fd)
    asked = time.monotonic()
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, 64 * 1024, 0)
    done = time.monotonic()
    os.close(fd)
    assert 0.010 <= opened - began < 0.010 + 0.1
    assert 0.005 <= asked - opened < 0.005 + 0.1
    ideal = 0.020 + 64 / 1024 / 20
    assert ideal <= done - asked < ideal + 0.1


def test_latency_is_parallel_and_bandwidth_is_shared(slowfs: SlowFS) -> None:
    write(slowfs.backing, "film", 16 * MiB)
    piece = 256 * 1024
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        fd = os.open(slowfs.path / "film", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        began = time.monotonic()
        pieces = list(pool.map(lambda n: os.pread(fd, piece, n * piece), range(64)))
        took = time.monotonic() - began
        os.close(fd)
    assert verify("film", 0, b"".join(pieces)) is None
    ideal = 0.020 + 16 / 20
    assert ideal <= took < 1.2 * ideal
    assert slowfs.repeated("film") == 0


def test_speeds_can_be_changed_while_in_use(slowfs: SlowFS) -> None:
    write(slowfs.backing, "film", 4 * MiB)
    slowfs.set(latency=0.2, bandwidth=0)
    began = time.monotonic()
    read(slowfs, "film", 0, 4096)
    slowfs.set(latency=0.0)
    middle = time.monotonic()
    read(slowfs, "film", MiB, 4096)
    assert middle - began >= 0.2
    assert time.monotonic() - middle < 0.2
    with pytest.raises(SlowFSError, match="no such setting"):
        slowfs.set(lateness=1)


def test_the_kernel_reads_ahead_as_with_nfs(slowfs: SlowFS) -> None:
    if os.geteuid() != 0:
        missing("the read-ahead of a mount can be set by root only")
    assert slowfs.read_ahead == MiB
    write(slowfs.backing, "film", 8 * MiB)
    (slowfs.path / "film").read_bytes()
    assert max(r.length for r in slowfs.reads("film")) == MiB
    assert slowfs.repeated("film") == 0


# Caches of the kernel


def test_attributes_and_names_are_not_cached_unless_asked_for(fast: SlowFS) -> None:
    write(fast.backing, "film", 10)
    for _ in range(3):
        os.stat(fast.path / "film")
    counters = fast.counters("film")
    assert counters.lookups == 3
    fast.set(attr_timeout=60, entry_timeout=60)
    os.stat(fast.path / "film")
    fast.reset()
    for _ in range(3):
        os.stat(fast.path / "film")
    assert (fast.counters().lookups, fast.counters().getattrs) == (0, 0)


def test_pages_are_kept_from_open_to_open_of_an_unchanged_file(fast: SlowFS) -> None:
    write(fast.backing, "film", MiB)
    for _ in range(3):
        read(fast, "film")
    assert fast.counters().bytes_read == MiB
    fast.drop_cache()
    for _ in range(3):
        read(fast, "film")
    assert fast.counters().bytes_read == 2 * MiB
    assert fast.repeated("film") == MiB
    fast.set(keep_cache=False)
    for _ in range(3):
        read(fast, "film")
    assert fast.counters().bytes_read == 5 * MiB


def test_a_byte_that_is_read_twice_counts_twice_where_the_kernel_keeps_none(fast: SlowFS) -> None:
    write(fast.backing, "film", MiB)
    fast.set(direct=True)
    with open(fast.path / "film", "rb", buffering=0) as film:
        for _ in range(3):
            assert len(os.pread(film.fileno(), 5000, 1000)) == 5000
    assert fast.counters("film").bytes_read == 15000


# Counters


def test_operations_are_counted_by_path(fast: SlowFS) -> None:
    write(fast.backing, "a/one", 5000)
    write(fast.backing, "two", 100)
    read(fast, "a/one")
    read(fast, "two")
    one = fast.counters("a/one")
    assert (one.lookups, one.opens, one.getattrs, one.reads) == (1, 1, 1, 1)
    assert one.bytes_read == 5000
    assert fast.counters().bytes_read == 5100
    assert [(r.offset, r.length) for r in fast.reads("a/one")] == [(0, 5000)]
    assert fast.paths_read() == ["a/one", "two"]
    fast.reset()
    assert fast.counters("a/one").opens == 0
    assert fast.reads("a/one") == []


def test_open_files_are_counted_until_they_are_closed(fast: SlowFS) -> None:
    write(fast.backing, "film", 10)
    with open(fast.path / "film", "rb"):
        assert fast.counters("film").open_files == 1
    deadline = time.monotonic() + 5  # the kernel tells of the close, and waits for nobody
    while fast.counters("film").open_files and time.monotonic() < deadline:
        time.sleep(0.001)
    assert fast.counters("film").open_files == 0


# Faults


@pytest.mark.parametrize("name", ["EIO", "EACCES", "ESTALE"])
def test_an_error_lasts_until_it_is_released(fast: SlowFS, name: str) -> None:
    write(fast.backing, "film", MiB)
    fast.fault(name, operations=("read",))
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            read(fast, "film")
        assert caught.value.errno == getattr(errno, name)
    assert fast.counters("film").errors >= 3
    fast.release()
    assert verify("film", 0, read(fast, "film")) is None


def test_an_error_can_wear_off(fast: SlowFS) -> None:
    write(fast.backing, "film", 10)
    fast.fault("EIO", "film", operations=("open",), skip=1, times=2)
    outcomes = []
    for _ in range(5):
        try:
            read(fast, "film")
        except OSError as error:
            outcomes.append(error.errno)
        else:
            outcomes.append(0)
    assert outcomes == [0, errno.EIO, errno.EIO, 0, 0]


def test_an_error_can_be_of_one_path_and_of_some_bytes(fast: SlowFS) -> None:
    write(fast.backing, "a/film", 4 * MiB)
    write(fast.backing, "b/film", 4 * MiB)
    fast.fault("EIO", "a/*", operations=("read",), start=2 * MiB, stop=3 * MiB)
    assert verify("b/film", 0, read(fast, "b/film")) is None
    assert verify("a/film", 0, read(fast, "a/film", 0, MiB)) is None
    with pytest.raises(OSError):
        read(fast, "a/film", 2 * MiB + 5, 10)
    assert verify("a/film", 3 * MiB, read(fast, "a/film", 3 * MiB)) is None


def test_an_error_of_existing_handles_spares_new_ones(fast: SlowFS) -> None:
    write(fast.backing, "film", MiB)
    fd = os.open(fast.path / "film", os.O_RDONLY)
    fast.fault("ESTALE", existing=True)
    with pytest.raises(OSError) as caught:
        os.pread(fd, 4096, 0)
    os.close(fd)
    assert caught.value.errno == errno.ESTALE
    assert verify("film", 0, read(fast, "film")) is None


def test_unknown_faults_are_refused(fast: SlowFS) -> None:
    with pytest.raises(SlowFSError, match="no such fault"):
        fast.fault("ENOTHING")
    with pytest.raises(SlowFSError, match="no such operation"):
        fast.fault("EIO", operations=("wrote",))


def test_a_hang_lasts_until_it_is_released_and_holds_up_nobody_else(fast: SlowFS) -> None:
    write(fast.backing, "film", MiB)
    write(fast.backing, "other", MiB)
    number = fast.fault("hang", "film", operations=("read",))
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        waiting = [pool.submit(read, fast, "film", n * 4096, 4096) for n in range(40)]
        while fast.counters().hanging < 40:
            time.sleep(0.001)
        assert verify("other", 0, read(fast, "other")) is None
        assert not any(future.done() for future in waiting)
        fast.release(number)
        for n, future in enumerate(waiting):
            assert verify("film", n * 4096, future.result(10)) is None
    assert fast.counters().hanging == 0


@pytest.mark.parametrize("operation", ["lookup", "getattr", "open"])
def test_metadata_can_hang_too(fast: SlowFS, operation: str) -> None:
    write(fast.backing, "film", 10)
    fast.fault("hang", "film", operations=(operation,))
    thread = threading.Thread(target=read, args=(fast, "film"))
    thread.start()
    while not fast.counters("film").hanging:
        time.sleep(0.001)
    fast.release()
    thread.join(10)
    assert not thread.is_alive()


def test_a_process_that_hangs_can_be_killed(fast: SlowFS) -> None:
    write(fast.backing, "film", MiB)
    fast.fault("hang", operations=("read", "getattr"))
    for program in ("os.fstat(fd)", "os.pread(fd, 10, 0)"):
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import os\nfd = os.open({str(fast.path / 'film')!r}, os.O_RDONLY)\n{program}",
            ]
        )
        while not fast.counters().hanging:
            time.sleep(0.001)
        child.kill()
        assert child.wait(5) == -signal.SIGKILL
        fast.release()
        fast.fault("hang", operations=("read", "getattr"))


def test_unmounting_ends_what_hangs() -> None:
    with SlowFS(meta_latency=0) as fs, concurrent.futures.ThreadPoolExecutor(1) as pool:
        write(fs.backing, "film", 10)
        fs.fault("hang", operations=("read",))
        waiting = pool.submit(read, fs, "film")
        while not fs.counters().hanging:
            time.sleep(0.001)
        fs.unmount()
        with pytest.raises(OSError):
            waiting.result(10)


def test_a_truncated_file_ends_early(fast: SlowFS) -> None:
    write(fast.backing, "film", MiB)
    fd = os.open(fast.path / "film", os.O_RDONLY)
    fast.fault("truncate", "film", size=300_000)
    try:
        assert verify("film", 200_000, os.pread(fd, 200_000, 200_000)) is None
        assert len(os.pread(fd, 200_000, 200_000)) == 100_000
        assert os.fstat(fd).st_size == 300_000
    finally:
        os.close(fd)
    fast.release()
    assert verify("film", 0, read(fast, "film")) is None
    assert os.stat(fast.path / "film").st_size == MiB


def test_reads_can_end_early_while_the_attributes_know_nothing(fast: SlowFS) -> None:
    write(fast.backing, "film", MiB)
    fast.fault("truncate", operations=("read",), size=300_000)
    assert len(read(fast, "film")) == 300_000


def test_delays_come_on_top(fast: SlowFS) -> None:
    write(fast.backing, "film", MiB)
    fast.fault("delay", "film", operations=("read",), seconds=0.1)
    began = time.monotonic()
    read(fast, "film", 0, 4096)
    assert time.monotonic() - began >= 0.1


# Written to, as the disk of a cache is


def test_what_is_written_through_it_is_there(tmp_path: Path) -> None:
    with SlowFS(writable=True, latency=0, meta_latency=0, bandwidth=0) as fs:
        (fs.path / "a").mkdir()
        with open(fs.path / "a" / "new", "wb") as file:
            file.write(content("film", 0, 3 * MiB))
            file.flush()
            os.fsync(file.fileno())
            os.utime(file.fileno(), ns=(5 * 10**9, 7 * 10**9 + 1))
        os.rename(fs.path / "a" / "new", fs.path / "film")
        os.symlink("film", fs.path / "link")
        for tree in (fs.backing, fs.path):
            assert verify("film", 0, (tree / "link").read_bytes()) is None
            assert os.stat(tree / "film").st_mtime_ns == 7 * 10**9 + 1
            assert os.stat(tree / "film").st_size == 3 * MiB
            assert os.listdir(tree / "a") == []
        os.truncate(fs.path / "film", 10)
        os.unlink(fs.path / "link")
        os.rmdir(fs.path / "a")
        assert {p.name: p.stat().st_size for p in fs.backing.iterdir()} == {"film": 10}
        assert fs.counters().writes >= 3


@pytest.mark.parametrize("operation", ["create", "write", "fsync", "rename", "unlink", "mkdir"])
def test_what_changes_files_fails_on_demand(operation: str) -> None:
    with SlowFS(writable=True, latency=0, meta_latency=0, bandwidth=0) as fs:

        def change() -> None:
            with open(fs.path / "new", "wb", buffering=0) as file:
                file.write(b"bytes")
                os.fsync(file.fileno())
            os.rename(fs.path / "new", fs.path / "renamed")
            os.unlink(fs.path / "renamed")
            os.mkdir(fs.path / "folder")

        fs.fault("EIO", operations=(operation,), times=1)
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EIO
        change()
