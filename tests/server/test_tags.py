"""The id of a request ties its answer, its line in the access log and its errors together."""

from __future__ import annotations

import json
import re

import gevent
import pytest

from streamcache.config.log import LogConfig
from streamcache.errors import SourceTimeout, SourceUnavailable
from streamcache.http.headers import Headers
from streamcache.server.tags import HOLE, Tags
from tests.server.client import WAIT, eventually, get
from tests.server.conftest import PLAIN

OURS = re.compile(r"[0-9a-f]{24}")
TIMING = re.compile(
    r'(?:cache;desc=(\w+), )?source;dur=(\d+\.\d), ttfb;dur=(\d+\.\d), request;desc="([^"]+)"'
)
PROXIED = {"access": {"trusted_proxies": "127.0.0.1"}}


@pytest.fixture
def tagged(site, tmp_path):
    """A site that sends ids and times, and a function for (target, id) of its access log."""

    def start(access=None, **log):
        path = tmp_path / "access.log"
        options = {"request_id": True, "server_timing": True, "format": "json", **log}
        here = site(log={"access": str(path), **options}, **({"access": access} if access else {}))

        def lines():
            here.server.stop(timeout=0)
            found = map(json.loads, path.read_text().splitlines())
            return [(each["target"], each["request_id"]) for each in found]

        return here, lines

    return start


def test_ids_are_told_apart_and_have_one_width():
    one, other = Tags(LogConfig(request_id=True)), Tags(LogConfig(request_id=True))
    made = [tags.make() for tags in (one, other) for _ in range(1000)]
    assert len(set(made)) == 2000
    assert all(OURS.fullmatch(each) and len(each) == len(HOLE) for each in made)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["7f3a"], True),
        (["Root=1-67891233-abcdef012345678912345678"], True),
        (["3fa85f64-5717-4562-b3fc-2c963f66afa6"], True),
        (["x" * 128], True),
        (["x" * 129], False),
        ([""], False),
        (["a b"], False),
        (['a"b'], False),
        (["a\x1b[2J"], False),
        (["a;b"], False),
        (["caf\xe9"], False),
        (["$(id)"], False),
        (["a", "b"], False),
        ([], False),
    ],
)
def test_only_one_harmless_id_is_taken(given, taken):
    tags = Tags(LogConfig(request_id=True))
    found = tags.of(Headers([("x-request-id", value) for value in given]))
    assert found == given[0] if taken else OURS.fullmatch(found)


def test_without_an_option_there_is_no_id():
    tags = Tags(LogConfig())
    assert tags.of(Headers([("x-request-id", "a")])) == "-"
    assert tags.fields("c", "hit", "-", 0.0, 0.0) == (("Cache-Status", "c"),)


@pytest.mark.parametrize(
    ("options", "fields", "logged"),
    [
        ({"request_id": True}, {"x-request-id"}, True),
        ({"server_timing": True}, {"server-timing"}, True),
        ({"fields": "status, request_id, target"}, set(), True),
        ({}, set(), False),
    ],
)
def test_what_is_sent_and_logged_is_what_was_asked_for(site, tmp_path, options, fields, logged):
    here = site(log={"access": str(tmp_path / "log"), "format": "json", **options})
    answer = here.client().ask("/a.bin")
    here.server.stop(timeout=0)
    assert {"x-request-id", "server-timing"} & set(answer.fields) == fields
    assert ("request_id" in json.loads((tmp_path / "log").read_text())) is logged


def test_every_answer_has_the_id_of_its_line(tagged, path_taken):
    here, lines = tagged()
    client = here.client()
    ids = []
    for target in ("/a.bin", "/one.bin", "/a.bin", "/one.bin", "/big.bin", "/none", "/empty.bin"):
        for fields in ([], ["Range: bytes=0-0"]):
            answer = client.ask(target, *fields)
            if answer.status < 300 and not fields:
                assert answer.body == here.contents[target]
            cache, source, ttfb, named = TIMING.fullmatch(answer.fields["server-timing"]).groups()
            assert named == answer.fields["x-request-id"]
            assert 0 <= float(source) <= float(ttfb)
            assert cache == ("miss" if target == "/none" else "hit")
            ids.append((target, named))
    client.send(b"nonsense\r\n\r\n")
    refused = client.response()
    assert TIMING.fullmatch(refused.fields["server-timing"])[1] is None
    ids.append(("nonsense", refused.fields["x-request-id"]))
    assert here.fast == (9 if path_taken != "slow" else 0)
    assert len({name for _, name in ids}) == len(ids)
    assert lines() == ids


def test_a_file_that_has_what_stands_for_an_id_is_served_as_it_is(tagged, root):
    body = HOLE.encode() * 3
    (root / "odd.bin").write_bytes(body)
    here, _ = tagged()
    client = here.client()
    for _ in range(2):
        assert client.ask("/odd.bin").body == body
    assert client.ask("/odd.bin", "Range: bytes=2-40").body == body[2:41]


