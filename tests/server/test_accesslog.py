"""The access log: what is in a line, and that no client can write one."""

from __future__ import annotations

import re

import pytest

from streamcache.cache.delegate import CacheStatus
from streamcache.errors import SourceUnavailable
from streamcache.server.accesslog import AccessLog, escape, log_line
from tests.server.client import WAIT, eventually, get
from tests.server.fakes import Gate

LINE = re.compile(
    r'(?P<client>\S+) - - \[(?P<time>\d\d/\w{3}/\d{4}:[\d:]{8} \+0000)\] "(?P<request>[^"]*)"'
    r' (?P<status>\d{3}) (?P<bytes>\d+) "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"'
    r' (?P<cache>\S+) (?P<seconds>\d+\.\d{3}) "(?P<range>[^"]*)" (?P<end>done|cut)'
)


@pytest.fixture
def logged(site, tmp_path):
    """A site, and a function for the fields of all lines so far."""
    path = tmp_path / "access.log"
    here = site(log={"access": str(path)}, limits={"head_timeout": 0.1})

    def lines(count=1):
        eventually(lambda: path.read_text().count("\n") >= count)
        found = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
        assert all(found), path.read_text()
        return [match.groupdict() for match in found]

    return here, lines


def test_a_line_has_all_fields(logged):
    here, lines = logged
    here.cache.status = CacheStatus.MISS
    fields = ["Referer: http://x/", "User-Agent: player/1", "Range: bytes=0-99"]
    here.client().ask("/b.bin?t=1", *fields)
    (line,) = lines()
    assert float(line.pop("seconds")) < 5
    assert line.pop("time")
    assert line == {
        "client": "127.0.0.1",
        "request": "GET /b.bin?t=1 HTTP/1.1",
        "status": "206",
        "bytes": "100",
        "referer": "http://x/",
        "agent": "player/1",
        "cache": "miss",
        "range": "bytes=0-99",
        "end": "done",
    }


def test_every_kind_of_answer_is_logged(logged):
    here, lines = logged
    client = here.client()
    tag = client.ask("/a.bin", method="HEAD").fields["etag"]
    client.ask("/a.bin", f"If-None-Match: {tag}")
    client.ask("/none")
    client.ask("/a.bin", method="DELETE")
    client.send(b"nonsense\r\n\r\n")
    client.response()
    seen = [(x["request"], x["status"], x["bytes"], x["cache"]) for x in lines(5)]
    assert seen == [
        ("HEAD /a.bin HTTP/1.1", "200", "0", "hit"),
        ("GET /a.bin HTTP/1.1", "304", "0", "hit"),
        ("GET /none HTTP/1.1", "404", "14", "miss"),
        ("DELETE /a.bin HTTP/1.1", "405", "23", "-"),
        ("-", "400", "16", "-"),
    ]


def test_an_interrupted_response_is_logged_with_the_bytes_that_left(logged):
    here, lines = logged
    here.cache.gate("/a.bin", 400).fail(SourceUnavailable(5, "EIO"))
    client = here.client()
    client.send(get("/a.bin"))
    client.until_closed()
    (line,) = lines()
    assert (line["status"], line["bytes"], line["end"]) == ("200", "400", "cut")


def test_a_client_that_leaves_is_logged(logged):
    here, lines = logged
    client = here.client()
    client.send(get("/big.bin"))
    client.body(100_000)
    client.reset()
    assert here.cache.delegates[0].closed.wait(WAIT)
    (line,) = lines()
    assert line["end"] == "cut"
    assert int(line["bytes"]) == here.cache.delegates[0].delivered


def test_a_request_that_is_cut_before_it_has_an_answer_is_logged(logged):
    here, lines = logged
    looking = here.cache.find_gate = Gate(0)
    here.client().send(get("/a.bin"))
    assert looking.waiting.wait(WAIT)
    here.server.stop(timeout=0)
    (line,) = lines()
    assert (line["request"], line["bytes"], line["end"]) == ("GET /a.bin HTTP/1.1", "0", "cut")


@pytest.mark.parametrize(
    "value", ['" 200 0 "-" "-"', "a\\", "\x1b[2J", "caf\xe9", "tab\there", "\x7f", "\x80\x9f\xff"]
)
def test_no_client_can_forge_or_break_a_line(logged, value):
    here, lines = logged
    client = here.client()
    client.send(get("/a.bin", f"User-Agent: {value}", f"Referer: {value}"))
    client.response()
    (line,) = lines()  # exactly one, and it parses
    assert line["client"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain/1.0 (x; y)", "plain/1.0 (x; y)"),
        ('say "hi"', r"say \x22hi\x22"),
        ("back\\slash", r"back\x5cslash"),
        ("a\r\nb", r"a\x0d\x0ab"),
        ("\x00\x1b\x7f", r"\x00\x1b\x7f"),
        ("\xe9", r"\xe9"),
        ("\udce9", r"\xe9"),
        ("\u65e5", r"\u{65e5}"),
    ],
)
def test_escape(text, escaped):
    assert escape(text) == escaped


@pytest.mark.parametrize("text", ["\udcff" * 40_000, "x" * 40_000, '"' * 40_000])
def test_what_strangers_write_is_cut(text):
    assert escape(text)[:1024] == escape(text[:1024])[:1024]
    assert len(escape(text)) == 1027
    assert escape(text).endswith("...")


def test_off_keeps_nothing():
    log = AccessLog("off")
    log.add("x\n")
    for each in (log.flush, log.reopen, log.close):
        each()
    assert not log.enabled
    assert repr(log) == "<AccessLog off>"


def test_ipv6_and_unix_clients(site, tmp_path):
    rest = ("GET / HTTP/1.1", 200, 1, "-", "-", "hit", "0.000", "-", "done")
    line = log_line("::1", "10/Oct/2026:13:55:36 +0000", *rest)
    assert LINE.fullmatch(line.rstrip("\n"))["client"] == "::1"
    path = tmp_path / "log"
    here = site(f"unix:{tmp_path / 's'}", log={"access": str(path)})
    here.client().ask("/a.bin")
    here.server.stop()
    assert path.read_text().startswith("unix - - [")
