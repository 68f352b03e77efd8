"""Clients that leave, sources that fail: the lease comes back, and nothing is printed."""

from __future__ import annotations

import re

import pytest

from streamcache.errors import SourceChanged, SourceUnavailable
from streamcache.server.connection import Phase
from tests.server.client import WAIT, eventually, get
from tests.server.fakes import Gate


def test_a_client_that_resets_while_it_takes_bytes_releases_the_delegate(site, capfd):
    here = site()
    client = here.client()
    client.send(get("/big.bin"))
    client.body(100_000)
    client.reset()
    assert here.cache.delegates[0].closed.wait(WAIT)
    eventually(lambda: here.server.connections == 0)
    assert capfd.readouterr().err == ""


def test_a_client_that_closes_while_it_takes_bytes_releases_the_delegate(site, capfd):
    here = site()
    client = here.client()
    client.send(get("/big.bin"))
    client.body(100_000)
    client.close()
    assert here.cache.delegates[0].closed.wait(WAIT)
    eventually(lambda: here.server.connections == 0)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("leave", ["reset", "close"])
def test_a_client_that_leaves_before_the_first_cold_byte_is_noticed(site, leave):
    here = site()
    gate = here.cache.gate("/a.bin")
    client = here.client()
    client.send(get("/a.bin"))
    assert gate.waiting.wait(WAIT)
    getattr(client, leave)()
    assert here.cache.delegates[0].closed.wait(1.5)  # and the gate is still shut


@pytest.mark.parametrize("leave", ["reset", "close"])
def test_a_client_that_leaves_between_cold_bytes_is_noticed(site, leave):
    here = site()
    gate = here.cache.gate("/big.bin", 1000)
    client = here.client()
    client.send(get("/big.bin"))
    client.head()
    client.body(1000)
    assert gate.waiting.wait(WAIT)
    getattr(client, leave)()
    assert here.cache.delegates[0].closed.wait(WAIT)


def test_a_client_that_leaves_behind_pipelined_bytes_is_noticed(site):
    here = site()
    gate = here.cache.gate("/a.bin")
    client = here.client()
    client.send(get("/a.bin") + get("/one.bin") * 20)
    assert gate.waiting.wait(WAIT)
    client.close()
    assert here.cache.delegates[0].closed.wait(1.5)


def test_a_client_that_leaves_during_the_lookup_waits_for_no_bytes(site):
    here = site()
    looking = here.cache.find_gate = Gate(0)
    here.cache.gate("/a.bin")
    client = here.client()
    client.send(get("/a.bin"))
    assert looking.waiting.wait(WAIT)
    client.reset()
    eventually(lambda: all(each._ended for each in here.server._connections))
    assert here.server.connections == 1  # the lookup goes on: others may share its result
    looking.release(1)
    eventually(lambda: here.server.connections == 0)


@pytest.mark.parametrize("leave", ["reset", "close"])
def test_a_client_that_leaves_in_its_body_is_no_error_of_the_server(site, tmp_path, leave):
    """Else a stranger could ring the alert that counts 5xx."""
    here = site(log={"access": str(tmp_path / "log")})
    client = here.client()
    client.send(get("/a.bin", "Content-Length: 1000", method="POST") + b"abc")
    eventually(lambda: any(each.phase is Phase.BODY for each in here.server._connections))
    getattr(client, leave)()
    eventually(lambda: here.server.connections == 0)
    answers = here.cache.counters.snapshot()["responses"]["none"]
    assert (answers.counts, answers.cut) == ((0, 0, 1, 0), 1)
    here.server.stop(timeout=0)
    assert re.search(r'"POST /a.bin HTTP/1.1" 400 0 .* cut ', (tmp_path / "log").read_text())


def test_a_server_that_stops_in_a_body_says_that_it_could_not_answer(site, tmp_path):
    here = site(log={"access": str(tmp_path / "log")})
    client = here.client()
    client.send(get("/a.bin", "Content-Length: 1000", method="POST") + b"abc")
    eventually(lambda: any(each.phase is Phase.BODY for each in here.server._connections))
    here.server.stop(timeout=0)
    assert re.search(r'"POST /a.bin HTTP/1.1" 503 0 .* cut ', (tmp_path / "log").read_text())


@pytest.mark.parametrize("error", [SourceUnavailable(5, "EIO"), SourceChanged("rewritten")])
def test_an_error_after_the_head_cuts_the_response_short(site, error, caplog):
    here = site()
    gate = here.cache.gate("/a.bin", 400)
    client = here.client()
    client.send(get("/a.bin"))
    assert client.head().fields["content-length"] == "1000"
    assert client.body(400) == here.contents["/a.bin"][:400]
    gate.fail(error)
    assert client.until_closed() == b""  # no clean end: 600 bytes are missing
    assert here.cache.delegates[0].closed.wait(WAIT)
    assert "response cut short path='/a.bin' client=127.0.0.1 request_id=- error=" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("path_taken", ["fast"], indirect=True)
def test_what_the_fast_path_began_names_its_file_too_when_it_is_cut(site, caplog, monkeypatch):
    here = site()
    take = here.cache.take

    def begun(*args):
        here.cache.gate("/big.bin").fail(SourceChanged("rewritten"))
        return take(*args)

    monkeypatch.setattr(here.cache, "take", begun)
    client = here.client()
    client.send(get("/big.bin"))
    client.until_closed()
    assert "response cut short path='/big.bin' client=127.0.0.1 request_id=- error=" in caplog.text


def test_a_file_that_ends_early_cuts_the_response_short(site, caplog, root):
    here = site()
    (root / "shrinking.bin").write_bytes(b"x" * 1000)
    gate = here.cache.gate("/shrinking.bin")
    client = here.client()
    client.send(get("/shrinking.bin"))
    assert gate.waiting.wait(WAIT)
    (root / "shrinking.bin").write_bytes(b"x" * 300)
    gate.release(1000)
    client.head()
    assert client.until_closed() == b"x" * 300
    assert "cut short" in caplog.text


def test_the_next_request_on_a_cut_connection_is_not_served(site):
    here = site()
    gate = here.cache.gate("/a.bin", 400)
    client = here.client()
    client.send(get("/a.bin") + get("/one.bin"))
    client.head()
    gate.fail(SourceUnavailable(5, "EIO"))
    with pytest.raises((EOFError, ConnectionResetError)):
        client.body(1000)
