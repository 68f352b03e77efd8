"""The fast path: that it is taken, that nobody can tell, and that it stays within its bounds."""

from __future__ import annotations

import os
import re

import gevent
import pytest

from streamcache.config.log import FIELDS
from streamcache.server import fastpath, heads
from streamcache.server.transport import SocketTransport
from tests.http.test_ordinary import HOST, head
from tests.server.client import Client, eventually, get


@pytest.fixture
def path_taken() -> str:
    return "fast"


def both(site, **sections):
    """The same server twice: with the fast path, and without it."""
    fast, slow = site(**sections), site(**sections)
    slow.server._service.fast = None
    return fast, slow


def said(here, data: bytes) -> bytes:
    """All bytes of the answers to these, but for the date; the connection is ended behind them."""
    client = here.client()
    client.send(data)
    client.half_close()
    answer = client.until_closed()
    return re.sub(rb"\r\nDate: [^\r]*", b"", answer)


ORDINARY = [
    get("/a.bin"),
    get("/b.bin"),
    get("/one.bin?query"),
    get("/a%2ebin"),
    get("/x/../a.bin", "User-Agent: x", "Referer: y"),
    get("/a.bin", "Range: bytes=0-0"),
    get("/b.bin", "Range: bytes=69999-"),
    get("/b.bin", "Range: bytes=10-99999", "Accept: */*"),
    get("/big.bin", "Range: bytes=1000000-1065535"),
    get("/a.bin", version="1.7"),
]
OTHERS = [
    get("/big.bin"),
    get("/empty.bin"),
    get("/none"),
    get("/a.bin/"),
    get("/a.bin", method="HEAD"),
    get("/a.bin", method="POST"),
    get("/a.bin", version="1.0"),
    get("/a.bin", "Connection: close"),
    get("/a.bin", "Range: bytes=0-1,5-6"),
    get("/a.bin", "Range: bytes=-7"),
    get("/a.bin", "Range: bytes=1000-"),
    get("/a.bin", "Range: bytes=7-3"),
    get("/a.bin", "Range: bytes=0-1", "Range: bytes=0-1"),
    get("/a.bin", "range: bytes=0-1"),
    get("/a.bin", 'If-None-Match: "x"'),
    get("/a.bin", 'If-Range: "x"', "Range: bytes=0-1"),
    get("/a.bin", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"),
    get("/a.bin", "Content-Length: 2") + b"ab",
    get("/a.bin", "Host: second"),
    get("/a.bin", "X y"),
    b"\r\n" + get("/a.bin"),
    get("/a.bin") + get("/b.bin", "Range: bytes=3-4"),
    get("/a.bin") + b"Range: bytes=3-4\r\n",
    head(HOST, " folded"),
    head(line="GET /a.bin HTTP/1.1"),
]


@pytest.mark.parametrize("data", ORDINARY + OTHERS)
def test_both_paths_say_the_same_bytes(site, data):
    fast, slow = both(site)
    answer = said(fast, data)
    assert answer == said(slow, data)
    assert answer.startswith(b"HTTP/1.1 ")
    assert said(fast, data) == answer  # what is kept of the first is good for the second
    assert fast.fast == (2 if data in ORDINARY else 0)
    assert fast.cache.clients == 2 * slow.cache.clients
    counted = [each.delivered for each in fast.cache.delegates]
    assert counted == 2 * [each.delivered for each in slow.cache.delegates]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"format": "json"},
        {"fields": ""},
        {"fields": "host, ttfb, range, pid, worker, outcome"},
        {"fields": ", ".join(FIELDS), "format": "json"},
        {"fields": ", ".join(FIELDS)},
    ],
)
def test_both_paths_log_the_same_line(site, tmp_path, options):
    lines = []
    for name in ("fast", "slow"):
        here = site(log={"access": str(tmp_path / name), **options})
        if name == "slow":
            here.server._service.fast = None
        for data in ORDINARY:
            said(here, data.replace(b"Referer: y", b'Referer: a"\\\xe9'))
        assert here.fast == (len(ORDINARY) if name == "fast" else 0)
        here.server.stop(timeout=0)
        text = (tmp_path / name).read_text()
        text = re.sub(r"\d\d/\w{3}/\d{4}:[\d:]{8}|\d{4}-\d\d-\d\dT[\d:]{8}Z", "TIME", text)
        text = re.sub(r"\b[0-9a-f]{24}\b", "ID", text)
        lines.append(re.sub(r"\b0\.\d{1,3}\b", "0.0", text).splitlines())
    assert lines[0] == lines[1]
    assert len(lines[0]) == len(ORDINARY)
    assert len(set(lines[0])) > 5


