"""Starting, draining, limits and addresses."""

from __future__ import annotations

import socket as plain
import subprocess
import sys
import time
from pathlib import Path

import gevent
import pytest
from gevent import socket

from streamcache.errors import SourceUnavailable
from streamcache.server.acceptor import connection_limit
from streamcache.server.server import LAST_CALL, StreamCacheServer
from tests.server.client import WAIT, Client, eventually, get
from tests.server.conftest import PLAIN
from tests.server.fakes import FakeCache, Gate


@PLAIN
def test_the_real_address_and_url_are_told(site):
    server = site().server
    host, port = server.address
    assert host == "127.0.0.1"
    assert port > 0
    assert server.url == f"http://127.0.0.1:{port}/"


def test_before_start_there_is_no_address(root):
    server = StreamCacheServer(("127.0.0.1", 0), FakeCache(root))
    with pytest.raises(RuntimeError):
        _ = server.url
    server.stop()  # nothing to do


def test_a_port_in_use_raises(site):
    here = site()
    with pytest.raises(OSError, match="in use"):
        StreamCacheServer(here.server.address, here.cache).start()


def test_an_access_log_that_cannot_be_opened_raises_and_leaves_the_port_free(site):
    with pytest.raises(FileNotFoundError):
        site(log={"access": "/no/such/directory/log"})


def test_it_can_start_again_after_stop(site):
    here = site()
    here.server.stop()
    here.server.start()
    assert here.client().ask("/a.bin").status == 200


@PLAIN
def test_ipv6(site):
    try:
        here = site(("::1", 0), log={"access": "-"})
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert here.server.url == f"http://[::1]:{here.server.address[1]}/"
    assert here.client().ask("/a.bin").status == 200
    assert here.cache.clients == ["::1"]


def test_a_unix_socket(site, tmp_path):
    path = str(tmp_path / "s")
    here = site(f"unix:{path}")
    assert (here.server.address, here.server.url) == (path, f"unix:{path}")
    client = here.client()
    assert client.ask("/big.bin").body == here.contents["/big.bin"]
    assert here.cache.clients == ["unix"]
    here.server.stop(timeout=0)
    assert not Path(path).exists()


def test_a_unix_client_that_leaves_is_noticed(site, tmp_path):
    here = site(f"unix:{tmp_path / 's'}")
    gate = here.cache.gate("/a.bin")
    client = here.client()
    client.send(get("/a.bin"))
    assert gate.waiting.wait(WAIT)
    client.close()
    assert here.cache.delegates[0].closed.wait(1.5)


def test_a_stale_socket_file_is_replaced(site, tmp_path):
    path = str(tmp_path / "s")
    dead = plain.socket(plain.AF_UNIX)
    dead.bind(path)
    dead.close()
    assert site(f"unix:{path}").client().ask("/a.bin").status == 200


def test_a_live_socket_file_is_left_alone(site, tmp_path):
    here = site(f"unix:{tmp_path / 's'}")
    with pytest.raises(OSError, match="in use"):
        StreamCacheServer(f"unix:{tmp_path / 's'}", here.cache).start()
    assert here.client().ask("/a.bin").status == 200


def test_a_file_that_is_no_socket_is_left_alone(site, tmp_path):
    (tmp_path / "precious").write_text("text")
    with pytest.raises(OSError, match="in use"):
        site(f"unix:{tmp_path / 'precious'}")
    assert (tmp_path / "precious").read_text() == "text"


def test_stopping_does_not_remove_the_socket_of_a_successor(site, tmp_path):
    path = tmp_path / "s"
    first = site(f"unix:{path}")
    path.unlink()
    second = site(f"unix:{path}")
    first.server.stop()
    assert second.client().ask("/a.bin").status == 200


@pytest.mark.parametrize("make", [plain.socket, socket.socket])
def test_a_listening_socket_may_be_given(site, make):
    listener = make()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    here = site(listener)
    assert here.server.address[1] > 0
    assert here.client().ask("/a.bin").status == 200


@PLAIN
def test_connections_are_without_nagles_delay(site):
    here = site()
    here.client().ask("/a.bin")
    (connection,) = here.server._connections
    sock = connection._transport._socket
    assert sock.getsockopt(plain.IPPROTO_TCP, plain.TCP_NODELAY)


# -- draining


def test_stop_closes_idle_connections_after_a_moment(site):
    here = site()
    client = here.client()
    client.ask("/a.bin")
    with gevent.Timeout(LAST_CALL + WAIT):
        here.server.stop(timeout=60)
    assert client.until_closed() == b""


