"""The pid file: whose it is, and what becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamcache.daemon.pidfile import PidFile, PidFileError
from tests.daemon.running import Running, failed

Start = Callable[..., Running]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "streamcache.pid"


def test_it_has_our_id_and_is_removed(path: Path) -> None:
    file = PidFile.take(os.fspath(path))
    assert path.read_text() == f"{os.getpid()}\n"
    file.remove()
    file.remove()
    assert not path.exists()


def test_that_of_a_dead_process_is_taken_over(path: Path) -> None:
    path.write_text("1\n")  # a number that some other process has now
    file = PidFile.take(os.fspath(path))
    assert path.read_text() == f"{os.getpid()}\n"
    file.remove()


def test_that_of_a_live_one_is_refused_until_it_is_dead(path: Path) -> None:
    code = (
        "import os, sys; from streamcache.daemon.pidfile import PidFile;"
        "PidFile.take(sys.argv[1]); print(os.getpid(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as other:
        assert other.stdout is not None
        pid = other.stdout.readline().strip()
        with pytest.raises(PidFileError, match=f"process {pid}"):
            PidFile.take(os.fspath(path))
        assert path.read_text() == f"{pid}\n"
        other.kill()
        other.wait()
        PidFile.take(os.fspath(path)).remove()


@pytest.mark.parametrize("text", ["root:x:0:0", "12 13", "9" * 40])
def test_what_is_no_pid_file_is_left_alone(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(PidFileError, match="is no pid file"):
        PidFile.take(os.fspath(path))
    assert path.read_text() == text


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "other")
    with pytest.raises(PidFileError, match="cannot be written"):
        PidFile.take(os.fspath(path))
    assert not (tmp_path / "other").exists()


def test_a_file_that_is_another_by_now_is_not_removed(path: Path) -> None:
    file = PidFile.take(os.fspath(path))
    path.unlink()
    path.write_text("4711\n")
    file.remove()
    assert path.read_text() == "4711\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_daemon_with_the_same_one_does_not_start(
    start: Start, path: Path, workers: int
) -> None:
    daemon = start("--pid-file", str(path), workers=workers)
    daemon.ready_line()
    assert path.read_text() == f"{daemon.process.pid}\n"
    line = failed(start("--pid-file", str(path), workers=workers))
    assert "--pid-file: server.pid_file: " in line
    assert f"belongs to a server that runs, process {daemon.process.pid}" in line
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0
    assert not path.exists()


def test_the_umask_is_that_of_the_settings(start: Start, path: Path) -> None:
    daemon = start("--pid-file", str(path), STREAMCACHE_SERVER_UMASK="0137")
    daemon.ready_line()
    assert path.stat().st_mode & 0o777 == 0o640
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0
    line = failed(start(STREAMCACHE_SERVER_UMASK="0888"))
    assert "server.umask: '0888' is not allowed; allowed: octal digits from 0 to 0777" in line


def test_a_start_that_fails_leaves_none(start: Start, path: Path) -> None:
    failed(start("--pid-file", str(path), fake="broken-cache"))
    assert not path.exists()
