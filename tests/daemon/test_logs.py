"""The error log: one event a line, as text or JSON, and never a wait for who reads it."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import gevent
import pytest

from streamcache.daemon import logs
from streamcache.daemon.stderr import Stderr
from tests.daemon.test_workers import get, wait_until
from tests.slowfs import SlowFS

Attach = Callable[[int], Stderr]


def record(message: object, *args: object, **more: object) -> logging.LogRecord:
    return logging.LogRecord("streamcache.x", logging.WARNING, "f", 1, message, args, None, **more)


def with_traceback() -> logging.LogRecord:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        found = record("broke path=%r", "/a\n")
        found.exc_info = sys.exc_info()
        return found


def parsed(found: logging.LogRecord, role: str = "w1") -> dict[str, object]:
    line = logs.JsonLines(role).format(found)
    assert line.isascii()
    assert line.isprintable()
    return json.loads(line, parse_constant=pytest.fail)


# -- lines


def test_a_line_of_text_has_time_level_process_and_logger() -> None:
    line = logs.TextLines("w2").format(record("copy complete path=%r bytes=%d", "/a b", 7))
    form = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING w2 streamcache\.x (.*)"
    assert re.fullmatch(form, line)[1] == "copy complete path='/a b' bytes=7"
    assert " WARNING streamcache.x m" in logs.TextLines("").format(record("m"))


@pytest.mark.parametrize(
    "text", ["a\nb", "\r\n", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u202e", "\udce9"]
)
def test_whatever_is_in_a_message_the_line_is_one_and_harmless(text: str) -> None:
    for message in (record("%s", text), record(text)):
        line = logs.TextLines("w1").format(message)
        assert line.isprintable()
        assert len(line.splitlines()) == 1
        assert parsed(message)["message"] == text.encode("utf-8", "backslashreplace").decode()


def test_a_traceback_is_in_the_line_of_its_event() -> None:
    line = logs.TextLines("w1").format(with_traceback())
    assert line.isprintable()
    assert r"broke path='/a\n'\nTraceback (most recent call last):\n" in line
    assert line.endswith(r"ValueError: first\nsecond")
    found = parsed(with_traceback())
    assert (found["event"], found["path"]) == ("broke", "/a\n")
    assert str(found["traceback"]).endswith("ValueError: first\nsecond")


def test_a_json_line_names_the_values_of_its_message() -> None:
    found = parsed(
        record("request failed path=%r status=%d request_id=%s error=%s", "/a", 504, "7f", "late")
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(found.pop("time")))
    assert found == {
        "level": "warning",
        "process": "w1",
        "logger": "streamcache.x",
        "event": "request failed",
        "message": "request failed path='/a' status=504 request_id=7f error=late",
        "path": "/a",
        "status": 504,
        "request_id": "7f",
        "error": "late",
    }


@pytest.mark.parametrize(
    ("message", "args", "event", "values"),
    [
        ("stopped", (), "stopped", {}),
        ("%s", ("all of it",), "all of it", {}),
        ("100%% full name=%s", ("x",), "100%% full", {"name": "x"}),
        ("id=%s", ("-",), "id=-", {"id": None}),
        ("lived=%.1f%s; next in %g s", (1.25, "", 2), "lived=1.2; next in 2 s", {"lived": 1.25}),
        ("took level=%d time=%s", (3, "x"), "took", {}),  # names that each line has are its own
        ("share=%s", (float("nan"),), "share=nan", {"share": "nan"}),
        ("%(a)s", ({"a": 1},), "1", {}),
        (ValueError("no format"), (), "no format", {}),
    ],
)
def test_events_and_values(message: object, args: tuple, event: str, values: dict) -> None:
    found = parsed(record(message, *args), role="")
    usual = {"time", "level", "process", "logger", "event", "message"}
    assert found["event"] == event
    assert {name: found[name] for name in set(found) - usual} == values
    assert found["process"] is None


def test_what_ends_a_greenlet_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    hub = gevent.get_hub()
    hub.print_exception = logs.uncaught
    try:
        gevent.spawn(lambda: 1 // 0).join()
    finally:
        del hub.print_exception
    (found,) = caplog.records
    assert found.getMessage().startswith("failed in=<Greenlet")
    assert parsed(found)["event"] == "failed"
    assert "ZeroDivisionError" in str(parsed(found)["traceback"])


# -- descriptor 2


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Iterator[Attach]:
    """``attach(fd)``: what writes there as if it were descriptor 2; it closes it at the end."""
    opened: list[tuple[Stderr, int]] = []

    class Stream:
        def __init__(self, fd: int) -> None:
            self.fileno = lambda: fd

    def start(fd: int) -> Stderr:
        monkeypatch.setattr(sys, "__stderr__", Stream(fd))
        stderr = Stderr()
        stderr.open()
        opened.append((stderr, fd))
        return stderr

    yield start
    for stderr, fd in opened:
        stderr.close()
        os.close(fd)


def test_a_pipe_that_nobody_reads_is_not_waited_for_and_what_was_lost_is_said(
    attach: Attach,
) -> None:
    reader, writer = os.pipe()
    stderr = attach(writer)
    line = "x" * 999 + "\n"
    for _ in range(100):
        stderr.write(line)
    received = os.read(reader, 1 << 20).decode().splitlines(keepends=True)
    kept = received.count(line)
    said = [int(other.partition("log lines lost=")[2]) for other in received if other != line]
    assert kept + sum(said) + stderr.lost == 100
    assert stderr.lost > 20
    lost = stderr.lost
    stderr.write("again\n")
    assert os.read(reader, 1 << 20).decode() == f"log lines lost={lost}\nagain\n"
    assert os.get_blocking(writer)  # others have it too
    os.close(reader)
    stderr.write("nobody is there\n")
    assert stderr.lost == 1


def test_a_line_that_found_room_for_its_beginning_harms_no_other(attach: Attach) -> None:
    reader, writer = os.pipe()
    stderr = attach(writer)
    stderr.write("a" * 200_000 + "\n")
    received = os.read(reader, 1 << 20)
    assert received == b"a" * 65536
    stderr.write("whole\n")
    assert os.read(reader, 1 << 20).decode() == "\nlog lines lost=1\nwhole\n"
    os.close(reader)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_socket_that_nobody_reads_is_not_waited_for(attach: Attach, kind: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with theirs:
        stderr = attach(ours.detach())
        stderr.write("first\n")
        assert theirs.recv(100) == b"first\n"
        for _ in range(10_000):
            stderr.write("x" * 999 + "\n")
        assert stderr.lost > 5000


def test_a_file_is_appended_to_where_it_is(attach: Attach, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    stderr = attach(os.open(tmp_path / "log", os.O_WRONLY | os.O_APPEND))
    stderr.write("one\n")
    os.truncate(tmp_path / "log", 0)  # as copytruncate of logrotate
    stderr.write("caf\xe9 \udce9\n")
    assert (tmp_path / "log").read_text() == "caf\xe9 \\udce9\n"


def test_a_stderr_that_is_closed_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stderr__", None)
    stderr = Stderr()
    stderr.open()
    stderr.write("x\n")
    assert stderr.lost == 0


def test_threads_do_not_mix_lines(attach: Attach) -> None:
    reader, writer = os.pipe()
    stderr = attach(writer)
    threads = [
        threading.Thread(target=lambda n=n: [stderr.write(f"{n}" * 50 + "\n") for _ in range(100)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = os.read(reader, 1 << 20).decode().splitlines()
    assert sorted(lines) == sorted(str(n) * 50 for n in range(4) for _ in range(100))
    os.close(reader)


# -- the daemon


def test_a_failed_request_is_found_in_both_logs_by_its_id(
    daemon, slowfs: SlowFS, tmp_path: Path
) -> None:
    slowfs.set(latency=0, meta_latency=0, bandwidth=0)
    (slowfs.backing / "film.mp4").write_bytes(bytes(300_000))
    os.utime(slowfs.backing / "film.mp4", (1, 1))
    access = tmp_path / "access.log"
    options = {
        "STREAMCACHE_LOG_ERRORS": "json",
        "STREAMCACHE_LOG_FORMAT": "json",
        "STREAMCACHE_LOG_FIELDS": "status, request_id, worker, outcome",
        "STREAMCACHE_LOG_REQUEST_ID": "true",
        "STREAMCACHE_LOG_ACCESS": os.fspath(access),
    }
    running = daemon(slowfs.path, workers=2, environment=options)
    slowfs.fault("EIO", "film.mp4", operations=("read",))
    client = http.client.HTTPConnection(*running.address, timeout=20)
    with contextlib.closing(client):
        client.request("GET", "/film.mp4")
        answer = client.getresponse()
        answer.read()
    assert running.stop() == 0
    name = answer.headers["X-Request-ID"]
    (served,) = map(json.loads, access.read_text().splitlines())
    assert (served["status"], served["request_id"], served["outcome"]) == (503, name, "done")
    events = [json.loads(line) for line in running.log.splitlines()]
    (failed,) = [each for each in events if each["event"] == "request failed"]
    assert (failed["request_id"], failed["path"], failed["status"]) == (name, "/film.mp4", 503)
    assert failed["error"] == "[Errno 5] Input/output error: '/film.mp4'"
    assert failed["process"] == served["worker"] in ("w1", "w2")
    assert {each["process"] for each in events} == {"supervisor", "w1", "w2"}


def test_a_stderr_that_nobody_reads_holds_no_request(source: Path, tmp_path: Path) -> None:
    """Both logs go there, by default; the pipe is full before the first request."""
    (source / "small").write_bytes(b"x" * 100)
    os.utime(source / "small", (1, 1))
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "streamcache", "serve", os.fspath(source)),
            *("--listen", "127.0.0.1:0", "--cache-dir", os.fspath(tmp_path / "cache")),
            *("--workers", "2", "--admin", "off"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writer,
    )
    try:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().split()[3].decode())
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * 1000)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b".")
        os.set_blocking(writer, True)
        for _ in range(3):
            for path, status in (("/small", 200), ("/none", 404)):
                client = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
                with contextlib.closing(client):
                    client.request("GET", path)
                    assert client.getresponse().status == status
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finally:
        process.kill()
        process.communicate()
        os.close(writer)
        os.close(reader)


def opened(pid: int, folder: Path) -> set[str]:
    """The files in this folder that a process has open."""
    fds = f"/proc/{pid}/fd"
    targets = set()
    for fd in os.listdir(fds):
        with contextlib.suppress(FileNotFoundError):
            targets.add(os.readlink(f"{fds}/{fd}"))
    return {target for target in targets if target.startswith(f"{folder}/")}


def test_under_load_two_workers_open_their_log_anew_and_no_line_is_lost_or_torn(
    daemon, source: Path, tmp_path: Path
) -> None:
    (source / "small").write_bytes(b"x" * 100)
    os.utime(source / "small", (1, 1))
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "access.log"
    running = daemon(source, workers=2, environment={"STREAMCACHE_LOG_ACCESS": os.fspath(log)})
    done = threading.Event()
    asked: list[int] = []

    def ask(client: int) -> int:
        """One request after the other, each on a connection of its own: both workers get some."""
        count = 0
        while not done.is_set():
            connection = http.client.HTTPConnection(*running.address, timeout=20)
            with contextlib.closing(connection):
                for _ in range(20):
                    connection.request("GET", f"/small?{client}-{count}-")
                    assert connection.getresponse().read() == b"x" * 100
                    count += 1
            asked.append(1)
        return count

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask, client) for client in range(4)]
        try:
            for turn in range(5):
                before = len(asked)
                wait_until(lambda before=before: len(asked) > before + 4, "no answers")
                os.rename(log, folder / f"access.log.{turn}")
                os.kill(running.pid, signal.SIGUSR1)
                wait_until(log.exists, "no new file")
        finally:
            done.set()
        counts = [client.result(20) for client in clients]
    assert len(running.worker_pids) == 2
    for pid in running.worker_pids.values():  # each has let go of the files before
        wait_until(lambda pid=pid: opened(pid, folder) == {os.fspath(log)}, "an old file is open")
    assert running.stop() == 0
    files = sorted(folder.iterdir())
    assert len(files) == 6
    lines = [line for file in files for line in file.read_text().splitlines(keepends=True)]
    form = r'127\.0\.0\.1 - - \[[^]]+\] "GET /small\?(\d+)-(\d+)- HTTP/1\.1" 200 100 .* \d\.\d{3}\n'
    found = [re.fullmatch(form, line) for line in lines]
    assert all(found)
    seen = sorted((int(match[1]), int(match[2])) for match in found if match)
    assert seen == [(client, n) for client, count in enumerate(counts) for n in range(count)]
    assert all(file.stat().st_size for file in files[1:])


def test_a_reload_changes_both_logs(daemon, source: Path, tmp_path: Path) -> None:
    (source / "small").write_bytes(b"x" * 100)
    log, options = tmp_path / "access.log", tmp_path / "options.toml"
    options.write_text(f'[log]\naccess = "{log}"\n')
    running = daemon(source, "--config", os.fspath(options))
    get(running, "/small")
    options.write_text(
        f'[log]\naccess = "{log}"\nformat = "json"\nerrors = "json"\nrequest_id = true\n'
    )
    os.kill(running.pid, signal.SIGHUP)
    wait_until(lambda: '"process":null' in running.log, "no JSON")
    get(running, "/small")
    assert running.stop() == 0
    before, after = log.read_text().splitlines()
    assert before.startswith("127.0.0.1 - - [")
    assert json.loads(after)["request_id"]