def test_a_request_that_was_on_its_way_when_draining_begins_is_the_last(site):
    here = site()
    client, silent = here.client(), here.client()
    client.ask("/a.bin")
    silent.ask("/a.bin")
    stopping = gevent.spawn(here.server.stop, 60)
    eventually(lambda: not here.server.started)
    answer = client.ask("/a.bin")
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    assert client.until_closed() == b""
    client.close()
    assert silent.until_closed() == b""
    stopping.join(WAIT)
    assert stopping.successful()


def test_a_request_that_has_arrived_in_the_last_moment_is_answered(site, monkeypatch):
    """The hub has not come to it yet when idle connections are closed."""
    monkeypatch.setattr("streamcache.server.server.LAST_CALL", 0.0)
    here = site()
    client = here.client()
    client.ask("/a.bin")
    client.send(get("/a.bin"))
    time.sleep(0.05)  # the hub does nothing meanwhile
    stopping = gevent.spawn(here.server.stop, 60)
    assert client.response().status == 200
    client.close()
    stopping.join(WAIT)
    assert stopping.successful()


def test_stop_lets_running_responses_finish(site):
    here = site()
    gate = here.cache.gate("/big.bin", 1000)
    client = here.client()
    client.send(get("/big.bin"))
    client.head()
    stopping = gevent.spawn(here.server.stop, 60)
    eventually(lambda: not here.server.started)
    with pytest.raises(OSError, match="refused"):
        Client(here.server.address)
    assert not stopping.ready()
    gate.release(1 << 30)
    assert client.body(len(here.contents["/big.bin"])) == here.contents["/big.bin"]
    assert client.until_closed() == b""
    client.close()
    stopping.join(WAIT)
    assert stopping.successful()


def test_a_client_that_lingers_does_not_hold_up_the_end(site, monkeypatch):
    monkeypatch.setattr("streamcache.server.lingering.TIME", 60.0)
    here = site()
    client = here.client()
    client.send(b"nonsense\r\n\r\n")
    assert client.response().status == 400
    eventually(lambda: here.phases() == ["LINGERING"])  # it has not closed
    with gevent.Timeout(WAIT):
        here.server.stop(timeout=60)


@pytest.mark.parametrize("most", [1, 16])
def test_how_many_connections_are_taken_at_once_is_a_parameter(root, most):
    cache = FakeCache(root)
    with StreamCacheServer(("127.0.0.1", 0), cache, max_accept=most) as server:
        assert server._acceptor.max_accept == most
        with Client(server.address) as client:
            assert client.ask("/a.bin").status == 200
    cache.close()


def test_a_response_that_begins_while_draining_says_close(site):
    here = site()
    gate = here.cache.find_gate = Gate(0)
    client = here.client()
    client.send(get("/a.bin"))
    assert gate.waiting.wait(WAIT)
    stopping = gevent.spawn(here.server.stop, 60)
    eventually(lambda: not here.server.started)
    gate.release(1)
    assert client.response().fields["connection"] == "close"
    assert client.until_closed() == b""
    client.close()
    stopping.join(WAIT)
    assert stopping.successful()


@pytest.mark.parametrize("where", ["find", "first byte", "sending"])
def test_what_runs_when_the_drain_time_is_over_is_cut(site, where):
    here = site()
    client = here.client()
    if where == "find":
        gate = here.cache.find_gate = Gate(0)
    else:
        gate = here.cache.gate("/big.bin", 0 if where == "first byte" else 1 << 30)
    client.send(get("/big.bin"))
    if where == "sending":
        client.head()
    else:
        assert gate.waiting.wait(WAIT)
    with gevent.Timeout(2):
        here.server.stop(timeout=0.1)
    assert here.server.connections == 0
    assert all(each.closed.is_set() for each in here.cache.delegates)


def test_a_second_stop_with_a_shorter_time_ends_the_first(site):
    here = site()
    gate = here.cache.gate("/a.bin")
    here.client().send(get("/a.bin"))
    assert gate.waiting.wait(WAIT)
    first = gevent.spawn(here.server.stop, 60)
    eventually(lambda: not here.server.started)
    here.server.stop(timeout=0)
    first.join(WAIT)
    assert first.successful()


def test_serve_forever_returns_when_the_server_was_stopped(site):
    here = site()
    serving = gevent.spawn(here.server.serve_forever)
    gevent.sleep(0)
    assert not serving.ready()
    here.server.stop()
    serving.join(WAIT)
    assert serving.successful()


def test_the_cache_stays_open(root):
    class Strict(FakeCache):
        def close(self):
            raise AssertionError("the server must not close it")

    with StreamCacheServer(("127.0.0.1", 0), Strict(root)):
        pass


