"""The access log: what is in a line, and that no client can write one."""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcache.cache.delegate import CacheStatus
from streamcache.config.log import FIELDS, LogConfig
from streamcache.errors import SourceUnavailable
from streamcache.server.accesslog import AccessLog
from streamcache.server.clock import Clock
from streamcache.server.logline import Combined, Served, escape, form_of
from streamcache.server.server import StreamCacheServer
from tests.server.client import WAIT, Client, eventually, get
from tests.server.conftest import with_options
from tests.server.fakes import FakeCache, Gate

LINE = re.compile(
    r'(?P<client>\S+) - - \[(?P<time>\d\d/\w{3}/\d{4}:[\d:]{8} \+0000)\] "(?P<request>[^"]*)"'
    r' (?P<status>\d{3}) (?P<bytes>\d+) "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"'
    r' (?P<cache>\S+) (?P<seconds>\d+\.\d{3}) "(?P<range>[^"]*)" (?P<end>done|cut)'
    r" (?P<from_cache>\d+) (?P<from_source>\d+) (?P<ttfb>\d+\.\d{3}|-)"
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
    assert 0 <= float(line.pop("ttfb")) <= float(line.pop("seconds")) < 5
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
        "from_cache": "100",
        "from_source": "0",
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
        ("nonsense", "400", "16", "-"),
    ]


# What is sent, the status, and the line in Combined; then method, target and protocol in JSON.
REFUSED = {
    "an escape that is none": (
        *(b"GET /%zz HTTP/1.1\r\nHost: h\r\nUser-Agent: a\r\n\r\n", 400, "GET /%zz HTTP/1.1"),
        ("GET", "/%zz", "HTTP/1.1"),
    ),
    "a blank in a name": (
        *(b"GET /a b.mp4 HTTP/1.1\r\nHost: h\r\n\r\n", 400, "GET /a b.mp4 HTTP/1.1"),
        ("GET", "/a b.mp4", "HTTP/1.1"),
    ),
    "another version": (
        *(b"GET /a HTTP/2.0\r\nHost: h\r\n\r\n", 505, "GET /a HTTP/2.0"),
        ("GET", "/a", "HTTP/2.0"),
    ),
    "a long target": (
        *(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414, f"GET /{'a' * 1019}..."),
        ("GET", f"/{'a' * 1023}...", "HTTP/1.1"),
    ),
    "a head that is too large": (
        *(b"GET /a HTTP/1.1\r\nA: " + b"b" * 40_000, 431, "GET /a HTTP/1.1"),
        ("GET", "/a", "HTTP/1.1"),
    ),
    "a line that does not end": (
        *(b"GET /" + b"a" * 40_000, 414, f"GET /{'a' * 1019}..."),
        ("GET", f"/{'a' * 1023}...", None),
    ),
    "a head that is too slow": (b"GET /slow", 408, "GET /slow", ("GET", "/slow", None)),
    "another protocol": (
        *(b'\x16\x03\x01"\\\x1b[2J\x9b\x7f', 400, r"\x16\x03\x01\x22\x5c\x1b[2J\x9b\x7f"),
        (None, '\x16\x03\x01"\\\x1b[2J\\x9b\x7f', None),
    ),
    "a line of the log": (
        *(b'" 200 1 "-" "-"\r\n\r\n', 400, r"\x22 200 1 \x22-\x22 \x22-\x22"),
        (None, '" 200 1 "-" "-"', None),
    ),
    "only ends of lines": (b"\r\n" * 20, 400, "-", (None, None, None)),
}


