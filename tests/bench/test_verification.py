"""No figure without right bytes: each load notices a wrong one, and a scenario fails with it."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.client import checking, get
from tests.bench.driver import Load, LoadError
from tests.bench.peers import Server
from tests.bench.processes import Cores
from tests.bench.results import Meter, Results, Sample
from tests.bench.scenario import Bench
from tests.content import content

NAME = "film.mkv"
SIZE = 5 * 1024 * 1024  # two samples of load.py
CORES = Cores.here().all


class Broken(Server):
    """Serves the content, but for what ``spoil`` does to it."""

    def __init__(self, directory: Path, spoil: Callable[[bytearray], object] = len) -> None:
        super().__init__("broken", directory)
        self.body = bytearray(content(NAME, 0, SIZE))
        self.spoil = spoil

    def start(self) -> None:
        self.pid = 1
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.spoil(self.body)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(peer,), daemon=True))
            self._threads[-1].start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            data = b""
            try:
                while piece := peer.recv(65536):
                    data += piece
                    while b"\r\n\r\n" in data:
                        head, _, data = data.partition(b"\r\n\r\n")
                        peer.sendall(self._answer(head.decode()))
            except OSError:
                return

    def _answer(self, head: str) -> bytes:
        start, end = 0, len(self.body)
        ranged = re.search(r"Range: bytes=(\d+)-(\d*)", head)
        if ranged:
            start = int(ranged[1])
            end = int(ranged[2]) + 1 if ranged[2] else end
        status = b"206 Partial Content" if ranged else b"200 OK"
        return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (
            status,
            end - start,
            self.body[start:end],
        )


def flipped(offset: int) -> Callable[[bytearray], None]:
    def flip(body: bytearray) -> None:
        body[offset] ^= 1

    return flip


@contextmanager
def loaded(server: Server, kind: str, size: int = SIZE, **options: float) -> Iterator[Load]:
    with Load(kind, server.address, NAME, size, cores=CORES, **options) as load:
        yield load


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_bulk_counts_what_is_right(tmp_path: Path, seconds: float) -> None:
    with Broken(tmp_path) as server, loaded(server, "bulk", seconds=seconds) as load:
        load.started()
        said = load.result(30)
        assert said["bytes"] == SIZE if not seconds else said["bytes"] > 0


@pytest.mark.parametrize("offset", [0, 65535, 4 * 1024 * 1024 + 100])
def test_bulk_fails_with_a_wrong_byte_in_a_sample(tmp_path: Path, offset: int) -> None:
    with (
        Broken(tmp_path, flipped(offset)) as server,
        loaded(server, "bulk") as load,
        pytest.raises(LoadError, match="a wrong byte"),
    ):
        load.started()
        load.result(30)


def test_bulk_fails_with_another_length(tmp_path: Path) -> None:
    with (
        Broken(tmp_path, bytearray.pop) as server,
        loaded(server, "bulk") as load,
        pytest.raises(LoadError, match="no Content-Length"),
    ):
        load.started()
        load.result(30)


def test_probe_and_idle_end_with_what_they_saw(tmp_path: Path) -> None:
    small = bytearray.__delitem__
    with Broken(tmp_path, lambda body: small(body, slice(1024, None))) as server:
        with loaded(server, "probe", 1024) as load:
            load.started()
            said = load.stop()
        assert 0 < said["median"] <= said["p99"] <= said["longest"]
        with loaded(server, "idle", 1024, connections=5) as load:
            load.started()
            assert load.stop() == {"connections": 5}
        server.body[1000] ^= 1
        for kind in ("probe", "idle"):
            with loaded(server, kind, 1024) as load, pytest.raises(LoadError, match="wrong byte"):
                load.started()
                load.result(30)


def test_slow_readers_fail_with_a_wrong_byte(tmp_path: Path) -> None:
    with Broken(tmp_path) as server:
        with loaded(server, "slow", connections=2, seconds=0.4) as load:
            load.started()
            assert load.result(30)["rate"] > 10_000
        server.body[4000] ^= 1
        with (
            loaded(server, "slow", connections=2, seconds=5) as load,
            pytest.raises(LoadError, match="wrong"),
        ):
            load.started()
            load.result(30)


def test_a_scenario_fails_with_a_wrong_byte(tmp_path: Path) -> None:
    """Before: each server is read in full. Meanwhile: a client of ours compares."""
    bench = Bench(tmp_path, quick=True)
    expected = bench.expected(NAME, SIZE)
    with Broken(tmp_path) as server:
        bench.warm([server], (NAME, SIZE))
        with checking(server.address, NAME, expected, SIZE, pause=0.001):
            assert get(server.address, NAME, expected).received == SIZE
        server.body[3_000_000] ^= 1  # beyond any sample
        with pytest.raises(RuntimeError, match="a wrong byte"):
            bench.warm([server], (NAME, SIZE))
        with (
            pytest.raises(RuntimeError, match=r"while under load: .* wrong byte"),
            checking(server.address, NAME, expected, SIZE, pause=0.001),
        ):
            get(server.address, NAME, expected)


def test_servers_take_turns_and_the_median_counts(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    servers = [Broken(tmp_path), Broken(tmp_path)]
    servers[0].name, servers[1].name = "streamcache", "nginx"
    order: list[str] = []

    def once(server: Server) -> Sample:
        order.append(server.name)
        figures = {"streamcache": [5, 90, 4], "nginx": [2, 1, 2]}[server.name]
        value = figures[order.count(server.name) - 1]
        return Sample(value, cpu=1.0, seconds=1.0, work=value)

    results = bench.alternate(servers, Results(absent={"Varnish": "no varnishd"}), once, rounds=3)
    assert order == [
        *("streamcache", "nginx"),
        *("nginx", "streamcache"),
        *("streamcache", "nginx"),
    ]
    row = results.row("a", "/s", results.best(("nginx", "Varnish")), aim=">= 2", at_least=2)
    assert (row.measured, row.reference, row.ratio, row.met) == (5, 2, 2.5, True)
    assert row.others["Varnish"].note == "not run: no varnishd"
    assert results.cost_row("b", "s", 1.0, "nginx").measured == pytest.approx(1 / 5)


def test_the_meter_counts_the_servers_cpu(tmp_path: Path) -> None:
    class Itself(Broken):
        cpu = 5.0

    server = Itself(tmp_path)
    meter = Meter(server)
    server.cpu = 6.5
    sample = meter.sample(1.0)
    assert sample.cpu == 1.5
    assert sample.busy == pytest.approx(1.5 / sample.seconds)