# -- limits


@PLAIN
def test_above_the_limit_a_connection_is_refused_politely(site):
    here = site(limits={"connections": 2})
    served = [here.client(), here.client()]
    for client in served:
        assert client.ask("/a.bin").status == 200
    refused = here.client()
    refused.send(get("/a.bin"))
    answer = refused.response()
    assert (answer.status, answer.fields["connection"]) == (503, "close")
    assert answer.fields["retry-after"] == "1"
    assert refused.until_closed() == b""
    refused.close()
    assert served[0].ask("/a.bin").status == 200
    counters = here.cache.counters
    assert (counters.connections_accepted, counters.connections_refused) == (2, 1)
    served[0].close()
    eventually(lambda: here.server.connections == 1)
    assert here.client().ask("/a.bin").status == 200


@PLAIN
def test_refused_connections_are_bounded_too(site, monkeypatch):
    monkeypatch.setattr("streamcache.server.roster.REFUSED_AT_ONCE", 3)
    here = site(limits={"connections": 1})
    here.client().ask("/a.bin")
    clients = [here.client() for _ in range(10)]
    eventually(lambda: here.cache.counters.connections_refused == 10)
    assert here.server.connections <= 1 + 3
    assert clients[0].response().status == 503


@pytest.mark.parametrize(
    ("configured", "soft", "limit"), [(7, 1024, 7), (0, 1024, 448), (0, 40, 8)]
)
def test_the_limit_follows_from_the_descriptors(monkeypatch, configured, soft, limit):
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, 4096))
    assert connection_limit(configured) == limit


FEW_DESCRIPTORS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
import logging, pathlib
logging.basicConfig(level="INFO")
from streamcache.server.server import StreamCacheServer
from tests.server.conftest import with_options
from tests.server.fakes import FakeCache
config = with_options(limits={"connections": 1000}, log={"access": "off"})
server = StreamCacheServer(("127.0.0.1", 0), FakeCache(pathlib.Path(sys.argv[1]), config))
server.start()
print(server.address[1], flush=True)
server.serve_forever()
"""


def test_out_of_descriptors_accepting_pauses_and_goes_on(root):
    process = subprocess.Popen(
        [sys.executable, "-c", FEW_DESCRIPTORS, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    clients = []
    try:
        address = ("127.0.0.1", int(process.stdout.readline()))
        clients = [Client(address) for _ in range(60)]
        clients[0].ask("/empty.bin", method="HEAD")
        clients[-1].send(get("/one.bin", method="HEAD"))  # waits in the backlog
        gevent.sleep(1.2)  # more than a tick: resuming in vain must not be noisy
        assert clients[0].ask("/one.bin", method="HEAD").status == 200  # those accepted are served
        for client in clients[:40]:
            client.close()
        assert clients[-1].response("HEAD").status == 200
    finally:
        for client in clients:
            client.close()
        process.terminate()
        _, errors = process.communicate(timeout=WAIT)
    assert "accepting pauses error=Too many open files" in errors
    assert errors.count("accepting pauses") <= 2  # and not at every tick
    assert "Traceback" not in errors


def test_an_error_of_one_connection_is_none_of_another(site, caplog):
    here = site()
    here.cache.gate("/a.bin").fail(SourceUnavailable(5, "EIO"))
    one, other = here.client(), here.client()
    assert one.ask("/a.bin").status == 503
    assert other.ask("/b.bin").body == here.contents["/b.bin"]


PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent, pathlib, sys, urllib.request
from streamcache.server.server import StreamCacheServer
from tests.server.fakes import FakeCache
with StreamCacheServer("localhost:0", FakeCache(pathlib.Path(sys.argv[1]))) as server:
    with gevent.Timeout(5):
        print(len(urllib.request.urlopen(server.url + "big.bin").read()))
"""


def test_it_serves_in_a_program_that_is_monkey_patched(root, contents):
    done = subprocess.run(
        [sys.executable, "-c", PATCHED, str(root)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=30,
    )
    assert done.stdout.split() == [str(len(contents["/big.bin"]))], done.stderr
    (line,) = done.stderr.splitlines()  # the access log, and nothing else
    assert '"GET /big.bin HTTP/1.1" 200' in line


@PLAIN
def test_the_log_says_what_a_server_is(site):
    here = site()
    here.client().ask("/a.bin")
    assert repr(here.server) == f"<StreamCacheServer {here.server.url} connections=1>"
    (connection,) = here.server._connections
    fd = connection._transport.fd
    assert repr(connection) == f"<Connection 127.0.0.1 IDLE <SocketTransport fd={fd}>>"
