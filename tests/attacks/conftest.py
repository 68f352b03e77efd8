"""Two equal daemons, one of which is attacked: what a good client gets from each of them."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import Pair
from tests.content import content
from tests.daemon_process import REPOSITORY, DaemonProcess

SMALL, LARGE = 20_000, 32 * 1024 * 1024
ROUNDS = 7  # of one comparison; each about both daemons
REQUESTS = 60  # of a round, to one of them
WORST = 3.0  # times the p99 of the daemon that is left alone
ATTEMPTS = 5

Start = Callable[..., DaemonProcess]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "films"
    path.mkdir()
    for name, size in (("small.bin", SMALL), ("big.bin", LARGE)):
        (path / name).write_bytes(content(name, 0, size))
        os.utime(path / name, (1, 1))
    return path


class GoodClient:
    """Asks for a small file over and over, and looks at every byte."""

    def __init__(self, daemon: DaemonProcess, context: ssl.SSLContext | None) -> None:
        self._daemon = daemon
        self._context = context
        self._expected = content("small.bin", 0, SMALL)

    def slow_times(self) -> float:
        """The p99 of the times of some requests in seconds, with new connections in between."""
        times: list[float] = []
        while len(times) < REQUESTS:
            began = time.perf_counter()
            with self._connect() as connection:
                for _ in range(10):
                    self._ask(connection, "small.bin", self._expected)
                    times.append(time.perf_counter() - began)
                    began = time.perf_counter()
        return statistics.quantiles(times, n=100)[-1]

    def take(self, name: str, size: int) -> None:
        """A whole file."""
        with self._connect() as connection:
            self._ask(connection, name, content(name, 0, size))

    def _connect(self) -> socket.socket:
        raw = socket.create_connection(self._daemon.address, 30)
        if self._context is None:
            return raw
        return self._context.wrap_socket(raw, server_hostname="localhost")

    def _ask(self, connection: socket.socket, name: str, expected: bytes) -> None:
        connection.sendall(f"GET /{name} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        data, start = bytearray(), -1
        while start < 0 or len(data) < start + len(expected):
            more = connection.recv(65536)
            assert more, bytes(data[:200])
            data += more
            if start < 0 and (end := data.find(b"\r\n\r\n")) >= 0:
                start = end + 4
        assert data.startswith(b"HTTP/1.1 200 ")
        assert data[start:] == expected


class Battle:
    """A daemon under attack, and one beside it that is left alone."""

    def __init__(self, attacked: DaemonProcess, calm: DaemonProcess, pair: Pair | None) -> None:
        context = None if pair is None else ssl.create_default_context(cafile=pair.certificate)
        self.daemon = attacked
        self.clients = [GoodClient(each, context) for each in (attacked, calm)]
        for client in self.clients:
            client.take("big.bin", LARGE)  # all is cached and read in
            client.slow_times()
        self.before = self.memory, self.descriptors

    @property
    def memory(self) -> int:
        """Bytes of memory that the process has."""
        words = Path(f"/proc/{self.daemon.pid}/statm").read_text().split()
        return int(words[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def memory_grown(self) -> int:
        """Bytes more than before the attack."""
        return self.memory - self.before[0]

    def lines(self) -> tuple[int, int]:
        """How many lines of the access log there are, and others."""
        lines = self.daemon.log.splitlines()
        accesses = sum(' "' in line and "] " in line for line in lines)
        return accesses, len(lines) - accesses

    @contextlib.contextmanager
    def attack(self, kind: str, count: int) -> Iterator[None]:
        """Under attack; at the end the attacker is gone."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.attacks.attackers", kind),
                *(str(self.daemon.address[1]), str(count)),
            ],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield
            assert process.poll() is None, "the attacker gave up"
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def assert_others_are_served(self) -> None:
        """The p99 of a good client is at most WORST times that at the daemon beside.

        Both are measured in turn, so what else this machine does concerns both.
        """
        ratios = []
        for _ in range(ATTEMPTS):
            rounds = [[client.slow_times() for client in self.clients] for _ in range(ROUNDS)]
            attacked, calm = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratios.append(attacked / calm)
            if ratios[-1] <= WORST:
                return
        raise AssertionError(f"p99 under attack / without: {ratios}")

    def assert_nothing_is_left(self) -> None:
        """The descriptors of the attack are closed again."""
        wait_until(lambda: self.descriptors <= self.before[1] + 2, "descriptors are closed")


def wait_until(condition: Callable[[], bool], what: str, patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@pytest.fixture
def battle(daemon: Start, source: Path, tmp_path: Path) -> Callable[..., Battle]:
    """``battle(pair=..., head_timeout="1s", ...)`` starts both, with these [limits]."""

    def start(pair: Pair | None = None, **limits: str) -> Battle:
        flags: tuple[str, ...] = ("--admin", "off")
        if pair is not None:
            (tmp_path / "its.toml").write_text(pair.toml())
            flags += ("--config", os.fspath(tmp_path / "its.toml"))
        environment = {f"STREAMCACHE_LIMITS_{name.upper()}": limits[name] for name in limits}
        both = [daemon(source, *flags, environment=environment) for _ in range(2)]
        return Battle(both[0], both[1], pair)

    return start
