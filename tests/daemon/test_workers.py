"""Several workers that serve: real processes, sockets and caches, each worker's cache its own.

``test_workers_end_to_end.py`` has them share one.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.admin.asking import Admin
from tests.content import content
from tests.daemon.conftest import SIZE
from tests.daemon_process import DaemonProcess, process_name

Start = Callable[..., DaemonProcess]
PATIENCE = 30.0  # s


@pytest.fixture
def start(daemon: Start, films: Path) -> Start:
    def run(*flags: str, **rest: object) -> DaemonProcess:
        return daemon(films, *flags, module="tests.daemon.apart", **{"workers": 2, **rest})

    return run


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def wait_for_log(daemon: DaemonProcess, text: str, times: int = 1) -> None:
    wait_until(lambda: daemon.log.count(text) >= times, f"never said {text!r}:\n{daemon.log}")


def wait_until_closed(daemon: DaemonProcess) -> None:
    """Until nobody new is let in."""
    with pytest.raises(ConnectionRefusedError):
        wait_until(lambda: socket.create_connection(daemon.address).close(), "still open")


def sockets(pid: int) -> int:
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return count - 4  # listener, line to the supervisor, the shared admin listener and its own


def spread(daemon: DaemonProcess) -> list[int]:
    """Connections of each worker."""
    return [sockets(pid) for pid in daemon.worker_pids.values()]


def get(daemon: DaemonProcess, path: str = "/small") -> bytes:
    client = http.client.HTTPConnection(*daemon.address, timeout=PATIENCE)
    with contextlib.closing(client):
        client.request("GET", path)
        return client.getresponse().read()


def downloads_on_each(daemon: DaemonProcess, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Responses that have begun and are not read, until each worker has one."""
    clients = []
    while 0 in spread(daemon):
        assert len(clients) < 64, spread(daemon)
        client = stack.enter_context(socket.create_connection(daemon.address, PATIENCE))
        client.sendall(b"GET /film.mp4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        clients.append(client)
    return clients


def rest_of(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(2**20), b"")).partition(b"\r\n\r\n")[2]


def test_every_worker_takes_connections(start: Start) -> None:
    daemon = start()
    assert list(daemon.worker_pids) == ["w1", "w2"]
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            client = stack.enter_context(socket.create_connection(daemon.address, PATIENCE))
            client.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        counts = spread(daemon)
    print("spread of 64 connections:", counts)
    assert sum(counts) == 64
    assert min(counts) > 0


