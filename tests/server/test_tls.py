"""TLS on the listener: what is served, what a handshake may cost, and certificates that change.

That all of the server's answers are the same over TLS is held by the other modules here, each of
which runs with it too.
"""

from __future__ import annotations

import gc
import os
import ssl
import subprocess
import sys
from pathlib import Path

import gevent
import pytest
from gevent import socket

from streamcache.errors import ConfigError
from streamcache.server.server import StreamCacheServer
from streamcache.server.transport import SocketTransport
from tests.certificates import RSA, Pair, make
from tests.requirements import program
from tests.server.client import WAIT, Client, TlsSocket, eventually, get
from tests.server.conftest import Site, with_options
from tests.server.fakes import FakeCache

NO_HANDSHAKE = "closed without a TLS handshake client=127.0.0.1"


@pytest.fixture
def path_taken() -> str:
    return "tls"


def raw(here: Site) -> Client:
    """A client that speaks no TLS by itself."""
    return Client(here.server.address)


def hello() -> bytes:
    """What a client says first."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="h")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def test_the_url_says_https(site) -> None:
    here = site()
    assert here.server.url == f"https://127.0.0.1:{here.server.address[1]}/"
    (connection,) = (here.client(), *here.server._connections)[1:]
    eventually(lambda: "TLSv1.3" in repr(connection))


def test_both_versions_and_http11_is_what_is_agreed_on(site, pair) -> None:
    here = site()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=pair.certificate)
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        with Client(here.server.address, context=context) as client:
            tls = client.socket._tls
            assert tls.version() == version.name.replace("_", ".")
            assert tls.selected_alpn_protocol() == "http/1.1"
            assert any(name in tls.cipher()[0] for name in ("GCM", "CHACHA20"))
            assert client.ask("/b.bin").body == here.contents["/b.bin"]


@pytest.mark.filterwarnings("ignore:ssl")
def test_old_versions_and_weak_ciphers_are_refused(site, pair) -> None:
    here = site()
    old = ssl.create_default_context(cafile=pair.certificate)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    weak = ssl.create_default_context(cafile=pair.certificate)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES256-SHA256:AES128-GCM-SHA256")  # no forward secrecy
    for context in (old, weak):
        with pytest.raises(ssl.SSLError, match=r"alert|ALERT"):
            Client(here.server.address, context=context)
    assert here.client().ask("/a.bin").status == 200


def test_small_files_take_the_fast_path(site) -> None:
    here = site()
    client = here.client()
    for _ in range(3):
        assert client.ask("/a.bin").body == here.contents["/a.bin"]
    assert client.ask("/b.bin", "Range: bytes=5-69998").body == here.contents["/b.bin"][5:69999]
    assert here.fast == 4
    assert here.greenlets() == 0


def test_every_byte_of_a_big_file_comes_through_a_small_window(site) -> None:
    """So that the socket takes parts of records, everywhere."""
    here = site()
    client = here.client(receive_buffer=4096)
    (connection,) = here.server._connections
    connection._transport._socket._socket.setsockopt(1, 7, 4096)  # SO_SNDBUF
    data = get("/big.bin", "Range: bytes=100-") + get("/a.bin") + get("/b.bin")
    client.send(data)
    assert client.response().body == here.contents["/big.bin"][100:]
    assert client.response().body == here.contents["/a.bin"]
    assert client.response().body == here.contents["/b.bin"]


@pytest.mark.parametrize("most", [0, 1, 1000, 16_000])
@pytest.mark.parametrize("last", [999, 20_000, 69_999])
def test_the_rest_of_a_record_follows(site, monkeypatch, most: int, last: int) -> None:
    """The socket takes ``most`` bytes of the first record of an answer."""
    here = site()
    client = here.client()
    assert client.ask("/one.bin").body == b"1"
    real, calls = SocketTransport.send, []

    def short(transport, data, **options):
        calls.append(len(data))
        if len(calls) > 1:
            return real(transport, data, **options)
        return real(transport, data[:most], **options) if most else None

    monkeypatch.setattr(SocketTransport, "send", short)
    answer = client.ask("/b.bin", f"Range: bytes=0-{last}")
    assert answer.body == here.contents["/b.bin"][: last + 1]
    monkeypatch.undo()
    assert len(calls) > 1 or calls[0] <= most
    assert client.ask("/a.bin").status == 200
    assert here.phases() == ["IDLE"]


def test_a_last_record_that_is_not_taken_has_a_deadline(site) -> None:
    here = site(limits={"send_timeout": 0.2})
    client = here.client(receive_buffer=4096)
    (connection,) = here.server._connections
    connection._transport._socket._socket.setsockopt(1, 7, 4096)  # SO_SNDBUF
    client.send(get("/b.bin") * 4)
    eventually(lambda: here.server.connections == 0)
    assert all(each.closed.is_set() for each in here.cache.delegates)


def test_a_client_is_told_when_the_server_has_nothing_more_to_say(site) -> None:
    """A close of the connection alone could be anybody's doing (RFC 8446 6.1)."""
    here = site(limits={"keepalive_timeout": 0.2})
    for request in (get("/a.bin", "Connection: close"), get("/a.bin")):
        client = here.client()
        client.send(request)
        assert client.response().status == 200
        with pytest.raises(ssl.SSLZeroReturnError):
            client.socket._run(lambda tls=client.socket._tls: tls.read(1) or _ended(tls))


