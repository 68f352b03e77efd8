"""Several workers on one cache directory: the daemon as it is, with all of its real parts."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.content import content
from tests.daemon.conftest import SIZE
from tests.daemon.test_workers import (
    downloads_on_each,
    get,
    rest_of,
    wait_for_log,
    wait_until,
)
from tests.daemon_process import DaemonProcess

Start = Callable[..., DaemonProcess]


def last_totals(daemon: DaemonProcess) -> dict[str, int]:
    """What the last line of totals says."""
    line = [each for each in daemon.log.splitlines() if " served requests=" in each][-1]
    words = dict(word.split("=") for word in line.partition(" served ")[2].split())
    return {name: int(number) for name, number in words.items()}


def test_a_crowd_on_a_cold_file_reads_it_once(daemon: Start, films: Path) -> None:
    running = daemon(films, workers=2)
    words = shlex.split(running.ready_line)
    assert words[5:] == [f"cache={running.cache_dir}", f"size={2 * 10**9}"]
    with ThreadPoolExecutor(24) as crowd:
        bodies = list(crowd.map(lambda _: get(running, "/film.mp4"), range(24)))
    assert all(body == content("film", 0, SIZE) for body in bodies)
    assert running.stop() == 0
    totals = last_totals(running)
    assert (totals["requests"], totals["bytes"]) == (24, 24 * SIZE)
    assert totals["from_source"] == SIZE


def test_what_one_worker_cached_is_a_hit_of_the_other(daemon: Start, films: Path) -> None:
    running = daemon(films, workers=2)
    assert get(running, "/film.mp4") == content("film", 0, SIZE)
    wait_for_log(running, "copy complete")
    with contextlib.ExitStack() as stack:
        clients = downloads_on_each(running, stack)
        os.kill(running.pid, signal.SIGTERM)
        wait_for_log(running, "draining reason=the supervisor says so", 2)
        for client in clients:
            assert rest_of(client) == content("film", 0, SIZE)
        assert running.wait() == 0
    totals = last_totals(running)
    assert totals["hits"] == len(clients)
    assert totals["from_source"] == SIZE


def test_a_worker_that_is_killed_leaves_the_cache_to_the_others(daemon: Start, films: Path) -> None:
    running = daemon(films, workers=2)
    before = running.worker_pids
    with contextlib.ExitStack() as stack:
        downloads_on_each(running, stack)
        os.kill(before["w1"], signal.SIGKILL)
        assert get(running, "/film.mp4") == content("film", 0, SIZE)
        wait_until(lambda: len(running.worker_pids) == 2, "no successor")
        for _ in range(8):
            assert get(running, "/film.mp4") == content("film", 0, SIZE)
    after = running.worker_pids
    assert after["w2"] == before["w2"] and after["w1"] != before["w1"]


def test_a_restart_finds_what_the_workers_left(daemon: Start, films: Path, cache_dir: Path) -> None:
    first = daemon(films, workers=2, cache_dir=cache_dir)
    assert get(first, "/film.mp4") == content("film", 0, SIZE)
    wait_for_log(first, "copy complete")
    assert first.stop() == 0
    second = daemon(films, workers=2, cache_dir=cache_dir)
    assert get(second, "/film.mp4") == content("film", 0, SIZE)
    assert second.stop() == 0
    assert last_totals(second)["from_source"] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_holds_in_every_worker_and_cuts_no_download(
    daemon: Start, films: Path, tmp_path: Path, workers: int
) -> None:
    file = tmp_path / "streamcache.toml"
    file.write_text("")
    running = daemon(films, "--config", str(file), workers=workers)
    assert get(running) == content("film", 0, 1024)
    with contextlib.ExitStack() as stack:
        if workers > 1:
            clients = downloads_on_each(running, stack)
        else:
            clients = [stack.enter_context(socket.create_connection(running.address, 30))]
            clients[0].sendall(b"GET /film.mp4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert clients[0].recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        file.write_text("[access]\nnetworks = 'deny 127.0.0.1'\n")
        os.kill(running.pid, signal.SIGHUP)
        wait_for_log(running, "reloaded changed=access.networks")
        for _ in range(16):  # whichever worker takes them
            assert get(running) == b"403 Forbidden\n"
        for client in clients:
            assert rest_of(client) == content("film", 0, SIZE)
    file.write_text("")
    os.kill(running.pid, signal.SIGHUP)
    wait_for_log(running, "reloaded changed=access.networks", 2)
    assert get(running) == content("film", 0, 1024)
