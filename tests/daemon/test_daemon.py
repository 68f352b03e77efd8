"""The real daemon keeps its contract: ready, drained, in nobody's way."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.content import content
from tests.daemon.test_workers import wait_until_closed
from tests.daemon_process import REPOSITORY, DaemonProcess

Start = Callable[..., DaemonProcess]
SIZE = 32 * 2**20  # more than socket buffers hold


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "films"
    path.mkdir()
    (path / "film.mp4").write_bytes(content("film", 0, SIZE))
    return path


def refusal(source: Path, *flags: str) -> str:
    """The one line of a daemon that must not start."""
    done = subprocess.run(
        [sys.executable, "-m", "streamcache", "serve", os.fspath(source), *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("streamcache: error: ")]
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def begin(daemon: DaemonProcess) -> socket.socket:
    """A connection whose response has begun."""
    client = socket.create_connection(daemon.address, 30)
    client.sendall(b"GET /film.mp4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
    return client


def wait_for_log(daemon: DaemonProcess, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in daemon.log:
        assert time.monotonic() < deadline, f"never said {text!r}:\n{daemon.log}"
        time.sleep(0.01)


def test_it_says_ready_once_and_serves(daemon: Start, source: Path) -> None:
    running = daemon(source)
    words = shlex.split(running.ready_line)
    assert words[4:] == [
        f"source={source}",
        f"cache={running.cache_dir}",
        f"size={2 * 10**9}",
    ]
    with begin(running) as client:
        received = b"".join(iter(lambda: client.recv(2**20), b""))
    assert received.partition(b"\r\n\r\n")[2] == content("film", 0, SIZE)
    assert running.stop() == 0
    assert running.more_output() == ""


def test_without_a_size_it_takes_about_half_of_what_is_free(daemon: Start, source: Path) -> None:
    running = daemon(source, "--cache-size", "0")
    size = int(shlex.split(running.ready_line)[6].removeprefix("size="))
    free = os.statvfs(running.cache_dir)
    assert size == pytest.approx(free.f_bavail * free.f_frsize / 2, rel=0.2)


def test_a_running_response_is_finished_and_nobody_new_is_let_in(
    daemon: Start, source: Path
) -> None:
    running = daemon(source)
    with begin(running) as client, ThreadPoolExecutor(1) as beside:
        code = beside.submit(running.stop)
        wait_for_log(running, "draining")
        wait_until_closed(running)
        assert not code.done()
        received = b"".join(iter(lambda: client.recv(2**20), b""))
        assert code.result() == 0
    assert received.partition(b"\r\n\r\n")[2] == content("film", 0, SIZE)


def test_a_response_that_takes_too_long_is_cut(daemon: Start, source: Path) -> None:
    running = daemon(source, environment={"STREAMCACHE_SERVER_DRAIN_TIMEOUT": "200ms"})
    with begin(running):
        assert running.stop() == 0


def test_the_second_signal_does_not_wait_for_a_response(daemon: Start, source: Path) -> None:
    running = daemon(source)
    with begin(running):
        os.kill(running.pid, signal.SIGINT)
        wait_for_log(running, "draining")
        assert running.stop() == 128 + signal.SIGTERM


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_shares_a_cache_directory_must_have_the_same_size(
    daemon: Start, source: Path, workers: str
) -> None:
    running = daemon(source)
    flags = ["--listen", "127.0.0.1:0", "--cache-dir", str(running.cache_dir)]
    line = refusal(source, *flags, "--cache-size", "3GB", "--workers", workers)
    assert "--cache-dir: cache.dir: cache.size = " in line
    assert line.count("allowed: ") == 1


def test_a_port_has_one_owner(daemon: Start, source: Path, tmp_path: Path) -> None:
    host, port = daemon(source).address
    line = refusal(source, "--listen", f"{host}:{port}", "--cache-dir", str(tmp_path / "other"))
    assert f"cannot listen on {host}:{port}: address already in use" in line


def test_it_starts_again_on_the_cache_of_one_that_was_killed(
    daemon: Start, source: Path, cache_dir: Path
) -> None:
    first = daemon(source, cache_dir=cache_dir)
    first.kill()
    second = daemon(source, cache_dir=cache_dir)
    with begin(second) as client:
        received = b"".join(iter(lambda: client.recv(2**20), b""))
    assert received.partition(b"\r\n\r\n")[2] == content("film", 0, SIZE)
