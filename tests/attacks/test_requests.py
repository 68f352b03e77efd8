"""Requests that are meant to be misread, to cost much, or to write into logs and pages."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attacks.conftest import Battle
from tests.daemon_process import DaemonProcess

Begin = Callable[..., Battle]

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    source = tmp_path_factory.mktemp("films")
    (source / "film").write_bytes(b"film")
    os.utime(source / "film", (1, 1))
    with DaemonProcess(source, "--admin", "off", "--log-level", "debug") as running:
        yield running


def said(server: DaemonProcess, data: bytes) -> bytes:
    """All that comes back for these bytes, from a client that then closes its side."""
    with socket.create_connection(server.address, 20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


def heads(answer: bytes) -> list[int]:
    """The statuses in an answer."""
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


# -- smuggling: what two recipients could read differently is read by nobody

NEXT = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
SMUGGLED = [
    ("Content-Length: 5", "Transfer-Encoding: chunked"),
    ("Content-Length: 5", "Content-Length: 6"),
    ("Content-Length: 5, 6",),
    ("Content-Length: +5",),
    ("Content-Length: 0x5",),
    ("Content-Length: 5 5",),
    ("Content-Length : 5",),
    ("Content-Length: 18446744073709551621",),
    (" Content-Length: 5",),
    ("Transfer-Encoding : chunked",),
    ("Transfer-Encoding: xchunked",),
    ("Transfer-Encoding: chunked, identity",),
    ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: \x0bchunked",),
    ("X: y\rTransfer-Encoding: chunked",),
    ("X: y\nTransfer-Encoding: chunked",),
    ("Transfer-Encoding:\r\n chunked",),
    ("X\x00: y", "Content-Length: 5"),
    ("Transfer-Encoding\x00: chunked",),
]


@pytest.mark.parametrize("fields", SMUGGLED, ids=lambda fields: ascii(fields[0]))
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_is_smuggled(server: DaemonProcess, method: str, fields: tuple[str, ...]) -> None:
    head = "\r\n".join((f"{method} /film HTTP/1.1", "Host: h", *fields)) + "\r\n\r\n"
    (status,) = heads(said(server, head.encode("latin-1") + b"0\r\n\r\n" + NEXT))
    assert status in (400, 413, 501)
    assert "/smuggled" not in server.log


@pytest.mark.parametrize(
    "body",
    [
        b"0x1\r\nx\r\n0\r\n\r\n",
        b"+1\r\nx\r\n0\r\n\r\n",
        b"1 \r\nx\r\n0\r\n\r\n",
        b"1\nx\n0\n\n",
        b"1\r\nxy\r\n0\r\n\r\n",
        b"1\rx\r\n0\r\n\r\n",
        b"-1\r\nx\r\n0\r\n\r\n",
        b"10000000000000001\r\nx\r\n0\r\n\r\n",
        b"1;\x00\r\nx\r\n0\r\n\r\n",
        b"0\r\nX y\n\r\n\r\n",
    ],
)
def test_nothing_is_smuggled_behind_a_malformed_chunk(server: DaemonProcess, body: bytes) -> None:
    head = b"GET /film HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    (status,) = heads(said(server, head + body + NEXT))
    assert status in (400, 413)
    assert "/smuggled" not in server.log


# -- bombs


def test_heads_and_bodies_that_cost_as_much_as_they_can(battle: Begin) -> None:
    here = battle()
    with here.attack("bombs", 1):
        here.assert_others_are_served()
        assert here.memory_grown() < 16 * MiB
    here.assert_nothing_is_left()
    assert "Traceback" not in here.daemon.log
    assert max(map(len, here.daemon.log.splitlines())) < 8 * 1024


# -- what is written down

NASTY = [
    b"\r\n127.0.0.1 - - forged",
    b"\n\x1b[31mforged",
    b"\x00\x07\x08\x7f",
    b'" 200 1 "forged',
    b"\\x0aforged\\",
    b"\xff\xfe\xc0\xaf",
    "\u2028\u202e\x85".encode(),
    b"%s%n%(forged)d{0}",
]
FIELDS = ["User-Agent", "Referer", "Range", "X-Request-ID", "X-Forwarded-For", "Authorization"]
SAFE = re.compile(r"[\x20-\x7e]*")


def escaped(text: bytes) -> bytes:
    return b"".join(b"%%%02x" % byte for byte in text)


def new_lines(server: DaemonProcess, before: int) -> list[str]:
    """What was logged behind ``before``, whole lines: until a line of a last request is there."""
    said(server, b"GET /end-of-test HTTP/1.0\r\n\r\n")
    for _ in range(500):
        raw = Path(server._log).read_bytes()[before:]
        if b"/end-of-test HTTP/1.0" in raw:
            return raw.decode("latin-1").split("\n")[:-1]
        time.sleep(0.02)
    raise AssertionError("the line of the last request never came")


@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
def test_what_clients_write_cannot_write_a_line_of_its_own(
    server: DaemonProcess, nasty: bytes
) -> None:
    before = Path(server._log).stat().st_size
    sent = 0
    for path in (b"/film?" + nasty, b"/" + nasty, b"/" + escaped(nasty), b"/x/" + escaped(nasty)):
        answer = said(server, b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"forged" not in answer
        sent += 1
    for field in FIELDS:
        head = b"GET /film HTTP/1.1\r\nHost: h\r\n" + field.encode() + b": " + nasty
        said(server, head + b"\r\n\r\n")
        sent += 1
    for odd in (nasty + b" / HTTP/1.1", b"GET / " + nasty, b"G" + nasty + b" / HTTP/1.1"):
        said(server, odd + b"\r\nHost: h\r\n\r\n")
        sent += 1
    lines = new_lines(server, before)
    for line in lines:
        assert SAFE.fullmatch(line), ascii(line)
        assert re.match(r"127\.0\.0\.1 - |20\d\d-\d\d-\d\d \d\d:", line), line
    ours = [line for line in lines if line.startswith("127.0.0.1 - ")]
    # A bare CRLF makes two requests, or a request and what is none, of one.
    assert sent <= len(ours) - 1 <= 2 * sent
    assert not any(line.startswith("127.0.0.1 - - forged") for line in lines)


def test_a_path_that_fails_is_escaped_in_the_log_of_the_daemon(
    server: DaemonProcess,
) -> None:
    """Its own lines have paths of clients too: of errors, and of copies that begin."""
    name = "new\nline\x1b[31m\udcff"
    raw_name = os.fsencode(name)
    source = Path(server.ready_line.partition(" source=")[2].partition(" ")[0])
    (source / name).write_bytes(b"x" * 1000)
    os.utime(source / name, (1, 1))
    before = Path(server._log).stat().st_size
    target = b"/" + escaped(raw_name)
    assert heads(said(server, b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")) == [200]
    lines = new_lines(server, before)
    about = [line for line in lines if "new" in line and "line" in line]
    assert any("copy started path='/new\\nline\\x1b[31m\\udcff'" in line for line in about), lines
    assert all(SAFE.fullmatch(line) for line in lines)


# -- odd forms

ODD = [
    ("OPTIONS *", 204),
    ("OPTIONS http://h", 204),
    ("CONNECT h:80", 405),
    ("CONNECT h", 400),
    ("TRACE /film", 405),
    ("TRACE *", 400),
    ("GET *", 400),
    ("PRI *", 400),
    ("GET http://h", 404),
    ("GET http://h?x", 404),
    ("GET /?", 404),
    ("GET ?", 400),
    ("GET //", 404),
    ("HEAD /film", 200),
    ("OPTIONS /", 204),
]


@pytest.mark.parametrize("sampled", ["1", "0.5"])
def test_odd_forms_of_a_target_are_answers_and_logged(
    daemon: Callable[..., DaemonProcess], tmp_path: Path, sampled: str
) -> None:
    """Also those that name no path: nothing behind the answer may trip over that."""
    (tmp_path / "film").write_bytes(b"film")
    os.utime(tmp_path / "film", (1, 1))
    environment = {"STREAMCACHE_LOG_SAMPLE": sampled, "STREAMCACHE_LOG_IGNORE_PATHS": "/no/*"}
    running = daemon(tmp_path, "--admin", "off", environment=environment)
    with_next = [204, 405, 404, 200]  # the connection goes on
    for line, status in ODD:
        head = f"{line} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        found = heads(said(running, head + b"GET /film HTTP/1.1\r\nHost: h\r\n\r\n"))
        ends = status not in with_next or line.startswith("CONNECT")
        assert found == ([status] if ends else [status, 200]), line
    assert "Traceback" not in running.log
    assert "request failed" not in running.log


# -- error pages

MARK = "<script>m4rk</script>"
ERRORS = [
    (f"GET /none/{MARK}", 400),
    ("GET /none/%3Cscript%3Em4rk%3C/script%3E", 404),
    ("GET /none?m4rk=<script>", 400),
    ("GET /none?m4rk", 404),
    ("GET /../m4rk", 400),
    ("POST /m4rk", 405),
    ("M4RK /m4rk", 501),
    ("GET http://m4rk/none", 404),
    ("GET https://m4rk/none", 421),
    ("GET /" + "m4rk" * 3000, 414),
    ("GET /m4rk%zz", 400),
    ("GET m4rk", 400),
]


@pytest.mark.parametrize(("line", "status"), ERRORS)
def test_error_pages_reflect_nothing(server: DaemonProcess, line: str, status: int) -> None:
    head = f"{line} HTTP/1.1\r\nHost: m4rk.example\r\nReferer: m4rk\r\nX-M4rk: m4rk\r\n\r\n"
    answer = said(server, head.encode())
    assert heads(answer) == [status]
    assert b"m4rk" not in answer.lower()
    body = answer.partition(b"\r\n\r\n")[2]
    assert re.fullmatch(rb"%d [A-Za-z -]+\n" % status, body)
    assert b"Content-Type: text/plain" in answer
