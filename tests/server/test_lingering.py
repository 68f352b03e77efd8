"""How a connection ends: what the client still sends is read for a while, and not for good."""

from __future__ import annotations

import gevent

from streamcache.server import lingering
from tests.server.client import eventually

SHORT = 0.1


def test_a_lingering_connection_ends(site, monkeypatch):
    monkeypatch.setattr(lingering, "TIME", SHORT)
    here = site(limits={"head_timeout": SHORT})  # so that the ticker is quick
    client = here.client()
    client.send(b"nonsense\r\n\r\n")
    assert client.response().status == 400
    eventually(lambda: here.server.connections == 0)  # and the client has not closed


def test_a_lingering_connection_reads_a_bounded_number_of_bytes(site, monkeypatch):
    monkeypatch.setattr(lingering, "SIZE", 100_000)
    monkeypatch.setattr(lingering, "TIME", 60.0)
    here = site()
    client = here.client()
    client.send(b"nonsense\r\n\r\n")
    assert client.response().status == 400

    def flood():
        while True:
            client.send(b"x" * 65536)

    flooding = gevent.spawn(flood)
    eventually(lambda: here.server.connections == 0)
    flooding.join()
    assert isinstance(flooding.exception, OSError)


def test_a_client_that_resets_a_lingering_connection_ends_it(site):
    here = site()
    client = here.client()
    client.send(b"nonsense\r\n\r\n")
    assert client.response().status == 400
    assert here.phases() == ["LINGERING"]
    client.reset()
    eventually(lambda: here.server.connections == 0)


def test_what_still_comes_is_no_request(site):
    here = site()
    client = here.client()
    client.send(b"nonsense\r\n\r\n")
    assert client.response().status == 400
    client.send(b"GET /a.bin HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.until_closed() == b""
    assert not here.cache.founds and not here.fast