def test_a_connection_owns_no_greenlet_while_it_is_answered(site, monkeypatch):
    here = site()
    monkeypatch.setattr("streamcache.server.connection.greenlet", None)
    client = here.client()
    for _ in range(5):
        assert client.ask("/a.bin").body == here.contents["/a.bin"]
    assert here.fast == 5


def test_a_file_that_is_not_hot_goes_the_complete_way(site):
    here = site()
    here.cache.gate("/a.bin", 1 << 30)
    assert here.client().ask("/a.bin").body == here.contents["/a.bin"]
    assert here.fast == 0


@pytest.mark.parametrize("call", ["send", "sendfile"])
@pytest.mark.parametrize("most", [0, 1, 100, 400, 1000, 5000])
@pytest.mark.parametrize(("first", "last"), [(0, 69_999), (5, 60_000), (7, 10_000)])
def test_the_rest_of_a_short_send_follows(site, monkeypatch, tmp_path, first, last, most, call):
    """The first call takes ``most`` bytes, of the head as of the file; 0: it would block."""
    here = site(log={"access": str(tmp_path / "log")})
    client = here.client()
    real, calls = getattr(SocketTransport, call), []

    def short(transport, *args, **options):
        calls.append(args)
        if len(calls) > 1:
            return real(transport, *args, **options)
        if not most:
            return None
        if call == "send":
            return real(transport, args[0][:most], **options)
        return real(transport, *args[:2], min(most, args[2]))

    monkeypatch.setattr(SocketTransport, call, short)
    answer = client.ask("/b.bin", *([f"Range: bytes={first}-{last}"] if first else []))
    assert answer.body == here.contents["/b.bin"][first : last + 1]
    monkeypatch.undo()
    copied = last - first < fastpath.COPIED
    was_short = not copied if call == "sendfile" else most < len(answer.head) + 4 + 10_000 * copied
    assert here.fast == (0 if was_short else 1)
    assert client.ask("/a.bin").status == 200  # and the connection goes on
    assert here.fast == (1 if was_short else 2)
    here.server.stop()
    first_line = (tmp_path / "log").read_text().splitlines()[0]
    assert f" {answer.status} {len(answer.body)} " in first_line
    assert re.search(rf" done {len(answer.body)} 0 0\.\d\d\d$", first_line)
    assert [each.delivered for each in here.cache.delegates] == [len(answer.body), 1000]


LARGE = [
    get("/big.bin"),
    get("/big.bin", "Range: bytes=0-", "User-Agent: x", "Referer: y"),
    get("/big.bin", "Range: bytes=1000-699999"),
    get("/big.bin?query", "Range: bytes=300001-", version="1.7"),
]


@pytest.mark.parametrize("data", LARGE)
def test_a_large_answer_is_begun_at_once_and_nobody_can_tell(site, tmp_path, data):
    here, lines, answers = {}, {}, {}
    for name in ("fast", "slow"):
        here[name] = site(log={"access": str(tmp_path / name), "fields": "host, range, outcome"})
    here["slow"].server._service.fast = None
    fast = here["fast"].server._service.fast
    begun, begin = [], fast._begun

    def counted(*args):
        begun.append(begin(*args))
        return begun[-1]

    fast._begun = counted
    for name, each in here.items():
        answers[name] = said(each, data), said(each, data)
        each.server.stop(timeout=0)
        text = (tmp_path / name).read_text()
        text = re.sub(r"\d\d/\w{3}/\d{4}:[\d:]{8}", "TIME", text)
        lines[name] = re.sub(r"\b0\.\d{3}\b", "0.0", text).splitlines()
    assert answers["fast"] == answers["slow"]
    assert len(answers["fast"][0]) > fastpath.MOST
    assert lines["fast"] == lines["slow"]
    # What fits into the first window may leave whole.
    assert len(lines["fast"]) == len(begun) + here["fast"].fast == 2
    counts = [[each.delivered for each in one.cache.delegates] for one in here.values()]
    assert counts[0] == counts[1]
    assert here["fast"].cache.clients == here["slow"].cache.clients


