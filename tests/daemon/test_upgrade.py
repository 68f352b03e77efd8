"""SIGUSR2: a new process takes over the sockets, and no client notices."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.content import content, write
from tests.daemon import held as held_module
from tests.daemon.manager import Manager
from tests.daemon.running import PATIENCE, Running
from tests.requirements import program

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = 32 * 2**20  # more than socket buffers hold

each = pytest.mark.parametrize("workers", [1, 2])
Upgradable = Callable[..., "Daemon"]


class Daemon(Running):
    """A daemon whose main process may be another one later: the pid file says which."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        super().__init__(process)
        self.directory = directory
        words = self.ready_line().split()
        assert words, self.end()
        where = urlsplit(words[3])
        self.address = (where.hostname or "", where.port or 0)  # a Unix socket has neither

    @property
    def pid(self) -> int:
        text = (self.directory / "pid").read_text()
        return int(text) if text else 0

    def upgrade(self) -> int:
        """Ask for one, and wait until the new process has the pid file; its id."""
        before = self.pid
        os.kill(before, signal.SIGUSR2)
        self.wait_for_next("upgrade: took over from pid=")
        deadline = time.monotonic() + PATIENCE
        while self.pid in (0, before):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.pid

    def get(self, path: str = "/small") -> bytes:
        client = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        with contextlib.closing(client):
            client.request("GET", path)
            return client.getresponse().read()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, size in (("film.mp4", SIZE), ("small", 1024)):
        write(tmp_path / "films", name, size)
    return tmp_path / "films"


@pytest.fixture
def start(tmp_path: Path, source: Path) -> Iterator[Upgradable]:
    started: list[Daemon] = []

    def run(
        *flags: str, workers: int = 1, module: str = "streamcache", **environment: str
    ) -> Daemon:
        command = [sys.executable, "-m", module, "serve", str(source), "--workers", str(workers)]
        if "--listen" not in flags:
            command += ["--listen", "127.0.0.1:0"]
        command += ["--cache-dir", str(tmp_path / "cache"), "--cache-size", "1GB"]
        command += ["--pid-file", str(tmp_path / "pid"), *flags]
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(Daemon(process, tmp_path))
        return started[-1]

    yield run
    for daemon in started:
        with contextlib.suppress(OSError, ValueError):
            os.kill(daemon.pid, signal.SIGTERM)
        # Both pipes end when the last of its processes is gone.
        daemon.process.communicate(timeout=PATIENCE)


@each
def test_not_one_request_of_wrk_fails_while_the_daemon_is_upgraded_twice(
    start: Upgradable, workers: int
) -> None:
    wrk = program("wrk")
    daemon = start("--log-level", "info", workers=workers, STREAMCACHE_LOG_ACCESS="off")
    daemon.get()
    first = daemon.pid
    url = "http://{}:{}/small".format(*daemon.address)
    # Bounded: this is about errors, and others use the machine.
    command = [wrk, "-t1", "-c16", "-d60s", "--timeout", "30s", url]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    second = daemon.upgrade()
    time.sleep(0.5)
    third = daemon.upgrade()
    time.sleep(0.5)
    load.send_signal(signal.SIGINT)  # wrk ends, and says what it has seen
    said = load.communicate(timeout=PATIENCE)[0]
    assert len({first, second, third}) == 3
    old = "old-supervisor" if workers > 1 else "old"
    for before, after in (first, second), (second, third):
        daemon.wait_for(f"upgrade: took over from pid={before}")
        daemon.wait_for(
            f" {old} streamcache.daemon.mainprocess stopped, handed over to pid={after}"
        )
    assert "Socket errors" not in said
    assert "Non-2xx" not in said
    found = re.search(r"(\d+) requests in", said)
    assert found is not None
    assert int(found[1]) > 100