class KeepAlive(threading.Thread):
    """A client that asks again and again over one connection, and comes back when it is cut."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.client = http.client.HTTPConnection(*address, timeout=PATIENCE)
        self.done = self.cut = 0
        self.refused: list[OSError] = []
        self.wrong = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            if self.client.sock is None:
                try:
                    self.client.connect()
                except OSError as error:
                    self.refused.append(error)
                    return
            try:
                self.client.request("GET", "/small")
                body = self.client.getresponse().read()
            except (OSError, http.client.HTTPException):
                self.cut += 1
                self.client.close()
                continue
            self.wrong += body != content("film", 0, 1024)
            self.done += 1
        self.client.close()


def test_a_worker_that_is_killed_under_load_costs_its_own_responses_only(start: Start) -> None:
    daemon = start()
    clients = [KeepAlive(daemon.address) for _ in range(16)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: all(client.done for client in clients), "not all were served")
        before = daemon.worker_pids
        os.kill(before["w1"], signal.SIGKILL)
        wait_for_log(daemon, "died worker=w1")
        done = sum(client.done for client in clients)
        wait_until(lambda: sum(client.done for client in clients) > done, "the other one stopped")
        wait_until(lambda: len(daemon.worker_pids) == 2, "no successor")
        assert get(daemon) == content("film", 0, 1024)
    finally:
        for client in clients:
            client.over.set()
        for client in clients:
            client.join(PATIENCE)
    assert [client.refused for client in clients if client.refused] == []
    assert sum(client.wrong for client in clients) == 0
    assert max(client.cut for client in clients) <= 1
    after = daemon.worker_pids
    assert after["w2"] == before["w2"]
    assert after["w1"] != before["w1"]
    assert f"died worker=w1 pid={before['w1']} signal=SIGKILL" in daemon.log
    assert "again_in=1" in daemon.log


def test_when_no_worker_is_left_connections_wait_for_the_next_one(start: Start) -> None:
    daemon = start()
    for pid in daemon.worker_pids.values():
        os.kill(pid, signal.SIGKILL)
    wait_for_log(daemon, "died worker=", 2)
    assert get(daemon) == content("film", 0, 1024)


def test_running_responses_of_all_workers_are_finished(start: Start) -> None:
    daemon = start()
    with contextlib.ExitStack() as stack:
        clients = downloads_on_each(daemon, stack)
        os.kill(daemon.pid, signal.SIGTERM)
        wait_for_log(daemon, "draining reason=the supervisor says so", 2)
        wait_until_closed(daemon)
        assert len(daemon.worker_pids) == 2
        for client in clients:
            assert rest_of(client) == content("film", 0, SIZE)
        assert daemon.wait() == 0


def test_the_second_signal_waits_for_no_response(start: Start) -> None:
    daemon = start()
    workers = daemon.worker_pids
    with contextlib.ExitStack() as stack:
        clients = downloads_on_each(daemon, stack)
        os.kill(daemon.pid, signal.SIGINT)
        wait_for_log(daemon, "ends at once signal=SIGINT")
        assert daemon.stop() == 128 + signal.SIGTERM
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                assert len(rest_of(client)) < SIZE
    wait_until(lambda: not any(map(process_name, workers.values())), "workers are left")


def test_workers_end_with_their_supervisor_even_in_a_response(start: Start) -> None:
    daemon = start()
    workers = daemon.worker_pids
    with contextlib.ExitStack() as stack:
        downloads_on_each(daemon, stack)
        daemon.kill()
        wait_until_closed(daemon)
        wait_until(lambda: not any(map(process_name, workers.values())), "orphans serve on")


def test_totals_are_over_all_workers_and_the_dead(start: Start) -> None:
    daemon = start()
    for _ in range(40):
        get(daemon)
    admin = Admin(daemon.admin)  # says what is on the board, which is written once a second
    wait_until(lambda: sum(admin.get("/api/status")["totals"]["requests"].values()) == 40, "counts")
    os.kill(daemon.worker_pids["w1"], signal.SIGKILL)
    wait_for_log(daemon, "died worker=w1")
    wait_for_log(daemon, "served requests=40 ")
    wait_until(lambda: len(daemon.worker_pids) == 2, "no successor")
    for _ in range(20):
        get(daemon)
    assert daemon.stop() == 0
    (last,) = [line for line in daemon.log.splitlines() if "served requests=60 " in line]
    assert f"bytes={60 * 1024} " in last


def test_they_serve_on_a_unix_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    daemon = start("--listen", f"unix:{path}")
    for _ in range(8):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))
            client.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert rest_of(client) == content("film", 0, 1024)
    assert daemon.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize("where", ["file", "pipe"])
def test_lines_of_the_access_log_are_whole(start: Start, tmp_path: Path, where: str) -> None:
    access = tmp_path / "access.log"
    if where == "pipe":
        os.mkfifo(access)
        reader = os.open(access, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)  # so that it is full, and writers meet
    daemon = start(environment={"STREAMCACHE_LOG_ACCESS": os.fspath(access)})
    pieces: list[bytes] = []
    if where == "pipe":
        os.set_blocking(reader, True)
        taken = threading.Thread(
            target=lambda: pieces.extend(iter(lambda: os.read(reader, 65536), b""))
        )
        taken.start()
    request = b"GET /small HTTP/1.1\r\nHost: x\r\nUser-Agent: " + b"u" * 900 + b"\r\n\r\n"
    answers = [0] * 8

    def ask(index: int) -> None:
        with socket.create_connection(daemon.address, PATIENCE) as client:
            client.sendall(
                request * 599 + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            )
            answers[index] = rest_count(client)

    clients = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert answers == [600] * 8
    assert daemon.stop() == 0
    if where == "pipe":
        taken.join(PATIENCE)
        os.close(reader)
    text = b"".join(pieces).decode() if where == "pipe" else access.read_text()
    line = re.compile(
        r'127\.0\.0\.1 - - \[[^]]+\] "GET /small HTTP/1\.1" 200 1024'
        r' "-" "u{900}" \w+ [\d.]+ "-" done \d+ \d+ [\d.]+'
    )
    lines = text.splitlines()
    assert [each for each in lines if not line.fullmatch(each)][:3] == []
    assert len(lines) == 8 * 600


def rest_count(client: socket.socket) -> int:
    return b"".join(iter(lambda: client.recv(2**20), b"")).count(b"HTTP/1.1 200 OK")
