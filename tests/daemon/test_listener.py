"""Sockets that the daemon does not bind itself: systemd's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcache.daemon.listener import ADMIN, PUBLIC, Inherited, Listener, activated
from streamcache.errors import ConfigError
from tests.daemon.running import PATIENCE, Running

REPOSITORY = Path(__file__).resolve().parents[2]
# What systemd does between fork and exec.
ACTIVATE = """
import os, sys
names, *fds = sys.argv[1].split(",")
for at, fd in enumerate(fds):
    os.dup2(int(fd), 10 + at)
for at in range(len(fds)):
    os.dup2(10 + at, 3 + at)
os.closerange(3 + len(fds), 30)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.fixture
def public() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def activate(directory: Path, names: str, *sockets: socket.socket, workers: int = 1) -> Running:
    source = directory / "films"
    source.mkdir()
    given = ",".join((names, *(str(sock.fileno()) for sock in sockets)))
    command = [sys.executable, "-c", ACTIVATE, given, "-m", "tests.daemon.fakes", "serve"]
    command += [str(source), "--cache-dir", str(directory / "cache"), "--workers", str(workers)]
    return Running(
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            pass_fds=[sock.fileno() for sock in sockets],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_daemon_serves_on_the_socket_that_it_is_given(
    tmp_path: Path, public: socket.socket, workers: int
) -> None:
    daemon = activate(tmp_path, "films.socket", public, workers=workers)
    port = public.getsockname()[1]
    # Not what server.listen says by default.
    assert f"http://127.0.0.1:{port}/" in daemon.ready_line()
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0
    socket.create_connection(("127.0.0.1", port), PATIENCE).close()  # it is still systemd's


def test_the_file_of_a_socket_that_was_given_stays(tmp_path: Path) -> None:
    path, other = tmp_path / "public", tmp_path / "admin"
    with socket.socket(socket.AF_UNIX) as public, socket.socket(socket.AF_UNIX) as admin:
        for sock, name in ((public, path), (admin, other)):
            sock.bind(str(name))
            sock.listen()
        daemon = activate(tmp_path, "a.socket:admin", public, admin)
        assert f"unix:{path}" in daemon.ready_line(), daemon.end()
        daemon.wait_for(f"admin listener url=unix:{other}")
        daemon.signal(signal.SIGTERM)
        assert daemon.end()[0] == 0
    assert path.exists()
    assert other.exists()


def test_what_is_no_listening_socket_is_2(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        code, out, log = activate(tmp_path, "x", udp).end()
    assert (code, out) == (2, "")
    assert "systemd: descriptor 3 (x) is no listening stream socket; allowed: what Listen" in log


def test_two_that_are_public_are_2(tmp_path: Path, public: socket.socket) -> None:
    code, _, log = activate(tmp_path, "a:b", public, public).end()
    assert code == 2
    assert "systemd: two sockets, descriptors 3 and 4, are public" in log


def test_names_say_what_a_socket_is_for(public: socket.socket) -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}
    assert activated(environ, pid=7) == {}
    assert environ == {}
    environ = {"LISTEN_PID": "8", "LISTEN_FDS": "1"}
    assert activated(environ, pid=7) == {}  # meant for somebody else
    assert environ == {}


def test_an_address_that_has_changed_is_bound_anew(public: socket.socket) -> None:
    given = Inherited(os.dup(public.fileno()), "127.0.0.1:1")
    listener = Listener.take("127.0.0.1:0", 5, given)
    assert listener.url != f"http://127.0.0.1:{public.getsockname()[1]}/"
    listener.close(remove=True)
    listener.close(remove=True)


def test_uses_have_the_names_of_the_unit() -> None:
    assert (PUBLIC, ADMIN) == ("public", "admin")  # FileDescriptorName= in etc/


def test_an_inherited_descriptor_that_is_closed_is_no_socket() -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "900"}
    with pytest.raises(ConfigError, match="systemd: "):
        activated(environ, pid=7)