def test_a_client_that_does_not_take_a_short_sends_rest_is_cut(site):
    here = site(limits={"send_timeout": 0.1})
    client = here.client(receive_buffer=4096)
    (connection,) = _accepted(here)
    connection._transport._socket.setsockopt(1, 7, 4096)  # SO_SNDBUF
    client.send(get("/big.bin", "Range: bytes=0-131071"))
    assert client.head().status == 206
    eventually(lambda: here.server.connections == 0)
    assert here.cache.delegates[0].closed.is_set()
    assert 0 < here.cache.delegates[0].delivered < 131072


def _accepted(here):
    eventually(lambda: here.server.connections == 1)
    return here.server._connections


def test_a_client_that_is_gone_is_logged_and_counted(site, monkeypatch, tmp_path):
    here = site(log={"access": str(tmp_path / "log")})

    def gone(transport, data, *, more=False):
        raise ConnectionResetError

    monkeypatch.setattr(SocketTransport, "send", gone)
    here.client().send(get("/a.bin"))
    eventually(lambda: here.cache.delegates)
    eventually(lambda: here.server.connections == 0)
    here.server.stop()
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert ' 200 0 "-" "-" hit ' in line
    assert line.endswith(" cut 0 0 -")


def test_a_fault_of_ours_ends_that_connection_only(site, monkeypatch, caplog):
    here = site()
    client, other = here.client(), here.client()
    other.ask("/a.bin")
    monkeypatch.setattr(here.cache, "delivered", lambda *_: 1 // 0)
    client.send(get("/a.bin"))
    client.response()
    assert client.until_closed() == b""
    assert caplog.text.count("Traceback") == 1
    monkeypatch.undo()
    assert other.ask("/a.bin").status == 200


@pytest.mark.parametrize("room", range(-3, 70, 8))
def test_a_head_at_the_limit_is_judged_alike(site, room):
    data = get("/a.bin", "X: " + "x" * 400, "Range: bytes=0-5")
    fast, slow = both(site, limits={"head_size": len(data) + room})
    assert said(fast, data) == said(slow, data)
    assert said(fast, data) == said(slow, data)


def test_another_version_is_noticed_at_once(site, root):
    here = site()
    file = root / "changing.bin"
    client = here.client()
    tags = set()
    for time, body in enumerate((b"one", b"three", b"x" * 5000, b"two")):
        file.write_bytes(body)
        os.utime(file, (time + 1e9, time + 1e9))
        for fields in ([], ["Range: bytes=1-2"], []):
            answer = client.ask("/changing.bin", *fields)
            assert answer.body == (body[1:3] if fields else body)
        tags.add(answer.fields["etag"])
    assert len(tags) == 4
    assert here.fast == 12
    file.unlink()
    assert client.ask("/changing.bin").status == 404


def test_the_cache_is_asked_once_a_second_or_when_it_has_said_so(site, monkeypatch):
    here = site()
    client, clock = here.client(), here.server._service.clock
    here.server._ticker._timer.stop()
    peeked, peek = [], here.cache.peek

    def counted(path, last=None):
        peeked.append(last)
        found = peek(path, last)
        if found is not None and not found.good_until:
            found.good_until = 1e12
        return found

    monkeypatch.setattr(here.cache, "peek", counted)
    for _ in range(3):
        client.ask("/a.bin")
        client.ask("/a.bin", "Range: bytes=0-1")
    assert len(peeked) == 1
    clock.update(clock.second + 1)
    for _ in range(3):
        client.ask("/a.bin")
    assert len(peeked) == 2
    peeked[1].good_until = 0.0  # something has ended
    client.ask("/a.bin")
    assert len(peeked) == 3
    peeked[1].good_until = 1.0  # long ago
    for _ in range(3):
        client.ask("/a.bin")
    assert len(peeked) == 6
    assert here.fast == 13


def test_the_date_is_that_of_the_clock(site):
    here = site()
    client, clock = here.client(), here.server._service.clock
    for second in (784111777, 1_800_000_000, 1_900_000_000):
        clock.update(second)
        for fields in ([], ["Range: bytes=0-1"]):
            here.server._ticker._timer.stop()  # the real time would come back
            answer = client.ask("/a.bin", *fields)
            assert answer.fields["date"].encode() == clock.date
    assert here.fast == 4  # a file from the future (seen in 1994) is not for the fast path


def test_a_file_from_the_future_has_no_later_date_than_the_answer(site, root):
    here = site()
    (root / "future.bin").write_bytes(b"x")
    os.utime(root / "future.bin", (4e9, 4e9))
    answer = here.client().ask("/future.bin")
    assert answer.fields["last-modified"] == answer.fields["date"]
    assert here.fast == 0


def test_what_is_kept_of_strangers_is_bounded(site, monkeypatch):
    monkeypatch.setattr(heads, "HEADS", 8)
    monkeypatch.setattr(heads, "ONCE", 20)
    here = site()
    client, fast = here.client(), here.server._service.fast
    for number in range(100):
        for _ in range(2):
            client.ask("/a.bin", f"X-Number: {number}")
        assert len(fast._heads.kept) <= 8
        assert len(fast._heads._once) <= 20
    before = len(fast._heads.kept)
    for number in range(100):
        client.ask("/a.bin", f"X-Other: {number}")
    assert len(fast._heads.kept) <= before  # what comes once is not kept
    client.ask("/a.bin", "X-Long: " + "x" * heads.LONGEST)
    assert here.fast == 300


def test_after_stop_began_nothing_is_answered_fast(site):
    here = site()
    gate = here.cache.gate("/big.bin", 1000)
    busy, idle = here.client(), here.client()
    idle.ask("/a.bin")
    busy.send(get("/big.bin"))
    busy.head()
    stopping = gevent.spawn(here.server.stop, 60)
    eventually(lambda: not here.server.started)
    assert here.server._service.fast is None
    assert idle.until_closed() == b""
    busy.send(get("/a.bin"))
    gate.release(1 << 30)
    busy.body(len(here.contents["/big.bin"]))
    assert busy.response().fields["connection"] == "close"  # asked before the end was said
    assert busy.until_closed() == b""
    busy.close()
    stopping.join(5)
    assert stopping.successful()


def test_deadlines_hold_after_a_fast_answer(site):
    here = site(limits={"keepalive_timeout": 0.2, "head_timeout": 0.2})
    idle, dribbling = here.client(), here.client()
    for client in (idle, dribbling):
        client.ask("/a.bin")
    dribbling.send(b"GET /a.bin HT")
    assert dribbling.response().status == 408
    assert idle.until_closed() == b""
    assert here.fast == 2


def test_one_busy_connection_does_not_starve_the_others(site):
    here = site()
    greedy, other = here.client(), here.client()
    greedy.send(get("/a.bin") * 3000)  # pipelined: answered in turns by the complete path

    def drain():
        for _ in range(3000):
            greedy.response()

    draining = gevent.spawn(drain)
    answered_at = []
    for _ in range(5):
        other.ask("/one.bin")
        answered_at.append(draining.ready())
    assert not any(answered_at)
    draining.join(10)
    assert draining.successful()


def test_a_head_in_two_pieces_is_left_to_the_complete_path(site):
    here = site()
    client: Client = here.client()
    data = get("/a.bin", "Range: bytes=0-9")
    for cut in (1, 20, len(data) - 25, len(data) - 4, len(data) - 2, len(data) - 1):
        client.send(data[:cut])
        eventually(lambda: here.phases() == ["HEAD"])
        client.send(data[cut:])
        assert client.response().body == here.contents["/a.bin"][:10]
    assert here.fast == 0
    assert client.ask("/a.bin").status == 200
    assert here.fast == 1
