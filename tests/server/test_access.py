"""Who is let in, over real connections, with the fast path and without it."""

from __future__ import annotations

import base64
import importlib
import os
import re
import threading
import time
from pathlib import Path

import gevent
import pytest

from streamcache.access.authorize import AccessRequest, Answer
from streamcache.access.signing import Keys, in_path, sign
from streamcache.errors import ConfigError
from streamcache.server import admission
from streamcache.server.server import StreamCacheServer
from tests.requirements import missing
from tests.server.client import Client, eventually, get
from tests.server.conftest import with_options
from tests.server.fakes import FakeCache

KEY = b"k1 " + b"5a" * 32 + b"\n"
LATER = int(time.time()) + 3600
BEFORE = int(time.time()) - 1
HIT = "streamcache; hit"
NOT_ASKED = "streamcache"


@pytest.fixture(params=["fast", "slow"])
def path_taken(request: pytest.FixtureRequest) -> str:
    """Not over TLS: what is decided here knows nothing of it."""
    return request.param


@pytest.fixture
def keys(tmp_path: Path) -> str:
    (tmp_path / "keys").write_bytes(KEY)
    return os.fspath(tmp_path / "keys")


@pytest.fixture
def users(tmp_path: Path) -> str:
    try:
        bcrypt = importlib.import_module("bcrypt")
    except ImportError:
        missing("the extra auth is not installed (pip install bcrypt)")
    (tmp_path / "users").write_bytes(b"anna:" + bcrypt.hashpw(b"right", bcrypt.gensalt(4)) + b"\n")
    return os.fspath(tmp_path / "users")


