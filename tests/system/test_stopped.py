"""SIGSTOP and SIGCONT: of a worker, of the supervisor, of the whole daemon in all that it does.

What stops holds what it holds (its connections, its claims), and nobody else waits for it. What a
single one of several daemons holds is in ``test_processes.py``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.content import content
from tests.daemon.test_workers import downloads_on_each, get, rest_of, wait_for_log, wait_until
from tests.daemon_process import DaemonProcess
from tests.slowfs import SlowFS
from tests.system.site import MiB
from tests.system.test_processes import Client, film

SIZE = 32 * MiB  # more than socket buffers hold
SMALL = 256 * 1024


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Meanwhile they do nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def is_zombie_or_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def running(slowfs: SlowFS, cache_dir: Path, daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    """Two workers; the film is cached, and small files are not."""
    slowfs.set(latency=0.002, meta_latency=0.001, bandwidth=0)
    film(slowfs, "film.mp4", SIZE)
    for number in range(12):
        film(slowfs, f"small{number}", SMALL)
    found = daemon(slowfs.path, workers=2, cache_dir=cache_dir)
    assert get(found, "/film.mp4") == content("film.mp4", 0, SIZE)
    wait_for_log(found, "copy complete")
    return found


def test_a_stopped_worker_costs_its_own_responses_until_it_goes_on(running: DaemonProcess) -> None:
    with contextlib.ExitStack() as stack:
        clients = downloads_on_each(running, stack)
        with stopped(running.worker_pids["w1"]):
            for number in range(12):  # all of them go to the other one, hit and miss
                assert get(running, f"/small{number}") == content(f"small{number}", 0, SMALL)
                assert len(get(running, "/film.mp4")) == SIZE
        for client in clients:
            assert rest_of(client) == content("film.mp4", 0, SIZE)


def test_a_stopped_supervisor_is_missed_only_when_a_worker_dies(running: DaemonProcess) -> None:
    before = running.worker_pids
    with stopped(running.pid):
        os.kill(before["w1"], signal.SIGKILL)
        wait_until(lambda: is_zombie_or_gone(before["w1"]), "it lives")
        for number in range(12):
            assert get(running, f"/small{number}") == content(f"small{number}", 0, SMALL)
        assert running.worker_pids["w2"] == before["w2"]
    wait_until(lambda: running.worker_pids.get("w1", before["w1"]) != before["w1"], "no successor")


def test_a_supervisor_that_was_asked_to_end_while_it_was_stopped_drains(
    running: DaemonProcess,
) -> None:
    with contextlib.ExitStack() as stack:
        clients = downloads_on_each(running, stack)
        with stopped(running.pid):
            os.kill(running.pid, signal.SIGTERM)
            assert get(running, "/small0") == content("small0", 0, SMALL)  # nobody knows yet
        wait_for_log(running, "draining reason=the supervisor says so", 2)
        for client in clients:
            assert rest_of(client) == content("film.mp4", 0, SIZE)
        assert running.wait() == 0


def test_a_daemon_that_stops_as_a_whole_goes_on_in_all_that_it_did(
    slowfs: SlowFS, running: DaemonProcess
) -> None:
    """Shorter than its deadlines: a copy under way, downloads of it, and of what is cached."""
    film(slowfs, "cold", 8 * MiB)
    slowfs.set(bandwidth=8 * MiB)
    with contextlib.ExitStack() as stack:
        clients = downloads_on_each(running, stack)
        players = [Client(running, "cold", size=8 * MiB) for _ in range(4)]
        wait_until(lambda: all(player.received > MiB for player in players), "nothing comes")
        with stopped(running.pid, *running.worker_pids.values()):
            time.sleep(1.0)
            late = Client(running, "cold", 6 * MiB, size=8 * MiB)  # waits in the backlog
        assert [player.finish() for player in (*players, late)] == [None] * 5
        for client in clients:
            assert rest_of(client) == content("film.mp4", 0, SIZE)


def test_what_the_source_gave_while_it_was_stopped_is_taken_although_the_time_is_over(
    slowfs: SlowFS, cache_dir: Path, daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """Longer than ``source.timeout``, which is the source's time and not ours."""
    slowfs.set(latency=0.002, meta_latency=0.001, bandwidth=8 * MiB)
    film(slowfs, "cold", 8 * MiB)
    settings = tmp_path / "settings.toml"
    settings.write_text('[source]\ntimeout = "1s"\n')
    running = daemon(slowfs.path, "--config", str(settings), workers=2, cache_dir=cache_dir)
    players = [Client(running, "cold", size=8 * MiB) for _ in range(4)]
    wait_until(lambda: all(player.received > MiB for player in players), "nothing comes")
    with stopped(running.pid, *running.worker_pids.values()):
        time.sleep(2.0)
    assert [player.finish() for player in players] == [None] * 4
