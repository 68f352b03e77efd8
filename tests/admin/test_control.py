"""Looking into real daemons and steering them: sessions, entries, purge, pins, warm jobs."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.admin.asking import Admin, eventually
from tests.content import content
from tests.daemon_process import DaemonProcess

MB = 2**20
BLOCK = 64 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "films"
    (path / "new").mkdir(parents=True)
    for name, size in (("film.mkv", 64 * MB), ("a.mp4", 300_000), ("new/b.mp4", 200_000)):
        (path / name).write_bytes(content(name, 0, size))
        os.utime(path / name, (1, 1))
    return path


@pytest.fixture
def server(daemon: Callable[..., DaemonProcess], source: Path) -> Iterator[DaemonProcess]:
    """Two workers that copy slowly what nobody waits for."""
    yield daemon(source, workers=2, environment={"STREAMCACHE_COPY_MAX_BANDWIDTH": "2MB"})


@pytest.fixture
def admin(server: DaemonProcess) -> Admin:
    return Admin(server.admin)


def outcome(server: DaemonProcess, path: str) -> str:
    """How a GET was answered, by whichever worker: "hit", or why it was none."""
    client = http.client.HTTPConnection(*server.address, timeout=20)
    client.request("GET", path)
    answer = client.getresponse()
    answer.read()
    client.close()
    return answer.getheader("Cache-Status", "").removeprefix("streamcache; ")


def paths(answer: dict[str, Any]) -> list[str]:
    return [entry["path"] for entry in answer["entries"]]


def test_a_seek_is_seen_in_the_picture_of_its_copy(server: DaemonProcess, admin: Admin) -> None:
    assert admin.get("/api/sessions") == {"sessions": [], "unanswered": []}
    with socket.create_connection(server.address, 20) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(b"GET /film.mkv HTTP/1.1\r\nHost: x\r\nRange: bytes=50331648-\r\n\r\n")
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 206"
        (session,) = eventually(lambda: _served(admin))
        assert session["path"] == "/film.mkv"
        assert (session["size"], session["block"]) == (64 * MB, BLOCK)
        assert session["worker"] in ("w1", "w2")
        (reader,) = session["readers"]
        assert (reader["client"], reader["waits"]) == ("127.0.0.1", False)
        assert 48 * MB <= reader["offset"] < 64 * MB
        blocks = [present for present, count in session["blocks"] for _ in range(count)]
        assert len(blocks) == 64 * MB // BLOCK
        assert blocks[48 * MB // BLOCK] == 1  # where it reads
        assert sum(blocks) * BLOCK == session["present"] < 64 * MB
        assert 0 in blocks[: 48 * MB // BLOCK]  # what it skipped
        eventually(lambda: admin.get("/api/sessions")["sessions"][0]["rate"] > 0)
        known = admin.get("/api/entry?path=/film.mkv")
        assert [each["path"] for each in known["sessions"]] == ["/film.mkv"]
        assert known["entries"] == []


def _served(admin: Admin) -> list[dict[str, Any]]:
    """The copies whose readers have bytes before them, and wait for their client."""
    return [
        session
        for session in admin.get("/api/sessions")["sessions"]
        if session["state"] == "copying" and session["present"]
        if not any(reader["waits"] for reader in session["readers"])
    ]


def test_a_worker_that_hangs_is_named_and_the_others_answer(
    server: DaemonProcess, admin: Admin
) -> None:
    eventually(lambda: len(server.worker_pids) == 2)
    os.kill(server.worker_pids["w2"], signal.SIGSTOP)
    try:
        assert admin.get("/api/sessions")["unanswered"] == ["w2"]
        assert admin.get("/api/warm")["unanswered"] == ["w2"]
        told = admin.ask("GET", "/api/warm/none")
        assert (told.status, "w2" in told.json["error"]) == (503, True)
    finally:
        os.kill(server.worker_pids["w2"], signal.SIGCONT)
    eventually(lambda: admin.get("/api/sessions")["unanswered"] == [])


def test_what_is_in_the_cache_is_listed_in_pages(server: DaemonProcess, admin: Admin) -> None:
    for path in ("/a.mp4", "/new/b.mp4"):
        assert outcome(server, path).startswith("fwd=miss")
    eventually(lambda: admin.get("/api/entries")["count"] == 2)
    first = admin.get("/api/entries?sort=size&order=desc&limit=1")
    assert (paths(first), first["count"]) == (["/a.mp4"], 2)
    second = admin.get(f"/api/entries?sort=size&order=desc&limit=1&after={first['next']}")
    assert (paths(second), second["next"]) == (["/new/b.mp4"], None)
    (entry,) = second["entries"]
    assert (entry["size"], entry["pinned"], entry["ours"]) == (200_000, False, True)
    assert second["others"] == {"count": 0, "bytes": 0}
    assert entry["on_disk"] == entry["blocks"] >= 200_000
    assert paths(admin.get("/api/entries?prefix=/new/")) == ["/new/b.mp4"]
    assert paths(admin.get("/api/entries?glob=/*.mp4")) == ["/a.mp4"]
    known = admin.get("/api/entry?path=/a.mp4")
    assert [each["size"] for each in known["entries"]] == [300_000]
    assert entry["version"] not in known["knowledge"].values()
    versions = {each["version"] for each in known["knowledge"].values() if each}
    assert versions == {known["entries"][0]["version"]}


def test_a_purge_is_one_for_all_workers(server: DaemonProcess, admin: Admin) -> None:
    def hits(path: str) -> bool:
        return {outcome(server, path) for _ in range(8)} == {"hit"}

    for path in ("/a.mp4", "/new/b.mp4"):
        outcome(server, path)
        eventually(lambda path=path: hits(path))
    dry = admin.ask("POST", "/api/purge", {"prefix": "/", "dry_run": True}).json
    assert (dry["matched"], dry["removed"], dry["dry_run"]) == (2, 2, True)
    assert admin.get("/api/entries")["count"] == 2
    soft = admin.ask("POST", "/api/purge", {"path": "/a.mp4", "mode": "soft"}).json
    assert (soft["matched"], soft["removed"]) == (1, 0)
    assert outcome(server, "/a.mp4") == "hit"
    hard = admin.ask("POST", "/api/purge", {"glob": "/*.mp4"}).json
    assert (hard["matched"], hard["removed"], hard["unanswered"]) == (1, 1, [])
    assert hard["bytes"] >= 300_000
    # Said once, however many workers were asked.
    assert len(re.findall(r"purged files=.* mode=soft", server.log)) == 1
    assert len(re.findall(r"purged files='/\*\.mp4' matched=1 removed=1", server.log)) == 1
    assert "matched=0" not in server.log
    # Whichever worker has it open: none serves it from there.
    assert {outcome(server, "/a.mp4") for _ in range(8)} & {"fwd=miss; stored"}
    assert hits("/new/b.mp4")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "exactly one of"),
    ({"path": "/a", "glob": "/b"}, "exactly one of"),
    ({"path": 7}, "path must be text"),
    ({"path": "/a/../b"}, "names no file"),
    ({"path": "/a\ud800"}, "half a character"),
    ({"prefix": "/", "dry_run": "yes"}, "true or false"),
    ({"prefix": "/", "dryrun": True}, "no member 'dryrun'"),
    ({"prefix": "/", "mode": "gentle"}, "hard, soft"),
]


def test_a_purge_that_is_not_understood_removes_nothing(
    server: DaemonProcess, admin: Admin
) -> None:
    for body, problem in WRONG:
        told = admin.ask("POST", "/api/purge", body)
        assert (told.status, problem in told.json["error"]) == (400, True), told
    assert "purged" not in server.log


def test_pins_are_set_and_shown_and_let_go(server: DaemonProcess, admin: Admin) -> None:
    outcome(server, "/a.mp4")
    eventually(lambda: admin.get("/api/entries")["count"] == 1)
    pin = {"path": "/a.mp4"}
    assert admin.ask("POST", "/api/pin", pin).json == {"matched": 1, "paths": 1}
    assert admin.get("/api/pins") == {"paths": ["/a.mp4"]}
    assert admin.get("/api/entries")["entries"][0]["pinned"]
    assert admin.get("/api/entry?path=a.mp4")["pinned"]
    assert admin.ask("POST", "/api/unpin", {"prefix": "/"}).json == {"matched": 1, "paths": 1}
    assert admin.get("/api/pins") == {"paths": []}


def test_any_worker_tells_of_a_warm_job_and_ends_it(server: DaemonProcess, admin: Admin) -> None:
    begun = admin.ask("POST", "/api/warm", {"glob": "/**/*.mp4", "pin": True})
    assert begun.status == 202
    where = f"/api/warm/{begun.json['id']}"
    assert begun.fields["location"] == where
    job = eventually(lambda: (now := admin.get(where))["state"] == "done" and now)
    assert (job["files"], job["files_done"], job["bytes_done"]) == (2, 2, 500_000)
    assert admin.get("/api/pins")["paths"] == ["/a.mp4", "/new/b.mp4"]

    counted = admin.ask("POST", "/api/warm", {"prefix": "/", "dry_run": True}).json["id"]
    eventually(lambda: admin.get(f"/api/warm/{counted}")["state"] == "done")
    assert admin.get("/api/entries")["count"] == 2

    slow = admin.ask("POST", "/api/warm", {"paths": ["/film.mkv", "/none"], "at_once": 1}).json
    where = f"/api/warm/{slow['id']}"
    eventually(lambda: admin.get(where)["bytes_done"] > 0)
    for _ in range(8):  # by whichever worker
        assert [each["id"] for each in admin.get("/api/warm")["jobs"]] == [
            begun.json["id"],
            counted,
            slow["id"],
        ]
        assert admin.get(where)["worker"] in ("w1", "w2")
    assert admin.ask("DELETE", where).json["state"] == "cancelled"
    assert admin.get(where)["state"] == "cancelled"
    assert admin.ask("GET", "/api/warm/none").status == 404
