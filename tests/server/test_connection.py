"""Keep-alive, pipelining, framing and closing, as bytes on a socket."""

from __future__ import annotations

import random

import gevent
import pytest

from tests.server.client import eventually, get


def test_pipelined_requests_are_answered_in_order(site):
    here = site()
    client = here.client()
    paths = ["/a.bin", "/one.bin", "/none", "/b.bin"] * 10
    client.send(b"".join(get(path) for path in paths))
    for path in paths:
        answer = client.response()
        assert answer.status == (404 if path == "/none" else 200)
        if answer.status == 200:
            assert answer.body == here.contents[path]


def test_requests_pipelined_behind_a_big_response_wait_for_it(site):
    here = site()
    client = here.client()
    client.send(get("/big.bin") + get("/one.bin") + get("/big.bin"))
    for path in ("/big.bin", "/one.bin", "/big.bin"):
        assert client.response().body == here.contents[path]


def test_input_is_bounded_while_a_response_runs(site):
    here = site(limits={"head_size": 4096})
    client = here.client()
    client.send(get("/big.bin"))
    client.head()  # it runs now, and nobody takes its bytes
    sender = gevent.spawn(client.send, get("/one.bin") * 200_000)
    gevent.sleep(0.3)
    (connection,) = here.server._connections
    assert not sender.ready()  # the kernel's buffers are full, as the server does not read on
    assert len(connection._parser._buffer) <= 2 * 4096 + 16 * 1024
    sender.kill()


def test_a_head_may_come_byte_by_byte(site):
    here = site()
    client = here.client()
    for byte in get("/a.bin"):
        client.send(bytes([byte]))
        gevent.sleep(0)
    assert client.response().body == here.contents["/a.bin"]


def test_close_is_said_and_done_when_the_client_asks_for_it(site):
    client = site().client()
    answer = client.ask("/a.bin", "Connection: close")
    assert answer.fields["connection"] == "close"
    assert client.until_closed() == b""


def test_nothing_is_served_after_connection_close(site):
    client = site().client()
    client.send(get("/one.bin", "Connection: close") + get("/a.bin"))
    assert client.response().body == b"1"
    assert client.until_closed() == b""


@pytest.mark.parametrize("keep", [True, False])
def test_http10_stays_open_only_when_asked(site, keep):
    client = site().client()
    fields = ["Connection: keep-alive"] if keep else []
    answer = client.ask("/one.bin", *fields, version="1.0")
    assert answer.fields["connection"] == ("keep-alive" if keep else "close")
    if keep:
        assert client.ask("/one.bin", version="1.0").body == b"1"
    assert client.until_closed() == b""


def test_a_malformed_request_is_answered_and_ends_the_connection(site):
    client = site().client()
    client.send(get("/one.bin") + b"NONSENSE\r\n\r\n" + get("/one.bin"))
    assert client.response().body == b"1"
    answer = client.response()
    assert (answer.status, answer.fields["connection"]) == (400, "close")
    assert client.until_closed() == b""


def test_a_client_that_still_sends_gets_the_refusal_and_no_reset(site):
    here = site()
    client = here.client()
    client.send(b"GET /" + b"x" * 70_000)
    client.send(b"y" * 1_000_000)
    answer = client.response()
    assert answer.status == 414
    assert client.until_closed() == b""


def test_half_closed_clients_get_all_their_answers(site):
    here = site()
    client = here.client()
    client.send(get("/big.bin") * 2)
    client.half_close()
    assert client.response().body == here.contents["/big.bin"]
    assert client.response().body == here.contents["/big.bin"]
    assert client.until_closed() == b""


def test_a_half_closed_client_gets_a_cold_file_too(site):
    here = site()
    gate = here.cache.gate("/a.bin")
    client = here.client()
    client.send(get("/a.bin"))
    client.half_close()
    assert client.head().status == 200  # sent early, to learn whether the client is there
    gate.release(1000)
    assert client.body(1000) == here.contents["/a.bin"]
    assert client.until_closed() == b""