def _ended(tls: ssl.SSLObject) -> bytes:
    raise ssl.SSLZeroReturnError


def test_a_client_that_says_good_bye_in_tls_only_is_let_go(site) -> None:
    here = site()
    client = here.client()
    tls = client.socket
    tls._tls.write(get("/a.bin"))
    with pytest.raises(ssl.SSLWantReadError):
        tls._tls.unwrap()
    tls._raw.sendall(tls._out.read())  # in one piece; the socket stays open
    assert client.response().body == here.contents["/a.bin"]
    eventually(lambda: here.server.connections == 0)


@pytest.mark.parametrize(("target", "status"), [("https://h/a.bin", 200), ("http://h/a.bin", 421)])
def test_an_absolute_target_is_of_this_scheme(site, target: str, status: int) -> None:
    client = site().client()
    client.send(f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    assert client.response().status == status


# -- handshakes that do not end


def test_who_says_nothing_is_let_go_after_the_time_of_a_head(site, caplog) -> None:
    here = site(limits={"head_timeout": 0.1})
    clients = [raw(here) for _ in range(10)]
    eventually(lambda: here.server.connections == 10)
    assert here.phases() == ["HEAD"] * 10
    assert all(each._transport._object is None for each in here.server._connections)
    for client in clients:
        assert client.until_closed() == b""
        client.close()
    assert caplog.text.count(NO_HANDSHAKE) == 1


def test_half_a_handshake_has_the_same_time_however_it_comes(site) -> None:
    here = site(limits={"head_timeout": 0.3})
    client = raw(here)
    data = hello()

    def trickle() -> None:
        for byte in data[:-1]:
            client.send(bytes([byte]))
            gevent.sleep(0.02)

    trickling = gevent.spawn(trickle)
    eventually(lambda: here.server.connections == 1)
    eventually(lambda: here.server.connections == 0)
    trickling.kill()
    client.close()


def test_a_handshake_that_is_left_after_the_hello_is_let_go(site) -> None:
    here = site(limits={"head_timeout": 0.2})
    client = raw(here)
    client.send(hello())
    assert len(client.more()) > 500  # the server's part
    eventually(lambda: here.server.connections == 0)
    client.close()


GARBAGE = [
    get("/a.bin"),
    b"\x00" * 1000,
    b"\x16\x03\x01\xff\xff" + b"\xff" * 70_000,
    b"\x16\x03\x01\x00\x05hello",
    b"\x80\x2e\x01\x03\x01" + b"\x00" * 60,  # as SSL 2 began
    b"\x15\x03\x01\x00\x02\x02\x28",  # an alert
    b"\x17\x03\x03\x00\x10" + b"d" * 16,  # data before there is a key
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_handshake_ends_the_connection(site, data: bytes, caplog) -> None:
    here = site()
    for _ in range(5):
        client = raw(here)
        try:
            client.send(data)
            answer = client.until_closed()
        except ConnectionError:  # closed with bytes unread
            answer = b""
        assert b"HTTP" not in answer
        assert len(answer) <= 7  # an alert
        client.close()
    eventually(lambda: here.server.connections == 0)
    assert caplog.text.count(NO_HANDSHAKE) <= 1
    assert "Traceback" not in caplog.text
    assert here.client().ask("/a.bin").status == 200


def test_a_reset_anywhere_in_a_handshake_leaves_nothing(site, pair, caplog) -> None:
    here = site()
    data = hello()
    for size in range(0, len(data) + 1, 37):
        client = raw(here)
        client.send(data[:size])
        client.reset()
    client = raw(here)
    client.send(data)
    client.more()
    client.reset()
    for _ in range(3):
        client = here.client()
        client.socket.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER: a reset
        client.close()
    eventually(lambda: here.server.connections == 0)
    assert here.client().ask("/a.bin").status == 200
    assert "Traceback" not in caplog.text


def test_a_client_that_only_connects_has_the_time_of_an_idle_one(site) -> None:
    """Browsers do that: a handshake, and a request when somebody clicks."""
    here = site(limits={"head_timeout": 0.1, "keepalive_timeout": 60})
    client = here.client()
    eventually(lambda: here.phases() == ["IDLE"])
    gevent.sleep(0.3)
    assert client.ask("/a.bin").status == 200


@pytest.mark.parametrize(("flags", "command"), [(["-tls1_2"], "R"), (["-tls1_3"], "K")])
def test_renegotiation_is_refused_and_key_updates_are_bounded(site, flags, command) -> None:
    """``R`` and ``K`` have openssl ask for them."""
    here = site()
    port = str(here.server.address[1])
    line = [program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", *flags]
    asking = gevent.get_hub().threadpool.spawn(
        subprocess.run,
        line,
        input=f"{command}\n".encode() * 50 + b"GET /a.bin HTTP/1.1\r\nHost: h\r\n\r\n",
        capture_output=True,
        timeout=20,
    )
    here.client().ask("/a.bin")
    said = asking.get()
    assert (b"no renegotiation" in said.stderr) == (command == "R"), said.stderr[-500:]
    eventually(lambda: here.server.connections == 1)


# -- behind a proxy


@pytest.mark.parametrize("cut", [0, 1, 20, 1000])
def test_a_proxy_header_comes_before_tls(site, cut: int) -> None:
    here = site(access={"proxy_protocol": True, "trusted_proxies": "127.0.0.1"})
    plain = socket.create_connection(here.server.address, WAIT)
    header = b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n"
    sendall, sent = plain.sendall, []

    class First:
        """Sends the header with the first bytes of TLS, in pieces of ``cut`` bytes."""

        def __getattr__(self, name: str):
            return getattr(plain, name)

        def sendall(self, data: bytes) -> None:
            data, size = (b"" if sent else header) + data, cut or 1 << 20
            sent.append(data)
            for start in range(0, len(data), size):
                sendall(data[start : start + size])
                gevent.sleep(0)

    client = Client.__new__(Client)
    client.socket, client.rest = TlsSocket(First(), here.context), b""
    with client:
        assert client.ask("/b.bin").body == here.contents["/b.bin"]
        assert here.cache.clients == ["192.0.2.7"]


def test_above_the_limits_connections_are_closed_before_the_handshake(site, caplog) -> None:
    for limits in ({"connections": 1}, {"per_address": 1}):
        here = site(limits=limits)
        client = here.client()
        assert client.ask("/a.bin").status == 200
        refused = raw(here)
        assert refused.until_closed() == b""
        assert here.cache.counters.connections_refused == 1
    assert caplog.text.count("refused, as limits.") == 2


# -- certificates


def shown(here: Site, authority: Pair) -> bool:
    """Whether a new connection is shown a certificate of this authority."""
    context = ssl.create_default_context(cafile=authority.certificate)
    context.check_hostname = False
    try:
        Client(here.server.address, context=context).close()
    except ssl.SSLCertVerificationError:
        return False
    return True


def test_a_new_certificate_counts_for_new_connections(site, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    old, new = make(tmp_path, "old"), make(tmp_path, "new", RSA)
    here = site(server=old.options)
    here.context = ssl.create_default_context(cafile=old.certificate)
    here.context.check_hostname = False
    client = here.client()
    assert client.ask("/a.bin").status == 200
    os.rename(new.certificate, old.certificate)
    os.rename(new.key, old.key)
    new = old
    assert here.server.reconfigure(here.server._config) == ()
    assert shown(here, new)
    assert client.ask("/a.bin").status == 200  # and the old connection goes on
    assert "certificate read again" in caplog.text


def test_a_certificate_that_cannot_be_used_changes_nothing(site, tmp_path) -> None:
    old, other = make(tmp_path, "old"), make(tmp_path, "other")
    here = site(server=old.options)
    kept = Path(old.certificate).read_bytes()
    for content in (b"", Path(other.certificate).read_bytes()):
        Path(old.certificate).write_bytes(content)
        with pytest.raises(ConfigError, match=r"^server\.tls_"):
            here.server.reconfigure(here.server._config)
        Path(old.certificate).write_bytes(kept)
        assert shown(here, old)


def test_certificate_and_key_may_be_in_one_file(site, tmp_path) -> None:
    pair = make(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(Path(pair.key).read_bytes() + Path(pair.certificate).read_bytes())
    here = site(server={"tls_certificate": os.fspath(both), "tls_key": ""})
    assert shown(here, pair)


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("none", "good.key", r"server.tls_certificate: \S+/none cannot be read: no such file"),
        ("good.crt", "none", r"server.tls_key: \S+/none cannot be read: no such file"),
        (".", "good.key", r"server.tls_certificate: \S+ is no regular file"),
        ("good.key", "good.key", r"server.tls_certificate: \S+/good.key has no certificate; allo"),
        ("good.crt", "good.crt", r"server.tls_key: \S+/good.crt has no private key; allowed: a PE"),
        ("good.crt", "", r"server.tls_key: \S+/good.crt has no private key; allowed: a PEM file"),
        ("good.crt", "other.key", r"server.tls_key: \S+/other.key is not the key of \S+/good.crt"),
        ("good.crt", "rsa.key", r"server.tls_key: \S+/rsa.key is not the key of \S+/good.crt"),
        ("good.crt", "locked.key", r"server.tls_key: the key in \S+/locked.key is encrypted; allo"),
        ("torn.crt", "good.key", r"server.tls_certificate: \S+/torn.crt with the key in \S+ canno"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path, root, certificate, key, said) -> None:
    good = make(tmp_path, "good")
    make(tmp_path, "other")
    make(tmp_path, "rsa", RSA)
    subprocess.run(
        [
            *(program("openssl"), "ec", "-aes128", "-passout", "pass:secret"),
            *("-in", good.key, "-out", os.fspath(tmp_path / "locked.key")),
        ],
        check=True,
        capture_output=True,
    )
    text = Path(good.certificate).read_text()
    (tmp_path / "torn.crt").write_text(text[:100] + text[200:])
    options = {
        "tls_certificate": os.fspath(tmp_path / certificate),
        "tls_key": os.fspath(tmp_path / key) if key else "",
    }
    cache = FakeCache(root, with_options(server=options, log={"access": "off"}))
    server = StreamCacheServer(("127.0.0.1", 0), cache)
    with pytest.raises(ConfigError, match=said):
        server.start()
    assert not server.started


def test_a_key_needs_a_certificate() -> None:
    with pytest.raises(ConfigError, match=r"server.tls_key: k.pem is the key of no certificate"):
        with_options(server={"tls_key": "k.pem"})


PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent, pathlib, ssl, sys, urllib.request
from streamcache.server.server import StreamCacheServer
from tests.server.conftest import with_options
from tests.server.fakes import FakeCache
options = {"tls_certificate": sys.argv[2], "tls_key": sys.argv[3]}
cache = FakeCache(pathlib.Path(sys.argv[1]), with_options(server=options))
with StreamCacheServer("localhost:0", cache) as server, gevent.Timeout(10):
    context = ssl.create_default_context(cafile=sys.argv[2])
    print(len(urllib.request.urlopen(server.url + "big.bin", context=context).read()))
"""


def test_it_serves_in_a_program_that_is_monkey_patched(root, contents, pair) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PATCHED, os.fspath(root), pair.certificate, pair.key],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=30,
    )
    assert done.stdout.split() == [str(len(contents["/big.bin"]))], done.stderr


# -- memory


def resident() -> int:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_idle_connections_take_a_bounded_amount_of_memory(site) -> None:
    """Both ends are in this process; measured apart, a server's end takes 36 KiB."""
    here = site()
    for client in [here.client() for _ in range(50)]:  # what is allocated once
        client.ask("/big.bin", "Range: bytes=0-200000")
        client.close()
    eventually(lambda: here.server.connections == 0)
    before = resident()
    clients = [here.client() for _ in range(200)]
    for client in clients:
        assert client.ask("/big.bin", "Range: bytes=0-200000").status == 206
    assert here.phases() == ["IDLE"] * 200
    assert (resident() - before) / 200 < 2 * 100 * 1024
