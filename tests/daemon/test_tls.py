"""TLS on the daemon's listener: real programs as clients, one worker and several."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Pair, make
from tests.content import content
from tests.daemon.test_access import refusal
from tests.daemon.test_workers import wait_for_log, wait_until
from tests.daemon_process import DaemonProcess
from tests.requirements import program

Start = Callable[..., DaemonProcess]

SIZE = 3_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "films"
    path.mkdir()
    (path / "film.mp4").write_bytes(content("film", 0, SIZE))
    os.utime(path / "film.mp4", (1, 1))
    return path


def configured(tmp_path: Path, pair: Pair) -> tuple[str, str]:
    (tmp_path / "its.toml").write_text(pair.toml())
    return "--config", os.fspath(tmp_path / "its.toml")


@pytest.mark.parametrize("workers", [1, 2])
def test_curl(daemon: Start, source: Path, tmp_path: Path, pair: Pair, workers: int) -> None:
    running = daemon(source, *configured(tmp_path, pair), workers=workers)
    assert running.url.startswith("https://127.0.0.1:")
    assert f"url={running.url} " in running.log

    film = content("film", 0, SIZE)

    def curl(*flags: str) -> bytes:
        line = [program("curl"), "-sS", "--fail", "--cacert", pair.certificate, *flags]
        return subprocess.run(
            [*line, running.url + "film.mp4"], check=True, capture_output=True, timeout=30
        ).stdout

    for _ in range(2):  # a miss, then a hit
        assert curl() == film
    assert curl("-r", "1000000-2999998") == film[1_000_000:2_999_999]
    assert curl("-r", "-10", "--tls-max", "1.2") == film[-10:]
    head = curl("-I").decode().splitlines()
    assert head[0] == "HTTP/1.1 200 OK"
    assert f"Content-Length: {SIZE}" in head


def test_openssl(daemon: Start, source: Path, tmp_path: Path, pair: Pair) -> None:
    running = daemon(source, *configured(tmp_path, pair))
    host, port = running.address
    done = subprocess.run(
        [
            *(program("openssl"), "s_client", "-connect", f"{host}:{port}", "-quiet"),
            *("-CAfile", pair.certificate, "-verify_return_error", "-ign_eof"),
        ],
        input=b"GET /film.mp4 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        capture_output=True,
        timeout=30,
    )
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert (done.returncode, head[:15]) == (0, b"HTTP/1.1 200 OK"), done.stderr
    assert body == content("film", 0, SIZE)


def is_shown(running: DaemonProcess, pair: Pair) -> bool:
    """Whether a new connection is shown this certificate."""
    context = ssl.create_default_context(cafile=pair.certificate)
    context.check_hostname = False
    try:
        with socket.create_connection(running.address, 20) as raw, context.wrap_socket(raw):
            return True
    except ssl.SSLCertVerificationError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_a_renewed_certificate(
    daemon: Start, source: Path, tmp_path: Path, pair: Pair, workers: int
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    used, renewed = make(old), make(new)
    running = daemon(source, *configured(tmp_path, used), workers=workers)
    assert is_shown(running, used)
    Path(used.certificate).rename(old / "kept")
    Path(used.certificate).write_bytes(b"torn")
    os.kill(running.pid, signal.SIGHUP)
    wait_for_log(running, "has no certificate; allowed")
    assert all(is_shown(running, Pair(f"{old}/kept", "")) for _ in range(5))
    os.rename(renewed.certificate, used.certificate)
    os.rename(renewed.key, used.key)
    os.kill(running.pid, signal.SIGHUP)
    wait_until(lambda: all(is_shown(running, used) for _ in range(5)), "the new one is shown")


@pytest.mark.parametrize("check", [False, True])
def test_what_cannot_be_used_is_one_line(
    source: Path, tmp_path: Path, pair: Pair, check: bool
) -> None:
    wrong = Pair(pair.key, pair.key)
    said = refusal(source, *configured(tmp_path, wrong), check=check)
    where = f"streamcache: error: {tmp_path}/its.toml: server.tls_certificate: {pair.key}"
    assert said.startswith(f"{where} has no certificate; allowed: a PEM file")


def test_a_key_that_everybody_can_read_is_told(source: Path, tmp_path: Path, pair: Pair) -> None:
    open_key = tmp_path / "open.key"
    open_key.write_bytes(Path(pair.key).read_bytes())
    open_key.chmod(0o644)
    flags = configured(tmp_path, Pair(pair.certificate, os.fspath(open_key)))
    with DaemonProcess(source, *flags) as running:
        assert f"{open_key} can be read by every user" in running.log
