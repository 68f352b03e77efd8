"""The admin listener of real daemons: one answer for all workers, whichever gives it."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.admin.asking import Admin, eventually
from tests.content import content
from tests.daemon_process import DaemonProcess

Start = Callable[..., DaemonProcess]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "films"
    path.mkdir()
    (path / "film.mp4").write_bytes(content("film", 0, 3_000_000))
    os.utime(path / "film.mp4", (1, 1))
    return path


def fetch(daemon: DaemonProcess, path: str = "/film.mp4") -> bytes:
    client = http.client.HTTPConnection(*daemon.address, timeout=20)
    try:
        client.request("GET", path)
        return client.getresponse().read()
    finally:
        client.close()


def test_one_worker_tells_of_itself_and_ends_when_asked(daemon: Start, source: Path) -> None:
    server = daemon(source)
    admin = Admin(server.admin)
    assert admin.ask("GET", "/healthz").body == b"ok\n"
    assert (admin.ask("GET", "/readyz").status, admin.ask("HEAD", "/readyz").body) == (200, b"")
    fetch(server)
    status = eventually(
        lambda: (now := admin.get("/api/status"))["totals"]["copies_finished"] and now
    )
    assert status["totals"]["requests"]["miss"] == 1
    assert status["totals"]["bytes_from_source"] == 3_000_000
    assert (status["pid"], status["url"]) == (server.pid, server.url)
    assert status["source"] == {"path": os.fspath(source), "answers": True, "stuck": 0}
    assert status["cache"]["limit"] == 2_000_000_000
    assert [(each["name"], each["state"], each["pid"]) for each in status["workers"]] == [
        ("w1", "running", server.pid)
    ]
    samples = admin.get("/api/history")["samples"]
    assert samples[-1]["bytes_out"] == 3_000_000
    assert [each["time"] for each in samples] == sorted(each["time"] for each in samples)
    assert admin.ask("POST", "/api/drain", {}).status == 202
    assert server.wait() == 0
    assert not os.path.exists(server.admin)


def test_any_worker_answers_for_all_also_when_one_hangs_and_when_it_was_killed(
    daemon: Start, source: Path
) -> None:
    server = daemon(source, workers=2)
    admin = Admin(server.admin)
    pids = eventually(lambda: len(server.worker_pids) == 2 and server.worker_pids)
    for _ in range(8):
        fetch(server)
    eventually(lambda: sum(admin.get("/api/status")["totals"]["requests"].values()) == 8)
    status = admin.get("/api/status")
    assert status["pid"] == server.pid
    assert {each["name"]: each["pid"] for each in status["workers"]} == pids

    os.kill(pids["w2"], signal.SIGSTOP)  # what it has accepted hangs; the next question does not
    try:
        hanging = eventually(lambda: _states(admin).get("w2") == "hanging")
        assert hanging
        assert len(admin.get("/api/history")["samples"]) > 2
    finally:
        os.kill(pids["w2"], signal.SIGKILL)
    eventually(lambda: server.worker_pids.get("w2", pids["w2"]) != pids["w2"])
    eventually(lambda: _states(admin) == {"w1": "running", "w2": "running"})
    assert sum(admin.get("/api/status")["totals"]["requests"].values()) == 8


def _states(admin: Admin) -> dict[str, str]:
    try:
        return {each["name"]: each["state"] for each in admin.get("/api/status")["workers"]}
    except (OSError, http.client.HTTPException):  # it was accepted by the one that hangs
        return {}


def test_not_ready_while_it_drains_and_all_end_when_one_is_asked(
    daemon: Start, tmp_path: Path
) -> None:
    films = tmp_path / "big"
    films.mkdir()
    (films / "film.mp4").write_bytes(bytes(64 * 2**20))
    os.utime(films / "film.mp4", (1, 1))
    server = daemon(films, workers=2)
    admin = Admin(server.admin)
    with socket.create_connection(server.address, 20) as client:
        client.sendall(b"GET /film.mp4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        assert admin.get("/api/status")["draining_since"] is None
        before = time.time()
        assert admin.ask("POST", "/api/drain", {}).json == {"draining": True}
        told = eventually(lambda: (now := admin.ask("GET", "/readyz")).status == 503 and now)
        assert told.body == b"draining\n"
        assert admin.ask("GET", "/healthz").status == 200
        status = eventually(lambda: states_of(now := admin.get("/api/status")) and now)
        assert before <= status["draining_since"] <= time.time()
        while client.recv(2**20):
            pass
    assert server.wait() == 0


def states_of(status: Any) -> bool:
    """Whether the worker that has nothing to finish is gone, and not called dead."""
    return sorted(each["state"] for each in status["workers"]) == ["ended", "running"]


def test_over_tcp_strangers_pages_are_kept_out_and_metrics_told(
    daemon: Start, source: Path
) -> None:
    server = daemon(source, "--admin", "127.0.0.1:0")
    url = server.log.partition("admin listener url=http://")[2].partition("/")[0]
    host, _, port = url.rpartition(":")
    admin = Admin((host, int(port)))
    assert admin.ask("GET", "/api/status", fields={"Host": "evil.example"}).status == 403
    assert admin.ask("GET", "/api/status", fields={"Host": url}).status == 200
    assert admin.ask("POST", "/api/drain", b"{}", {"Content-Type": "text/plain"}).status == 415
    assert fetch(server) and b"404" in _raw(server, b"GET /api/status HTTP/1.1\r\nHost: x\r\n\r\n")


def _raw(server: DaemonProcess, request: bytes) -> bytes:
    with socket.create_connection(server.address, 20) as client:
        client.sendall(request)
        return client.recv(100)


def test_a_head_that_never_ends_and_one_that_is_none_hold_nobody(
    daemon: Start, source: Path
) -> None:
    server = daemon(source)
    admin = Admin(server.admin)
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as odd:
        for client in (silent, odd):
            client.connect(server.admin)
        silent.sendall(b"GET /heal")
        odd.sendall(b"\0\xff nonsense\r\n\r\n")
        assert b"400" in odd.recv(100)
        begun = time.monotonic()
        assert admin.ask("GET", "/healthz").status == 200
        assert time.monotonic() - begun < 10
    assert "Traceback" not in server.log