def basic(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def granted(path: str, expires: int = LATER) -> str:
    return f"{path}?grant={sign(Keys.parse(KEY), path, expires)}"


def below(folder: str, path: str, expires: int = LATER) -> str:
    return in_path(sign(Keys.parse(KEY), folder, expires, folder=True), path)


class Slow:
    """Holds the worker thread of each hash until it is let go, and counts them."""

    def __init__(self, site) -> None:
        self.began: list[bytes] = []
        self.go = threading.Event()
        access = site.server._service.admission._access
        self._check = access.check
        access.check = self

    def __call__(self, credentials):
        self.began.append(credentials.user)
        assert self.go.wait(10)
        return self._check(credentials)


def log_of(site, path: Path) -> list[str]:
    site.close_clients()
    site.server.stop(timeout=0)
    return path.read_text().splitlines()


# -- networks


@pytest.mark.parametrize(
    ("rules", "status"),
    [
        ("allow 127.0.0.0/8", 200),
        ("allow 192.0.2.0/24", 403),
        ("deny 127.0.0.1, allow all", 403),
        ("deny 192.0.2.0/24", 200),
        ("allow unix", 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_networks(site, rules: str, status: int, method: str) -> None:
    here = site(access={"networks": rules})
    answer = here.client().ask("/a.bin", method=method)
    assert answer.status == (204 if (method, status) == ("OPTIONS", 200) else status)
    if status == 403:
        assert answer.fields["cache-status"] == NOT_ASKED
        assert not here.cache.founds and not here.cache.delegates
        assert method == "HEAD" or answer.body == b"403 Forbidden\n"


def test_networks_leave_the_fast_path_to_whom_they_let_in(site, path_taken: str) -> None:
    here = site(access={"networks": "allow 127.0.0.1"})
    client = here.client()
    for _ in range(3):
        assert client.ask("/a.bin").body == here.contents["/a.bin"]
    assert here.fast == (3 if path_taken == "fast" else 0)
    denied = site(access={"networks": "deny 127.0.0.1"})
    client = denied.client()
    for _ in range(3):
        assert client.ask("/a.bin").status == 403  # the connection goes on
    assert denied.fast == 0


def test_a_unix_socket(site, tmp_path: Path) -> None:
    where = f"unix:{tmp_path / 's'}"
    assert site(where, access={"networks": "allow unix"}).client().ask().status == 200
    where = f"unix:{tmp_path / 't'}"
    assert site(where, access={"networks": "allow 127.0.0.1"}).client().ask().status == 403


def test_an_ipv4_client_of_a_listener_of_ipv6(site, tmp_path: Path) -> None:
    try:
        log = {"access": os.fspath(tmp_path / "log")}
        here = site(("::", 0), access={"networks": "allow 127.0.0.1"}, log=log)
    except OSError:
        pytest.skip("no IPv6 here")
    with Client(("127.0.0.1", here.server.address[1])) as client:
        assert client.ask().status == 200
    with Client(("::1", here.server.address[1])) as client:
        assert client.ask().status == 403
    assert here.cache.clients == ["127.0.0.1"]
    assert [line.split()[0] for line in log_of(here, tmp_path / "log")] == ["127.0.0.1", "::1"]


def test_conditions_and_ranges_are_asked_about_too(site) -> None:
    client = site(access={"networks": "deny all"}).client()
    for field in ("If-None-Match: *", "Range: bytes=0-0", "If-Modified-Since: x"):
        assert client.ask("/a.bin", field).status == 403
    assert client.ask("/none").status == 403  # nobody learns which files there are
    assert client.ask("/a.bin", method="POST").status == 403


def test_who_is_let_in_hears_of_other_errors_as_before(site) -> None:
    here = site(access={"networks": "allow all"})
    assert here.client().ask("/a.bin", method="POST").status == 405
    assert here.client().ask("/none").status == 404
    client = here.client()
    client.send(b"GET /a.bin\r\n\r\n")
    assert client.response().status == 400


def test_the_body_of_who_is_refused_is_not_read(site) -> None:
    client = site(access={"networks": "deny all"}).client()
    client.send(get("/a.bin", "Content-Length: 5", method="POST"))
    answer = client.response()
    assert (answer.status, answer.fields["connection"]) == (403, "close")


# -- behind proxies


def test_only_a_trusted_proxy_says_who_the_client_is(site, tmp_path: Path) -> None:
    log = {"access": os.fspath(tmp_path / "log")}
    rules = {"networks": "allow 192.0.2.0/24", "trusted_proxies": "127.0.0.1"}
    here = site(access=rules, log=log)
    client = here.client()
    assert client.ask("/a.bin", "X-Forwarded-For: 192.0.2.7").status == 200
    assert client.ask("/a.bin", "X-Forwarded-For: 198.51.100.1").status == 403
    assert client.ask("/a.bin", "X-Forwarded-For: 192.0.2.7, 198.51.100.1").status == 403
    assert client.ask("/a.bin", "X-Forwarded-For: nonsense").status == 403
    assert client.ask("/a.bin").status == 403  # the proxy itself
    assert here.fast == 0 and here.cache.clients == ["192.0.2.7"]
    names = [line.split()[0] for line in log_of(here, tmp_path / "log")]
    assert names == ["192.0.2.7", "198.51.100.1", "198.51.100.1", "unknown", "127.0.0.1"]


def test_a_proxy_that_is_let_in_lets_nobody_else_in(site) -> None:
    here = site(access={"networks": "deny 198.51.100.1", "trusted_proxies": "127.0.0.1"})
    client = here.client()
    for _ in range(3):
        assert client.ask("/a.bin").status == 200
        assert client.ask("/a.bin", "X-Forwarded-For: 198.51.100.1").status == 403
    assert here.fast == 0


def test_nobody_else_is_believed(site) -> None:
    rules = {"networks": "allow 192.0.2.0/24", "trusted_proxies": "10.0.0.0/8"}
    client = site(access=rules).client()
    assert client.ask("/a.bin", "X-Forwarded-For: 192.0.2.7").status == 403


# -- signed URLs


def test_a_signed_url_of_a_file(site, keys: str) -> None:
    here = site(access={"keys": keys})
    client = here.client()
    for _ in range(3):
        answer = client.ask(granted("/a.bin"))
        assert (answer.status, answer.body) == (200, here.contents["/a.bin"])
        assert answer.fields["cache-status"] == HIT
    assert client.ask(granted("/a.bin"), "Range: bytes=3-4").body == here.contents["/a.bin"][3:5]
    assert client.ask(granted("/a.bin"), method="HEAD").status == 200
    etag = answer.fields["etag"]
    assert client.ask(granted("/a.bin"), f"If-None-Match: {etag}").status == 304
    assert client.ask("/a.bin", f"If-None-Match: {etag}").status == 403
    assert client.ask("/a.bin").status == 403
    assert client.ask(granted("/a.bin", BEFORE)).status == 403
    assert client.ask(granted("/a.bin").replace("a.bin", "b.bin")).status == 403
    assert client.ask(granted("/a.bin")[:-3] + "AAA").status == 403
    assert client.ask(granted("/none.bin")).status == 404
    assert here.fast == 0


def test_a_grant_ends_while_the_connection_goes_on(site, keys: str, monkeypatch) -> None:
    client = site(access={"keys": keys}).client()
    url = granted("/a.bin")
    assert client.ask(url).status == 200
    monkeypatch.setattr(admission.time, "time", lambda: float(LATER))
    assert client.ask(url).status == 403


def test_a_signed_folder_carries_over_to_what_a_playlist_names(site, keys: str) -> None:
    here = site(access={"keys": keys})
    (here.cache.root / "hls").mkdir(exist_ok=True)
    (here.cache.root / "hls" / "main.m3u8").write_bytes(b"#EXTM3U\n1.ts\n")
    (here.cache.root / "hls" / "1.ts").write_bytes(b"segment")
    client = here.client()
    playlist = below("/hls/", "/hls/main.m3u8")
    answer = client.ask(playlist)
    assert answer.fields["content-type"] == "application/vnd.apple.mpegurl"
    segment = playlist.rpartition("/")[0] + "/" + answer.body.decode().split()[1]
    assert client.ask(segment).body == b"segment"
    assert client.ask(segment.replace("/hls/1.ts", "/a.bin")).status == 403
    assert client.ask(segment.replace("/hls/1.ts", "/hls/../a.bin")).status == 403
    assert client.ask(segment.replace("/hls/1.ts", "/hls/%2e%2e/a.bin")).status == 403
    assert client.ask("/hls/1.ts").status == 403
    assert client.ask(below("/hls/", "/hls/1.ts", BEFORE)).status == 403
    assert [found._path for found in here.cache.founds] == ["/hls/main.m3u8", "/hls/1.ts"]


def test_no_log_lets_anybody_in(site, keys: str, tmp_path: Path) -> None:
    here = site(access={"keys": keys}, log={"access": os.fspath(tmp_path / "log")})
    secret = granted("/a.bin").rpartition(".")[2]
    client = here.client()
    client.ask(granted("/a.bin"), f"Referer: http://h{granted('/a.bin')}")
    client.ask(below("/", "/b.bin"))
    lines = log_of(here, tmp_path / "log")
    assert len(lines) == 2 and " 200 " in lines[0] and " 200 " in lines[1]
    assert secret not in "".join(lines)
    assert not re.search(r"k1\.[A-Za-z0-9_-]{43}", "".join(lines))
    assert f"f.{LATER}.k1." in lines[0]  # which key and until when: that may be known


@pytest.mark.parametrize(
    "line", ["GET {} HTTP/9.9", "GET {} x HTTP/1.1", "GET /%zz{} HTTP/1.1", "\x01GET {}", "{}"]
)
def test_no_line_of_a_refused_request_lets_anybody_in(
    site, keys: str, tmp_path: Path, line: str
) -> None:
    here = site(access={"keys": keys}, log={"access": os.fspath(tmp_path / "log")})
    client = here.client()
    client.send(f"{line.format(granted('/a.bin'))}\r\nHost: h\r\n\r\n".encode())
    client.until_closed()
    (logged,) = log_of(here, tmp_path / "log")
    assert "/a.bin?grant=" in logged
    assert granted("/a.bin").rpartition(".")[2] not in logged


# -- passwords


def test_passwords(site, users: str, tmp_path: Path) -> None:
    log = {"access": os.fspath(tmp_path / "log")}
    here = site(access={"htpasswd": users, "realm": "films"}, log=log)
    client = here.client()
    for fields in ((), ("Authorization: Bearer x",), (basic("anna", "wrong"),)):
        answer = client.ask("/a.bin", *fields)
        assert answer.status == 401
        assert answer.fields["www-authenticate"] == 'Basic realm="films", charset="UTF-8"'
        assert answer.fields["cache-status"] == NOT_ASKED
    assert client.ask("/a.bin", basic("nobody", "right")).status == 401
    assert not here.cache.founds and not here.cache.delegates
    for _ in range(3):
        assert client.ask("/a.bin", basic("anna", "right")).body == here.contents["/a.bin"]
    assert client.ask("/a.bin").status == 401  # a connection is not let in, each request is
    assert client.ask("/a.bin", method="HEAD").status == 401
    assert here.fast == 0
    words = [line.split()[2] for line in log_of(here, tmp_path / "log")]
    assert words == ["-", "-", "-", "-", "anna", "anna", "anna", "-", "-"]


def test_one_hash_for_all_who_wait_and_the_hub_goes_on(site, users: str) -> None:
    here = site(access={"htpasswd": users})
    assert here.client().ask("/a.bin", basic("anna", "right")).status == 200  # remembered
    slow = Slow(here)
    waiting = [here.client() for _ in range(6)]
    for client in waiting:
        client.send(get("/a.bin", basic("anna", "wrong")))
    eventually(lambda: slow.began and here.greenlets() == 6)
    # Its thread is held, and nobody else is.
    assert here.client().ask("/b.bin", basic("anna", "right")).status == 200
    waiting.pop(0).reset()
    slow.go.set()
    assert [client.response().status for client in waiting] == [401] * 5
    assert slow.began == [b"anna"]
    assert waiting[0].ask("/a.bin", basic("anna", "wrong")).status == 401
    assert slow.began == [b"anna"]  # remembered as well


def test_too_many_passwords_at_once(site, users: str, monkeypatch) -> None:
    monkeypatch.setattr(admission, "HASHES_WAITING", 0)
    answer = site(access={"htpasswd": users}).client().ask("/a.bin", basic("anna", "right"))
    assert (answer.status, answer.fields["retry-after"]) == (503, "1")


def test_a_hash_that_takes_too_long(site, users: str, monkeypatch) -> None:
    monkeypatch.setattr(admission, "ASK_WAIT", 0.05)
    here = site(access={"htpasswd": users})
    slow = Slow(here)
    client = here.client()
    assert client.ask("/a.bin", basic("anna", "right")).status == 503
    slow.go.set()
    eventually(lambda: not here.server._service.admission._hashes)
    assert client.ask("/a.bin", basic("anna", "right")).status == 200


def test_the_server_stops_while_a_password_is_looked_at(site, users: str) -> None:
    here = site(access={"htpasswd": users})
    slow = Slow(here)
    client = here.client()
    client.send(get("/a.bin", basic("anna", "right")))
    eventually(lambda: slow.began)
    stopping = gevent.spawn(here.server.stop, timeout=0)
    assert client.until_closed() == b""
    slow.go.set()
    stopping.join()


def test_a_password_or_a_signed_url(site, users: str, keys: str) -> None:
    client = site(access={"htpasswd": users, "keys": keys}).client()
    assert client.ask(granted("/a.bin")).status == 200
    assert client.ask("/a.bin", basic("anna", "right")).status == 200
    assert client.ask("/a.bin").status == 401
    assert client.ask(granted("/a.bin", BEFORE)).status == 403


# -- the embedding program's function


def test_the_embedder_decides(site) -> None:
    asked: list[AccessRequest] = []

    def authorize(request: AccessRequest) -> Answer | str:
        asked.append(request)
        gevent.sleep(0)  # it may switch
        if request.path == "/b.bin":
            return "challenge"
        return Answer.ALLOW if request.path == "/a.bin" else Answer.DENY

    here = site(authorize=authorize)
    client = here.client()
    client.send(get("/a.bin?x=1", "X-Token: t") + get("/one.bin") + get("/b.bin"))
    assert [client.response().status for _ in range(3)] == [200, 403, 401]
    for _ in range(3):
        assert client.ask("/a.bin").status == 200
        assert client.ask("/one.bin").status == 403
    first = asked[0]
    assert (first.method, first.path, first.query) == ("GET", "/a.bin", "x=1")
    assert (first.client, first.user, first.headers.get("x-token")) == ("127.0.0.1", "-", "t")
    assert len(asked) == 9 and here.fast == 0


def test_the_embedder_is_asked_last(site, users: str, keys: str) -> None:
    asked: list[tuple[str, str]] = []

    def authorize(request: AccessRequest) -> str:
        asked.append((request.path, request.user))
        return "allow"

    client = site(authorize=authorize, access={"htpasswd": users, "keys": keys}).client()
    assert client.ask("/a.bin").status == 401
    assert client.ask("/a.bin", basic("anna", "right")).status == 200
    assert client.ask(below("/", "/b.bin")).status == 200
    assert asked == [("/a.bin", "anna"), ("/b.bin", "-")]


@pytest.mark.parametrize("fault", [OSError("db"), ValueError("x"), None])
def test_nobody_gets_in_by_an_error_of_the_embedder(site, fault, caplog) -> None:
    def authorize(request: AccessRequest) -> str:
        if fault is None:
            return "yes"
        raise fault

    here = site(authorize=authorize)
    client = here.client()
    assert client.ask("/a.bin").status == 500
    assert client.ask("/a.bin").status == 500  # the connection goes on
    assert not here.cache.founds
    assert "authorize() failed" in caplog.text


def test_an_embedder_who_never_answers(site, monkeypatch, caplog) -> None:
    monkeypatch.setattr(admission, "ASK_WAIT", 0.05)
    here = site(authorize=lambda request: gevent.sleep(60))
    assert here.client().ask("/a.bin").status == 500


# -- files


@pytest.mark.parametrize("option", ["keys", "htpasswd"])
def test_files_that_cannot_be_used(option: str, root: Path, tmp_path: Path) -> None:
    def problem(path: Path) -> str:
        cache = FakeCache(root, with_options(access={option: os.fspath(path)}))
        server = StreamCacheServer(("127.0.0.1", 0), cache)
        with pytest.raises(ConfigError) as raised:
            server.start()
        assert not server.started
        return str(raised.value)

    assert problem(tmp_path / "none").startswith(f"access.{option}: {tmp_path}/none cannot be read")
    assert "is no regular file" in problem(tmp_path)
    (tmp_path / "bad").write_bytes(b"secret\n")
    assert problem(tmp_path / "bad").startswith(f"access.{option}: line 1: ")
    assert "secret" not in problem(tmp_path / "bad")
    (tmp_path / "large").write_bytes(b"#" * (1 << 20) + b"##")
    assert "too large" in problem(tmp_path / "large")
