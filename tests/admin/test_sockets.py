"""The sockets of the admin listener: whose they are, what they replace, what they leave behind."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcache.admin.sockets import Sockets, listen_alone, open_sockets, parse
from streamcache.config import Config, changed
from streamcache.errors import ConfigError
from streamcache.server.address import Address
from streamcache.settings import Settings

PUBLIC = Address.parse("127.0.0.1:8080")


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A short path: that of a Unix socket is 107 bytes at most."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def settings(admin: str = "", listen: str = "127.0.0.1:8080") -> Settings:
    config = changed(Config(), "server", admin=admin, listen=listen, workers=2)
    return Settings(config, {"server.admin": "--admin"})


def opened(runtime: Path, admin: str = "") -> Sockets:
    sockets = open_sockets(settings(admin), PUBLIC, {"XDG_RUNTIME_DIR": os.fspath(runtime)})
    assert sockets is not None
    return sockets


def connect(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(os.fspath(path))


def test_the_default_is_a_socket_for_its_user_that_goes_with_the_server(runtime: Path) -> None:
    path = runtime / "streamcache" / "127.0.0.1-8080.sock"
    with opened(runtime) as sockets:
        assert sockets.address == Address(path=os.fspath(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        connect(path)
        private = Path(sockets.path_of("w1")).parent
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        listen_alone(sockets.path_of("w1")).close()
    assert os.listdir(runtime / "streamcache") == []


def test_what_killed_servers_left_is_tidied_up_and_living_ones_stay(runtime: Path) -> None:
    opened(runtime).close()
    directory = runtime / "streamcache"
    with listen_alone(os.fspath(directory / "dead.sock")):
        pass
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    (directory / f".workers-{pid}-x").mkdir()
    (directory / f".workers-{os.getpid()}-x").mkdir()
    with listen_alone(os.fspath(directory / "alive.sock")), opened(runtime):
        left = {name for name in os.listdir(directory) if not name.startswith(".")}
        assert left == {"alive.sock", "127.0.0.1-8080.sock"}
        assert not (directory / f".workers-{pid}-x").exists()
        assert (directory / f".workers-{os.getpid()}-x").exists()


@pytest.mark.parametrize("admin", ["127.0.0.1:0", "unix:{runtime}/x.sock"])
def test_private_sockets_of_killed_servers_go_wherever_the_listener_is(
    runtime: Path, admin: str
) -> None:
    directory = runtime / "streamcache"
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    dead, elsewhere = directory / f".workers-{pid}-x", directory / f".workers-{pid}-y"
    for each in (dead, elsewhere):
        each.mkdir(parents=True)
    listen_alone(os.fspath(dead / "w1")).close()
    with (
        listen_alone(os.fspath(elsewhere / "w1")),  # another container has such numbers, too
        opened(runtime, admin.format(runtime=runtime)),
    ):
        assert not dead.exists()
        assert elsewhere.exists()


def test_the_next_server_takes_the_default_name_over_and_keeps_it(runtime: Path) -> None:
    first = opened(runtime)
    with opened(runtime) as second:
        first.close()
        connect(Path(second.address.path))


def test_off_and_a_default_that_cannot_be_had_are_no_reason_not_to_serve(
    runtime: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_sockets(settings("off"), PUBLIC) is None
    runtime.chmod(0o777)
    nowhere = {"RUNTIME_DIRECTORY": os.fspath(runtime)}
    assert open_sockets(settings(), PUBLIC, nowhere) is None
    assert "no admin listener" in caplog.text


def test_a_path_that_was_asked_for(runtime: Path) -> None:
    path = runtime / "control"
    with opened(runtime, f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ConfigError, match=r"--admin: .*cannot listen on unix:.*in use"):
            opened(runtime, f"unix:{path}")
        connect(path)
    assert not path.exists()
    with listen_alone(os.fspath(path)):  # outlives it, as after a SIGKILL
        pass
    opened(runtime, f"unix:{path}").close()


def test_a_file_is_never_replaced_by_a_socket(runtime: Path) -> None:
    path = runtime / "precious"
    path.write_text("gold")
    with pytest.raises(ConfigError, match="no socket"):
        opened(runtime, f"unix:{path}")
    assert path.read_text() == "gold"


def test_a_port_keeps_the_name_that_it_was_asked_for_with(runtime: Path) -> None:
    with opened(runtime, "localhost:0") as sockets:
        assert (sockets.address.host, sockets.address.path) == ("localhost", "")
        socket.create_connection(sockets.listener.getsockname()[:2]).close()
        with pytest.raises(ConfigError, match="cannot listen"):
            opened(runtime, f"localhost:{sockets.address.port}")


def test_a_port_that_other_machines_reach_is_warned_of(
    runtime: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(runtime, "127.0.0.1:0").close()
    assert not caplog.records
    opened(runtime, "0.0.0.0:0").close()
    assert "asks for no password" in caplog.text


@pytest.mark.parametrize(
    ("admin", "problem"),
    [
        ("9100", "'9100' is none of HOST:PORT"),
        (":9100", "':9100' has no host"),
        ("unix:", "needs the path"),
        ("127.0.0.1:70000", "70000"),
        ("127.0.0.1:8080", "is where clients connect"),
    ],
)
def test_an_address_that_is_none_is_refused_in_words(admin: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse(settings(admin))
    assert "--admin" in str(caught.value)
    assert "allowed: " in str(caught.value)