def test_the_id_of_a_trusted_proxy_is_kept_and_a_strangers_is_not(tagged):
    here, lines = tagged({"trusted_proxies": "127.0.0.1"})
    client = here.client()
    assert client.ask("/a.bin", "X-Request-ID: abc-1").fields["x-request-id"] == "abc-1"
    made = client.ask("/a.bin", "X-Request-ID: a b").fields["x-request-id"]
    assert OURS.fullmatch(made)
    assert lines() == [("/a.bin", "abc-1"), ("/a.bin", made)]


def test_the_id_of_a_stranger_is_not_kept(tagged):
    for access in (None, {"trusted_proxies": "192.0.2.1"}):
        here, _ = tagged(access)
        client = here.client()
        for _ in range(3):
            found = client.ask("/a.bin", "X-Request-ID: abc-1").fields["x-request-id"]
            assert OURS.fullmatch(found)


def test_lines_about_errors_have_the_id(tagged, caplog, monkeypatch):
    """Before there is an answer, while it is sent, and a fault of ours."""
    here, lines = tagged({"trusted_proxies": "127.0.0.1"})
    here.cache.find_error = SourceTimeout("no answer")
    client = here.client()
    assert client.ask("/a.bin", "X-Request-ID: late-1").status == 504
    here.cache.find_error = ZeroDivisionError()
    assert client.ask("/a.bin", "X-Request-ID: fault-1").status == 500
    here.cache.find_error = None
    here.cache.gate("/b.bin", 400).fail(SourceUnavailable(5, "EIO"))
    client.send(get("/b.bin", "X-Request-ID: cut-1"))
    client.until_closed()
    eventually(lambda: "cut short" in caplog.text)
    client = here.client()
    here.cache.gate("/a.bin", 0).fail(SourceUnavailable(5, "EIO"))
    assert client.ask("/a.bin", "X-Request-ID: first-1").status == 503
    monkeypatch.setattr(here.server._service.handler, "respond", lambda *_: 1 // 0)
    client.send(get("/one.bin", "X-Request-ID: bug-1"))
    client.until_closed()
    said = [record.getMessage() for record in caplog.records if "request_id=" in record.msg]
    assert [re.search(r"request_id=(\S+)", text)[1] for text in said] == [
        *("late-1", "fault-1", "cut-1", "first-1", "bug-1"),
    ]
    assert said[0] == "request failed path='/a.bin' status=504 request_id=late-1 error=no answer"
    form = "response cut short path='/b.bin' client=127.0.0.1 request_id=cut-1 error="
    assert said[2].startswith(form)
    assert said[4] == "request failed path='/one.bin' client=127.0.0.1 request_id=bug-1"
    names = [name for _, name in lines()]
    assert names == ["late-1", "fault-1", "cut-1", "first-1"]


def test_an_error_of_the_embedder_has_the_id(site, caplog):
    here = site(authorize=lambda _: 1 // 0, log={"access": "off", "request_id": True})
    answer = here.client().ask("/a.bin")
    assert answer.status == 500
    name = answer.fields["x-request-id"]
    assert f"authorize() failed path='/a.bin' request_id={name}" in caplog.text


def test_a_fault_in_the_hub_has_the_id(site, monkeypatch, caplog, path_taken):
    here = site(log={"access": "off", "request_id": True})
    client = here.client()
    monkeypatch.setattr(here.cache, "delivered", lambda *_: 1 // 0)
    client.send(get("/a.bin"))
    name = client.response().fields["x-request-id"]
    assert (f"request failed client=127.0.0.1 request_id={name}" in caplog.text) is (
        path_taken != "slow"
    )


@PLAIN
def test_the_rest_of_a_short_send_has_the_id_of_its_beginning(tagged):
    here, lines = tagged()
    client = here.client(receive_buffer=4096)
    eventually(lambda: here.server.connections == 1)
    (connection,) = here.server._connections
    connection._transport._socket.setsockopt(1, 7, 4096)  # SO_SNDBUF
    client.send(get("/big.bin", "Range: bytes=0-131071"))
    head = client.head()
    client.body(131_072)
    assert lines() == [("/big.bin", head.fields["x-request-id"])]


def test_the_wait_for_the_first_bytes_is_in_server_timing(tagged):
    here, _ = tagged()
    gate = here.cache.gate("/a.bin")
    client = here.client()
    client.send(get("/a.bin"))
    assert gate.waiting.wait(WAIT)
    gevent.sleep(0.01)
    gate.release(1000)
    answer = client.response()
    assert answer.body == here.contents["/a.bin"]
    _, source, ttfb, name = TIMING.fullmatch(answer.fields["server-timing"]).groups()
    assert 10 <= float(source) <= float(ttfb)
    assert name == answer.fields["x-request-id"]
