"""The daemon as another user: it has its socket first, and nothing of root's afterwards."""

from __future__ import annotations

import grp
import os
import pwd
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from streamcache.config import Config, changed
from streamcache.daemon.identity import Identity
from streamcache.errors import ConfigError
from streamcache.settings import Settings, load
from tests.daemon.readable_python import readable_python
from tests.daemon_process import DaemonError, DaemonProcess, children, process_name
from tests.requirements import missing

Start = Callable[..., DaemonProcess]

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        missing("only root can become another user")


@pytest.fixture
def site(cache_dir: Path) -> Path:
    """A directory that others can enter: films in it, and a cache that is nobody's own."""
    cache_dir.chmod(0o711)
    (cache_dir / "films").mkdir()
    (cache_dir / "films" / "a.mp4").write_bytes(b"film")
    (cache_dir / "cache").mkdir(mode=0o700)
    return cache_dir


def status(pid: int) -> dict[str, list[str]]:
    """/proc/PID/status, by field."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: values.split() for name, _, values in (line.partition(":") for line in lines)}


def settings(**server: object) -> Settings:
    return replace(load(environ={}), config=changed(Config(), "server", **server))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("workers", [1, 2])
def test_it_binds_as_root_and_is_somebody_else_in_every_process(
    daemon: Start, site: Path, workers: int
) -> None:
    os.chown(site / "cache", NOBODY.pw_uid, -1)
    python, environment = readable_python()
    address = f"127.13.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}:81"
    server = daemon(
        site / "films",
        *("--listen", address, "--user", "nobody", "--pid-file", str(site / "pid")),
        cache_dir=site / "cache",
        workers=workers,
        python=python,
        environment=environment,
    )
    assert server.url == f"http://{address}/"
    pids = [server.pid, *children(server.pid)]
    assert len(pids) == (1 if workers == 1 else 3)
    for pid in pids:
        found = status(pid)
        assert found["Uid"] == [str(NOBODY.pw_uid)] * 4
        assert found["Gid"] == [str(NOBODY.pw_gid)] * 4
        assert found["Groups"] == [str(NOBODY.pw_gid)]
        assert {int(found[name][0], 16) for name in ("CapEff", "CapPrm", "CapInh")} == {0}
    names = {process_name(pid) for pid in pids}
    assert names == {"streamcache"} | (
        {"streamcache w1", "streamcache w2"} if workers > 1 else set()
    )
    with socket.create_connection(server.address, 10) as client:
        client.sendall(b"GET /a.mp4 HTTP/1.0\r\n\r\n")
        assert b"".join(iter(lambda: client.recv(4096), b"")).endswith(b"\r\n\r\nfilm")
    os.kill(server.pid, signal.SIGHUP)  # as who it is now, with the cache directory of the start
    while "reloaded changed=nothing" not in server.log:
        assert server.code is None, server.log
    assert server.stop() == 0
    assert (site / "pid").read_text() == ""  # it may not remove it any more


@pytest.mark.usefixtures("root")
def test_a_cache_that_is_not_that_users_is_refused_and_not_changed(
    daemon: Start, site: Path
) -> None:
    python, environment = readable_python()
    rest = {"python": python, "environment": environment, "cache_dir": site / "cache"}
    with pytest.raises(DaemonError, match="belongs to root, and the server runs as nobody; allo"):
        daemon(site / "films", "--user", "nobody", **rest)
    assert (site / "cache").stat().st_uid == 0
    assert list((site / "cache").iterdir()) == []


@pytest.mark.usefixtures("root")
def test_nothing_is_made_for_it_where_it_may_not(daemon: Start, site: Path) -> None:
    python, environment = readable_python()
    rest = {"python": python, "environment": environment, "cache_dir": site / "new"}
    with pytest.raises(DaemonError, match=f"cannot be made: {site} is not writable"):
        daemon(site / "films", "--user", "nobody", **rest)
    assert not (site / "new").exists()


def test_nothing_is_wanted_by_default() -> None:
    assert Identity.wanted(settings()) is None


def test_names_and_numbers_are_users() -> None:
    by_name = Identity.wanted(settings(user="nobody"))
    assert by_name == Identity.wanted(settings(user=str(NOBODY.pw_uid)))
    assert by_name == Identity("nobody", NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,))


def test_a_group_of_its_own_choice_is_the_first_one() -> None:
    group = grp.getgrnam("daemon")
    wanted = Identity.wanted(settings(user="nobody", group="daemon"))
    assert wanted is not None
    assert wanted.gid == group.gr_gid
    assert group.gr_gid in wanted.groups
    assert 0 not in wanted.groups


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ({"user": "no-such"}, "server.user: there is no user 'no-such'; allowed: the name or"),
        ({"group": "no-such"}, "server.group: there is no group 'no-such'; allowed: the name"),
        ({"user": "54321"}, "server.user: 54321 has no entry in the user database, so no group"),
    ],
)
def test_who_is_not_there_is_one_line(server: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Identity.wanted(settings(**server))


def test_a_number_without_a_name_needs_a_group_and_has_no_other() -> None:
    assert Identity.wanted(settings(user="54321", group="54322")) == Identity(
        "54321", 54321, 54322, (54322,)
    )


@pytest.mark.usefixtures("root")
def test_who_is_not_root_cannot_become_another() -> None:
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            os.setgroups([])
            os.setresgid(NOBODY.pw_gid, NOBODY.pw_gid, NOBODY.pw_gid)
            os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)
            itself = settings(user="nobody")
            wanted = Identity.wanted(itself)
            assert wanted is not None
            wanted.become(itself)  # it is that already
            other = settings(user="daemon")
            wanted = Identity.wanted(other)
            assert wanted is not None
            try:
                wanted.become(other)
            except ConfigError as error:
                told = "server.user: only root can become daemon; this is nobody" in str(error)
                code = 0 if told else 8
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
