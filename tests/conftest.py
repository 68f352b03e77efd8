"""Fixtures for all tests: the leak check around each of them, slow sources, media, the daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from tests.certificates import Pair
from tests.certificates import make as make_certificate
from tests.daemon_process import DaemonProcess
from tests.leaks import LeakPolicy, Snapshot, ignore_what_is_there
from tests.media import Media, make
from tests.mounts import sshfs as sshfs_mount
from tests.requirements import missing, program
from tests.slowfs import SlowFS, unsupported

# The gate must not depend on luck; whoever works on the code gets new examples each time.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("new", deadline=None)
settings.load_profile("gate" if os.environ.get("CI") == "true" else "new")

_passed = pytest.StashKey[bool]()


def pytest_configure() -> None:
    """Ctrl-C reaches what tests start, also where the checks are a job in the background.

    A shell without job control starts those with SIGINT ignored, which is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep the leak check cheap."""
    ignore_what_is_there()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Remember whether the test itself passed: one that failed need not tidy up as well."""
    report = yield
    if report.when == "call":
        item.stash[_passed] = report.passed
    return report


@pytest.fixture(scope="session", autouse=True)
def _runtime_directory() -> Iterator[None]:
    """Where the daemons of the tests have their admin sockets: not among the user's own."""
    before = {name: os.environ.pop(name, None) for name in ("XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY")}
    with tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as path:
        os.environ["XDG_RUNTIME_DIR"] = path
        yield
        del os.environ["XDG_RUNTIME_DIR"]
    os.environ.update({name: value for name, value in before.items() if value is not None})


@pytest.fixture
def leak_policy() -> LeakPolicy:
    """What the leak check looks at; a directory's conftest.py may override it."""
    return LeakPolicy()


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest, leak_policy: LeakPolicy) -> Iterator[None]:
    """A test that passed leaves no descriptor and no running greenlet behind."""
    before = Snapshot(leak_policy)
    yield
    if request.node.stash.get(_passed, False):
        found = before.left_behind()
        if found:
            pytest.fail("left behind:\n" + "\n".join(found), pytrace=False)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have settings in the environment."""
    for name in [name for name in os.environ if name.startswith("STREAMCACHE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def slowfs() -> Iterator[SlowFS]:
    """An empty slow file system: fill ``slowfs.backing``, read ``slowfs.path``."""
    reason = unsupported()
    if reason is not None:
        missing(reason)
    with SlowFS() as mounted:
        yield mounted


@pytest.fixture
def fast(slowfs: SlowFS) -> SlowFS:
    """A network file system without delays: it counts, and fails when it is told to."""
    slowfs.set(latency=0, meta_latency=0, bandwidth=0)
    return slowfs


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted directory and what is behind it."""

    path: Path
    backing: Path


@pytest.fixture
def sshfs(tmp_path: Path) -> Iterator[Mount]:
    """An empty directory mounted over sshfs on loopback."""
    reason = unsupported()
    if reason is not None:
        missing(reason)
    programs = {name: program(name) for name in ("sshd", "ssh-keygen", "sshfs", "sftp-server")}
    program("ssh")
    backing = tmp_path / "backing"
    backing.mkdir()
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(sshfs_mount.mounted(backing, programs))
        except sshfs_mount.SshfsError as error:
            missing(f"no sshfs on loopback: {error}")
        yield Mount(path, backing)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    """Real media files, made once in a session."""
    return make(program("ffmpeg"), tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate for localhost and its key."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def daemon() -> Iterator[Callable[..., DaemonProcess]]:
    """``daemon(source, *flags, cache_dir=..., cache_size=...)`` starts the daemon.

    At the end of the test each one that still runs is drained, and must end with 0. Its log is
    printed, which pytest shows when the test failed.
    """
    running: list[DaemonProcess] = []
    with contextlib.ExitStack() as stack:

        def start(source: str | Path, *flags: str, **rest: str | Path) -> DaemonProcess:
            process = stack.enter_context(DaemonProcess(source, *flags, **rest))
            running.append(process)
            return process

        yield start
        for process in running:
            assert not process.crashed, process.log
            if process.code is None:
                code = process.stop()
                assert (code, process.more_output()) == (0, ""), process.log
            print(f"--- log of {process!r}\n{process.log}")


@pytest.fixture
def cache_dir() -> Iterator[Path]:
    """A directory for a cache that outlives its daemon; on the disk, not in memory."""
    with tempfile.TemporaryDirectory(prefix="streamcache-", dir="/var/tmp") as path:
        yield Path(path)