@pytest.mark.parametrize(("sent", "status", "line", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("form", ["combined", "json"])
def test_the_line_of_what_is_refused_has_what_was_read(logs, form, sent, status, line, words):
    here, lines = logs(format=form, fields=",".join(FIELDS))
    client = here.client()
    client.send(sent)
    assert client.response().status == status
    (logged,) = lines()
    assert logged.isascii()
    assert logged.isprintable()
    if form == "combined":
        assert f' "{line}" {status} ' in logged
        assert ' "-" "-" ' in logged  # neither Referer nor User-Agent
        return
    (one,) = objects([logged])
    assert (one["method"], one["target"], one["protocol"]) == words
    assert one["status"] == status
    assert {one[name] for name in ("referer", "user_agent", "range", "host")} == {None}


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
    assert line["ttfb"] == "-"


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
    log = AccessLog(LogConfig(access="off"), Clock())
    log.add("x\n")
    for each in (log.flush, log.reopen, log.close):
        each()
    assert not log.enabled
    assert repr(log) == "<AccessLog off>"


def test_ipv6_and_unix_clients(site, tmp_path):
    served = Served("::1", "GET", "/", "HTTP/1.1", "/", 200, 1, "hit", whole=True)
    line = Combined(LogConfig(), "").line(served, Clock())
    assert LINE.fullmatch(line.rstrip("\n"))["client"] == "::1"
    path = tmp_path / "log"
    here = site(f"unix:{tmp_path / 's'}", log={"access": str(path)})
    here.client().ask("/a.bin")
    here.server.stop(timeout=0)
    assert path.read_text().startswith("unix - - [")


# -- fields and forms


@pytest.fixture
def logs(site, tmp_path):
    """``logs(fields=..., format=...)``: a site, and a function for its lines, which stops it."""

    def start(**options):
        path = tmp_path / "fields.log"
        here = site(log={"access": str(path), **options}, limits={"head_timeout": 0.1})

        def lines():
            here.server.stop(timeout=0)
            return path.read_text().splitlines()

        return here, lines

    return start


def objects(lines):
    """JSON objects, strictly: no constants that JSON does not have, no name twice."""

    def once(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return [json.loads(line, parse_constant=pytest.fail, object_pairs_hook=once) for line in lines]


ASKED = ["Referer: http://x/", "User-Agent: player/1", "Range: bytes=0-99"]
EXPECTED = {
    "client": "127.0.0.1",
    "user": None,
    "method": "GET",
    "target": "/b.bin?t=1",
    "protocol": "HTTP/1.1",
    "status": 206,
    "bytes": 100,
    "referer": "http://x/",
    "user_agent": "player/1",
    "cache": "hit",
    "range": "bytes=0-99",
    "outcome": "done",
    "bytes_cache": 100,
    "bytes_source": 0,
    "host": "h",
    "pid": os.getpid(),
    "worker": None,
}


def test_a_json_line_has_every_field(logs):
    here, lines = logs(format="json", fields=",".join(FIELDS))
    here.client().ask("/b.bin?t=1", *ASKED)
    other = here.client()
    other.send(b"nonsense\r\n\r\n")
    other.response()
    one, refused = objects(lines())
    assert list(one) == list(FIELDS)
    when = datetime.datetime.fromisoformat(one.pop("time"))
    assert abs((datetime.datetime.now(datetime.UTC) - when).total_seconds()) < 60
    assert 0 <= one.pop("ttfb") <= one.pop("seconds") < 5
    assert one.pop("request_id") != refused["request_id"]
    assert one == EXPECTED
    assert {name for name, value in refused.items() if value is None} == {
        *("user", "method", "protocol", "referer", "user_agent", "cache", "range"),
        *("host", "worker"),
    }
    assert refused["target"] == "nonsense"
    assert (refused["status"], refused["bytes"]) == (400, 16)


@pytest.mark.parametrize("path_taken", ["fast"], indirect=True)
@pytest.mark.parametrize("name", FIELDS)
def test_each_field_alone_in_both_forms(logs, name):
    here, lines = logs(format="json", fields=name)
    here.client().ask("/b.bin?t=1", *ASKED)
    (one,) = objects(lines())
    assert list(one) == [name]
    served = Served(
        *("192.0.2.1", "GET", "/b.bin?t=1", "HTTP/1.1", "/b.bin", 206, 100, "miss"),
        whole=True,
        host="h",
        range="bytes=0-99",
        seconds=2.0,
        ttfb=0.25,
        bytes_cache=60,
        bytes_source=40,
        request_id="7f-1",
    )
    behind = {
        "cache": " miss", "seconds": " 2.000", "range": ' "bytes=0-99"', "outcome": " done",
        "bytes_cache": " 60", "bytes_source": " 40", "ttfb": " 0.250", "host": ' "h"',
        "pid": f" {os.getpid()}", "worker": " w7", "request_id": " 7f-1",
    }  # fmt: skip
    line = Combined(LogConfig(fields=name), "w7").line(served, Clock())
    head, _, rest = line.partition("] ")
    assert head.startswith("192.0.2.1 - - [")
    assert rest == f'"GET /b.bin?t=1 HTTP/1.1" 206 100 "-" "-"{behind.get(name, "")}\n'


def test_the_fields_of_combined_stay_first_whatever_is_selected(logs):
    here, lines = logs(fields="status, host, outcome")
    here.client().ask("/a.bin", method="HEAD")
    (line,) = lines()
    assert line.endswith(' "HEAD /a.bin HTTP/1.1" 200 0 "-" "-" "h" done')


def test_bytes_are_told_apart_by_whether_they_were_there(logs):
    here, lines = logs(format="json", fields="bytes, bytes_cache, bytes_source, ttfb, seconds")
    gate = here.cache.gate("/b.bin", 10_000)
    client = here.client()
    client.send(get("/b.bin"))
    client.body(10_000)
    gate.release(70_000)
    client.body(60_000)
    (one,) = objects(lines())
    assert (one["bytes"], one["bytes_cache"], one["bytes_source"]) == (70_000, 10_000, 60_000)
    assert one["ttfb"] <= one["seconds"]


NASTY = [
    b'say "hi"', b"back\\slash", b"\xff\xfe", "caf\u00e9 \u65e5".encode(), b"tab\there",
    b"\xe2\x80\xae", b"\xc2\x9b31m", b"\xf0\x9f\x8e\xac", b"-", b"x" * 3000, b"</script>",
    b"%s%d{}",
]  # fmt: skip


@pytest.mark.parametrize("path_taken", ["fast", "slow"], indirect=True)
@pytest.mark.parametrize("value", NASTY)
@pytest.mark.parametrize("form", ["json", "combined"])
def test_no_client_can_forge_or_break_a_line_of_any_form(logs, form, value):
    fields = "user_agent, referer, range, host, outcome"
    here, lines = logs(format=form, fields=fields)
    client = here.client()
    asked = b"GET /a.bin HTTP/1.1\r\nHost: h\r\nUser-Agent: %b\r\nReferer: %b\r\nRange: %b\r\n\r\n"
    for _ in range(2):
        client.send(asked % (value, value, value))
        client.response()
    found = lines()
    assert len(found) == 2
    assert all(line.isascii() and line.isprintable() for line in found)
    if form == "json":
        for one in objects(found):
            assert one["user_agent"] == one["referer"] == one["range"]
            assert one["outcome"] == "done"
            text = value.decode("utf-8", "backslashreplace")
            cut = text if len(text) <= 1024 else text[:1024] + "..."
            assert one["referer"] == (None if text == "-" else cut)
    else:
        assert all(len(shlex.split(line)) == 13 for line in found)


def test_a_control_byte_in_a_request_line_is_refused_and_escaped_in_the_log(logs):
    here, lines = logs(format="json", fields="target, status")
    client = here.client()
    client.send(b"GET /\x7f\x1b[2J HTTP/1.1\r\nHost: h\r\n\r\n")
    client.until_closed()
    (line,) = lines()
    assert line == r'{"target":"/\u007f\u001b[2J","status":400}'


def test_the_name_of_a_worker_is_in_its_lines(root, tmp_path):
    config = with_options(
        log={"access": str(tmp_path / "log"), "format": "json", "fields": "worker"}
    )
    cache = FakeCache(root, config)
    with StreamCacheServer("127.0.0.1:0", cache, worker="w3") as server:
        client = Client(server.address)
        client.ask("/a.bin")
        client.close()
    cache.close()
    assert (tmp_path / "log").read_text() == '{"worker":"w3"}\n'


CLOCK = Clock()
ALL_FIELDS = [
    form_of(LogConfig(format=form, fields=", ".join(FIELDS)), "w1") for form in ("combined", "json")
]


@settings(max_examples=60)
@given(st.text(), st.text(), st.text(st.characters(max_codepoint=255)), st.integers(0, 10**15))
def test_a_line_is_one_line_whatever_is_in_it(user_agent, target, range_, count):
    served = Served(
        *("192.0.2.1", "GET", target or "-", "HTTP/1.1", "/", 200, count, "hit"),
        whole=True,
        user_agent=user_agent or "-",
        range=range_ or "-",
        seconds=count / 7,
    )
    for form in ALL_FIELDS:
        line = form.line(served, CLOCK)
        assert line.isascii()
        assert line[:-1].isprintable()
    (one,) = objects([line])
    assert one["user_agent"] is None or one["user_agent"].encode()  # no half of a pair
    assert one["bytes"] == count
    assert len(shlex.split(ALL_FIELDS[0].line(served, CLOCK))) == 21


def test_every_name_that_is_allowed_can_be_written():
    for form in ("combined", "json"):
        config = LogConfig(fields=", ".join(FIELDS), format=form)
        served = Served("::1", "-", "-", "-", "-", 408, 0, "-", whole=False, ttfb=None)
        assert form_of(config, "").line(served, Clock()).endswith("\n")
