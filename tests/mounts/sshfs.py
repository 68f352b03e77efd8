"""A directory mounted over real sshfs on loopback, with an sshd of our own on a free port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.slowfs import mounting

START_TIMEOUT = 15.0  # s


class SshfsError(Exception):
    """It could not be mounted; the message says why."""


@contextlib.contextmanager
def mounted(
    backing: Path, programs: dict[str, str], options: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Where ``backing`` is mounted over sshfs, until the block ends.

    ``programs``: paths of sshd, ssh-keygen, sshfs and sftp-server. ``options``: -o options of
    sshfs, by default without caches of attributes and names, so that changes show at once.
    """
    with tempfile.TemporaryDirectory(prefix="sshfs-", ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary)
        (directory / "mnt").mkdir()
        _keys(directory, programs["ssh-keygen"])
        with (
            _sshd(directory, programs) as port,
            _sshfs(directory, backing, port, programs, options),
        ):
            yield directory / "mnt"


def _keys(directory: Path, keygen: str) -> None:
    for name in ("host", "user"):
        subprocess.run(
            [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(directory / name)],
            check=True,
            timeout=START_TIMEOUT,
        )


@contextlib.contextmanager
def _sshd(directory: Path, programs: dict[str, str]) -> Iterator[int]:
    port = _free_port()
    config = directory / "sshd_config"
    config.write_text(
        f"""
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host
PidFile none
AuthorizedKeysFile {directory}/user.pub
StrictModes no
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
Subsystem sftp {programs["sftp-server"]}
"""
    )
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd refuses to start without
    log = directory / "sshd.log"
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [programs["sshd"], "-D", "-e", "-f", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _until(lambda: _accepts(port), server, log)
        yield port
    finally:
        _wait_for_sessions(server)
        _end(server)


@contextlib.contextmanager
def _sshfs(
    directory: Path, backing: Path, port: int, programs: dict[str, str], options: tuple[str, ...]
) -> Iterator[None]:
    settings = options or ("cache=no", "attr_timeout=0", "entry_timeout=0")
    ssh = [
        f"IdentityFile={shlex.quote(str(directory / 'user'))}",
        f"UserKnownHostsFile={shlex.quote(str(directory / 'known_hosts'))}",
        "StrictHostKeyChecking=accept-new",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "PasswordAuthentication=no",
        f"Port={port}",
        "ro",
        *settings,
    ]
    user = pwd.getpwuid(os.geteuid()).pw_name
    mountpoint = directory / "mnt"
    log = directory / "sshfs.log"
    with open(log, "wb") as output:
        client = subprocess.Popen(
            [
                programs["sshfs"],
                "-f",  # stays our child, so that it is ended by its id
                *("-F", "/dev/null"),
                *(word for option in ssh for word in ("-o", option)),
                f"{user}@127.0.0.1:{backing.resolve()}",
                str(mountpoint),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _until(lambda: mounting.device(str(mountpoint.resolve())) is not None, client, log)
        yield
    finally:
        mounting.unmount(str(mountpoint))
        _end(client)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _wait_for_sessions(server: subprocess.Popen) -> None:
    """Let sshd reap its sessions, whose client is gone; init may not do it."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    deadline = time.monotonic() + 2
    with contextlib.suppress(OSError):
        while children.read_text().strip() and time.monotonic() < deadline:
            time.sleep(0.01)


def _until(condition, process: subprocess.Popen, log: Path) -> None:
    """Wait for a foreign program, which tells nobody when it is ready."""
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise SshfsError(f"{Path(process.args[0]).name} did not start: {' / '.join(words)}")
        time.sleep(0.02)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
