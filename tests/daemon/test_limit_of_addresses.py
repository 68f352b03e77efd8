"""limits.per_address over several workers: counted together, and a dead one's places are free."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from tests.daemon.test_workers import wait_until
from tests.daemon_process import DaemonProcess

Start = Callable[..., DaemonProcess]

ASK = b"GET /film HTTP/1.1\r\nHost: h\r\n\r\n"
MOST = 6


def connect(daemon: DaemonProcess) -> socket.socket:
    return socket.create_connection(daemon.address, 20, ("127.0.0.2", 0))


def asked(connection: socket.socket) -> bytes:
    """The status of an answer; b"" when the worker has died."""
    with contextlib.suppress(OSError):
        connection.sendall(ASK)
        return connection.recv(65536).partition(b"\r\n")[0][9:12]
    return b""


def test_all_workers_together_hold_the_limit(daemon: Start, tmp_path: Path) -> None:
    source = tmp_path / "films"
    source.mkdir()
    (source / "film").write_bytes(b"x")
    os.utime(source / "film", (1, 1))
    settings = tmp_path / "its.toml"
    settings.write_text(f"[limits]\nper_address = {MOST}\n")
    running = daemon(source, "--config", str(settings), workers=3)
    with contextlib.ExitStack() as stack:
        guests: list[socket.socket] = []

        def fill() -> int:
            """Connections that are let in, of more than there may be."""
            while len(guests) < MOST:
                guest = stack.enter_context(connect(running))
                if asked(guest) != b"200":
                    break
                guests.append(guest)
            return len(guests)

        wait_until(lambda: fill() == MOST, "all places taken")
        for _ in range(5):
            with connect(running) as refused:
                assert refused.recv(65536).startswith(b"HTTP/1.1 429 ")
        for pid in running.worker_pids.values():
            os.kill(pid, signal.SIGKILL)
        guests.clear()
        wait_until(lambda: fill() == MOST, "all places taken")
    # each of the three may say it once in a minute
    assert 1 <= running.log.count("refused, as limits.per_address are open client=127.0.0.2") <= 6
