"""Heads as they come to the admin listener: judged as on the listener next door, and in JSON."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import gevent
import pytest
from gevent import socket

from streamcache.admin import listener
from streamcache.admin.answers import Answer
from streamcache.admin.doors import Doors
from streamcache.admin.listener import Listener
from streamcache.admin.routes import Routes

PATIENCE = 20.0  # s
Address = tuple[str, int]


@pytest.fixture
def address() -> Iterator[Address]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        routes = Routes(Doors("127.0.0.1"))
        routes.add("GET", "/healthz", lambda _: Answer.text("ok"))
        routes.add("GET", "/api/thing", lambda question: Answer.of(dict(question.query)))
        routes.add("POST", "/api/thing", lambda question: Answer.of(dict(question.body)))
        serving = Listener(sock, routes)
        serving.start()
        yield sock.getsockname()
        serving.stop()


def exchanged(address: Address, sent: bytes) -> bytes:
    """All that comes back until the other side ends the connection."""
    with socket.create_connection(address, PATIENCE) as client:
        client.sendall(sent)
        received = b""
        while piece := client.recv(65536):
            received += piece
        return received


def one(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """The only answer in these bytes."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *lines = head.decode("ascii").split("\r\n")
    fields = dict(each.split(": ", 1) for each in lines)
    assert len(body) in (0, int(fields["Content-Length"]))
    return int(line.split()[1]), fields, body


def get(target: str, *fields: str, host: str = "127.0.0.1") -> bytes:
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *fields]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


def post(*fields: str) -> bytes:
    lines = ["POST /api/thing HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    return "".join(f"{line}\r\n" for line in (*lines, *fields, "")).encode("latin-1")


LAST = get("/api/thing?last=1", "Connection: close")
REFUSED = {
    "no Host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (get("/healthz", "Host: 127.0.0.1"), 400),
    "lengths that differ": (post("Content-Length: 2", "Content-Length: 3") + b"{} ", 400),
    "a length and a coding": (
        post("Content-Length: 2", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        400,
    ),
    "a length that is no number": (post("Content-Length: -1"), 400),
    "a blank before a colon": (get("/healthz", "A : b"), 400),
    "a folded line": (get("/healthz", "A: b", " c"), 400),
    "a bare line end": (b"GET /healthz HTTP/1.1\nHost: 127.0.0.1\n\n", 400),
    "HTTP/0.9": (b"GET /healthz\r\n", 400),
    "HTTP/3.0": (b"GET /healthz HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n", 505),
    "no request line": (b"\x16\x03\x01\x02\r\n\r\n", 400),
    "a malformed escape": (get("/%zz"), 400),
    "a long target": (get("/" + "a" * 9000), 414),
    "a large field": (get("/healthz", "A: " + "b" * 70_000), 431),
    "many fields": (get("/healthz", *(f"A{n}: b" for n in range(100))), 431),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_what_no_server_should_take_is_one_sentence_and_the_end_of_the_connection(
    address: Address,
    sent: bytes,
    status: int,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    told, fields, body = one(exchanged(address, sent + LAST))
    assert told == status
    assert list(json.loads(body)) == ["error"]
    assert fields["Content-Type"] == "application/json"
    assert fields["Connection"] == "close"
    assert parsedate_to_datetime(fields["Date"]).year > 2000
    assert capfd.readouterr() == ("", "")  # pywsgi prints
    assert caplog.text == ""


def test_a_refused_head_has_no_body_either(address: Address) -> None:
    told, fields, body = one(exchanged(address, b"HEAD /healthz HTTP/1.1\r\n\r\n"))
    assert (told, body) == (400, b"")
    assert int(fields["Content-Length"]) > 2


def test_a_body_of_which_nobody_knows_the_end_is_refused_and_the_last(address: Address) -> None:
    sent = post("Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n"
    told, _, body = one(exchanged(address, sent + LAST))
    assert told == 411
    assert "Content-Length" in json.loads(body)["error"]


def test_so_is_one_that_nobody_wants(address: Address) -> None:
    """Its chunks would be read as the next question."""
    sent = post("Transfer-Encoding: chunked").replace(b"/api/thing", b"/api/none")
    told, fields, _ = one(exchanged(address, sent + b"2\r\n{}\r\n0\r\n\r\n" + LAST))
    assert (told, fields["Connection"]) == (411, "close")


def test_as_many_fields_as_next_door_and_bodies_and_pipelines_are_taken(address: Address) -> None:
    many = get("/api/thing?a=b%20c", *(f"A{n}: b" for n in range(99)))
    body = post("Content-Length: 8") + b'{"b": 2}'
    answers = exchanged(address, b"\r\n" + many + body + LAST)
    assert [each.partition(b"\r\n\r\n")[2] for each in answers.split(b"HTTP/1.1 ")[1:]] == [
        b'{"a": "b c"}\n',
        b'{"b": 2}\n',
        b'{"last": "1"}\n',
    ]


def test_a_client_of_http_1_0_that_wants_to_stay_is_told_that_it_may(address: Address) -> None:
    sent = b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n"
    first, second = exchanged(address, sent).split(b"HTTP/1.1 ")[1:]
    assert b"Connection: keep-alive" in first
    assert b"Connection: close" in second


def test_a_question_may_name_us_in_its_target_and_that_name_counts(address: Address) -> None:
    for target, host, status in (
        ("http://localhost/api/thing?a=1", "evil.example", 200),
        ("HTTP://127.0.0.1:9100/api/thing?a=1", "evil.example", 200),
        ("http://evil.example/api/thing?a=1", "localhost", 403),
        ("http://evil.example/healthz", "localhost", 200),
        ("https://localhost/api/thing", "localhost", 421),
    ):
        told, _, body = one(exchanged(address, get(target, "Connection: close", host=host)))
        assert told == status, target
        if status == 200 and "thing" in target:
            assert json.loads(body) == {"a": "1"}


def test_a_head_that_does_not_end_has_its_time_however_its_bytes_come(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "IDLE", 0.5)
    with socket.create_connection(address, PATIENCE) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        received = b""
        with gevent.Timeout(PATIENCE):
            while not received:
                with contextlib.suppress(OSError):
                    client.sendall(b"A: b\r\n")
                gevent.sleep(0.05)
                with contextlib.suppress(BlockingIOError):
                    received = client._sock.recv(65536)
    told, fields, body = one(received)
    assert (told, fields["Connection"]) == (408, "close")
    assert json.loads(body) == {"error": "head too slow"}
    assert exchanged(address, b"") == b""  # nothing was begun, so there is nothing to answer


def test_a_field_that_reads_like_another_is_not_taken_for_it(address: Address) -> None:
    sent = b"POST /api/thing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent_Type: application/json\r\n"
    assert one(exchanged(address, sent + b"Connection: close\r\n\r\n"))[0] == 415


def test_a_client_that_leaves_before_its_answer_is_no_event(
    address: Address, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for sent in (get("/" + "a" * 9000), get("/healthz") * 200, b"GET /heal"):
        with socket.create_connection(address, PATIENCE) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            client.sendall(sent)
    assert one(exchanged(address, LAST))[0] == 200
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