@each
def test_running_responses_are_finished_by_the_old_process(start: Upgradable, workers: int) -> None:
    daemon = start(workers=workers)
    with socket.create_connection(daemon.address, PATIENCE) as client:
        client.sendall(b"GET /film.mp4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        daemon.upgrade()
        assert daemon.process.poll() is None
        assert daemon.get() == content("small", 0, 1024)
        rest = b"".join(iter(lambda: client.recv(2**20), b""))
    assert rest.partition(b"\r\n\r\n")[2] == content("film.mp4", 0, SIZE)
    assert daemon.process.wait(PATIENCE) == 0


@each
def test_a_new_process_that_cannot_start_changes_nothing(
    start: Upgradable, tmp_path: Path, workers: int
) -> None:
    file = tmp_path / "streamcache.toml"
    file.write_text("")
    daemon = start("--config", str(file), workers=workers)
    pid = daemon.pid
    file.write_text("[nonsense]\n")
    os.kill(pid, signal.SIGUSR2)
    daemon.wait_for("unknown section [nonsense]")
    daemon.wait_for("upgrade failed, serving on pid=")
    assert daemon.pid == pid
    assert daemon.get() == content("small", 0, 1024)
    file.write_text("")
    assert daemon.upgrade() != pid  # the next one can


def test_one_that_fails_late_leaves_the_files_of_the_old_one(
    start: Upgradable, tmp_path: Path
) -> None:
    """It has adopted sockets and the pid file by then."""
    file = tmp_path / "streamcache.toml"
    file.write_text("")
    admin = tmp_path / "admin.sock"
    process = start("--config", str(file), "--admin", f"unix:{admin}", workers=2)
    file.write_text('[cache]\npolicy = "lru"\n')  # those who share a directory must agree
    os.kill(process.pid, signal.SIGUSR2)
    process.wait_for("upgrade failed, serving on pid=")
    assert process.pid > 0
    assert admin.exists()
    assert process.get() == content("small", 0, 1024)


@each
def test_who_is_told_to_end_ends_whatever_was_to_follow(
    start: Upgradable, tmp_path: Path, workers: int
) -> None:
    """Also when a response holds the drain for longer than the new process needs to start."""
    daemon = start(workers=workers)
    with socket.create_connection(daemon.address, PATIENCE) as client:
        client.sendall(b"GET /film.mp4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        os.kill(daemon.pid, signal.SIGUSR2)
        daemon.wait_for("upgrade started pid=")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("upgrade given up, this process ends pid=")
        rest = b"".join(iter(lambda: client.recv(2**20), b""))
    assert rest.partition(b"\r\n\r\n")[2] == content("film.mp4", 0, SIZE)
    # Both pipes end when the last of all processes is gone.
    code, _, log = daemon.end()
    assert code == 0
    assert "upgrade: took over from pid=" not in log
    assert not (tmp_path / "pid").exists()


def test_a_signal_to_one_that_was_followed_is_the_first_one(start: Upgradable) -> None:
    daemon = start(workers=2)
    with socket.create_connection(daemon.address, PATIENCE) as client:
        client.sendall(b"GET /film.mp4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        daemon.upgrade()
        daemon.wait_for("this process drains")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("a second signal ends at once")
        rest = b"".join(iter(lambda: client.recv(2**20), b""))
    assert rest.partition(b"\r\n\r\n")[2] == content("film.mp4", 0, SIZE)
    assert daemon.process.wait(PATIENCE) == 0


def test_other_settings_hold_in_the_new_process(start: Upgradable, tmp_path: Path) -> None:
    file = tmp_path / "streamcache.toml"
    file.write_text("")
    daemon = start("--config", str(file))
    file.write_text("[limits]\ntarget_size = 100\n[server]\nbacklog = 17\n")
    daemon.upgrade()
    assert daemon.process.wait(PATIENCE) == 0  # until then, both accept for a moment
    client = http.client.HTTPConnection(*daemon.address, timeout=PATIENCE)
    with contextlib.closing(client):
        client.request("GET", "/" + 200 * "a")
        assert client.getresponse().status == 414


@pytest.fixture
def held(start: Upgradable, tmp_path: Path) -> Callable[[int], Daemon]:
    """A daemon whose successor has read and opened everything, and waits for the file "gate"."""

    def run(workers: int) -> Daemon:
        settings(tmp_path, "before.log")
        environment = {held_module.GATE: str(tmp_path / "gate")}
        flags = ("--config", str(tmp_path / "streamcache.toml"), "--log-level", "info")
        daemon = start(*flags, workers=workers, module="tests.daemon.held", **environment)
        os.kill(daemon.pid, signal.SIGUSR2)
        daemon.wait_for("held")
        return daemon

    return run


def settings(directory: Path, log: str) -> None:
    (directory / "streamcache.toml").write_text(f'[log]\naccess = "{directory / log}"\n')


def logs_to(daemon: Daemon, file: Path) -> None:
    """Until the successor's workers write there."""
    assert daemon.process.wait(PATIENCE) == 0
    deadline = time.monotonic() + PATIENCE
    while not (file.exists() and file.stat().st_size):
        assert time.monotonic() < deadline, f"never in {file}"
        assert daemon.get() == content("small", 0, 1024)


@each
def test_a_reload_while_the_new_process_starts_is_not_lost(
    held: Callable[[int], Daemon], tmp_path: Path, workers: int
) -> None:
    daemon = held(workers)
    settings(tmp_path, "after.log")
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.wait_for_next("reloaded changed=log.access")  # the old one
    (tmp_path / "gate").touch()
    daemon.wait_for_next("reloaded changed=log.access")
    logs_to(daemon, tmp_path / "after.log")


@each
def test_logs_that_are_rotated_while_the_new_process_starts_are_opened_anew(
    held: Callable[[int], Daemon], tmp_path: Path, workers: int
) -> None:
    daemon = held(workers)
    (tmp_path / "before.log").rename(tmp_path / "before.log.1")
    os.kill(daemon.pid, signal.SIGUSR1)
    daemon.wait_for_next("received signal=SIGUSR1")  # the old one
    (tmp_path / "gate").touch()
    daemon.wait_for_next("received signal=SIGUSR1")
    logs_to(daemon, tmp_path / "before.log")


@each
def test_the_admin_listener_goes_along(start: Upgradable, tmp_path: Path, workers: int) -> None:
    admin = tmp_path / "admin.sock"
    daemon = start("--admin", f"unix:{admin}", workers=workers)
    before = admin.stat().st_ino
    daemon.upgrade()
    assert daemon.process.wait(PATIENCE) == 0
    assert admin.stat().st_ino == before
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(admin))
        client.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in client.recv(4096).partition(b"\r\n")[0]
    os.kill(daemon.pid, signal.SIGTERM)
    daemon.wait_for("stopped")
    deadline = time.monotonic() + PATIENCE
    while admin.exists() or (tmp_path / "pid").exists():
        assert time.monotonic() < deadline, "files are left"
        time.sleep(0.01)


def test_a_unix_socket_keeps_its_file(start: Upgradable, tmp_path: Path) -> None:
    path = tmp_path / "public.sock"
    daemon = start("--listen", f"unix:{path}", "--admin", "off")
    before = path.stat().st_ino
    daemon.upgrade()
    assert daemon.process.wait(PATIENCE) == 0
    assert path.stat().st_ino == before
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@each
def test_the_service_manager_follows(start: Upgradable, tmp_path: Path, workers: int) -> None:
    with Manager(tmp_path) as manager:
        daemon = start(workers=workers, **manager.environment)
        assert manager.next()["MAINPID"] == str(daemon.pid)
        new = daemon.upgrade()
        told = [manager.next() for _ in range(2)]
        assert {message["MAINPID"] for message in told} == {str(new)}
        os.kill(new, signal.SIGTERM)
        stopping = manager.until("STOPPING")  # the new one's: the old one only leaves
        assert stopping["STATUS"] == "draining"
        assert daemon.process.wait(PATIENCE) == 0