@pytest.mark.parametrize("data", [b"", b"GET /a.bin HT"])
def test_a_client_that_sends_no_whole_request_is_let_go(site, data):
    here = site()
    client = here.client()
    client.send(data)
    client.half_close()
    assert client.until_closed() == b""
    eventually(lambda: here.server.connections == 0)


def test_bodies_are_thrown_away_and_the_next_request_is_found(site):
    client = site().client()
    client.send(get("/one.bin", "Content-Length: 5", method="POST") + b"hello" + get("/one.bin"))
    assert client.response().status == 405
    assert client.response().body == b"1"
    chunked = get("/one.bin", "Transfer-Encoding: chunked")
    client.send(chunked + b"3\r\nabc\r\n0\r\n\r\n" + get("/one.bin"))
    assert client.response().body == b"1"
    assert client.response().body == b"1"


def test_a_body_may_come_late_and_in_pieces(site):
    client = site().client()
    client.send(get("/one.bin", "Content-Length: 6") + b"ab")
    gevent.sleep(0.05)
    client.send(b"cd")
    gevent.sleep(0.05)
    client.send(b"ef" + get("/one.bin"))
    assert client.response().body == b"1"
    assert client.response().body == b"1"


def test_a_body_above_the_limit_is_413_without_a_100(site):
    client = site(limits={"body_size": 1000}).client()
    client.send(get("/one.bin", "Content-Length: 1001", "Expect: 100-continue"))
    answer = client.response()
    assert (answer.status, answer.fields["connection"]) == (413, "close")


@pytest.mark.parametrize(
    ("field", "body", "status"),
    [("Content-Length: 1001", b"", 413), ("Transfer-Encoding: chunked", b"x\r\n", 400)],
)
def test_the_refusal_of_a_body_has_none_for_head(site, field, body, status):
    client = site(limits={"body_size": 1000}).client()
    client.send(get("/one.bin", field, method="HEAD") + body)
    assert client.response("HEAD").status == status
    assert client.until_closed() == b""


def test_100_continue_is_sent_when_the_body_is_read(site):
    client = site().client()
    client.send(get("/one.bin", "Content-Length: 2", "Expect: 100-continue"))
    assert client.head().status == 100
    client.send(b"ab")
    assert client.response().body == b"1"


def test_a_refused_method_is_answered_instead_of_100(site):
    client = site().client()
    answer = client.ask("/one.bin", "Content-Length: 2", "Expect: 100-continue", method="PUT")
    assert (answer.status, answer.fields["connection"]) == (405, "close")
    assert client.until_closed() == b""


def test_an_idle_connection_owns_no_greenlet(site):
    here = site()
    clients = [here.client() for _ in range(20)]
    for client in clients:
        assert client.ask("/a.bin").status == 200
    assert here.greenlets() == 0
    assert here.phases() == ["IDLE"] * 20


def test_a_client_with_half_a_head_owns_no_greenlet(site):
    here = site()
    client = here.client()
    client.send(b"GET /a.bin HTTP/1.1\r\n")
    eventually(lambda: here.phases() == ["HEAD"])
    assert here.greenlets() == 0


@pytest.mark.parametrize("seed", range(8))
def test_however_the_bytes_are_cut_the_answers_are_the_same(site, seed):
    here = site()
    client = here.client()
    script = [
        (get("/a.bin"), 200, "/a.bin"),
        (get("/one.bin", "Content-Length: 3") + b"xyz", 200, "/one.bin"),
        (get("/none"), 404, None),
        (get("/one.bin", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n", 200, "/one.bin"),
        (b"\r\n" + get("/b.bin"), 200, "/b.bin"),
    ]
    data = b"".join(part for part, _, _ in script)
    rng = random.Random(seed)
    while data:
        size = rng.choice((1, 2, 3, 7, 50, 500))
        client.send(data[:size])
        data = data[size:]
        gevent.sleep(0)
    for _, status, path in script:
        answer = client.response()
        assert answer.status == status
        assert path is None or answer.body == here.contents[path]
