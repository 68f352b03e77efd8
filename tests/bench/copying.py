"""The copy of a fast source, beside ``cp``; and what a large object costs in memory."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.bench import load, processes, programs
from tests.bench.driver import Load
from tests.bench.peers import StreamCache
from tests.bench.report import Figure, Row
from tests.bench.results import OURS, Meter, Results, Sample
from tests.bench.scenario import SMALL, SMALL_SIZE, Bench, GiB, MiB, scenario
from tests.content import SETTLED, content, write

FILE = "big.bin"
MEMORY = "/dev/shm"
COPY = "cp --reflink=never"
READ_ALONG = "cp, and a client that reads along"  # what that costs without us
UNSYNCED = "tests.bench.unsynced"
TURN = 2 * MiB  # bytes sent at once
PATIENCE = 120.0  # s for a copy
SLACK = 2.0  # MB: what "no more memory" may differ by from run to run


@scenario("cold")
def fast_source(bench: Bench) -> list[Row]:
    """The copy of 1 GiB from memory, beside cp: to memory (no fsync costs anything), to disk."""
    size = 256 * MiB if bench.quick else GiB
    rows = []
    with _in_memory(2 * size) as memory:
        write(memory / "source", FILE, size)
        write(memory / "source", SMALL, SMALL_SIZE)
        for place, root in (("memory", memory), ("disk", bench.root)):
            rows += _copies(bench, memory / "source", root, size, place)
    return rows


def _copies(bench: Bench, source: Path, root: Path, size: int, place: str) -> list[Row]:
    """Without syncs on either side, as the aim has it; then as it runs, beside a synced cp."""
    received, alone, durably, published, stalls = *(Results() for _ in range(4)), []

    def once(results: Results, name: str, sample: Sample) -> None:
        results.samples.setdefault(name, []).append(sample)

    for _ in range(min(bench.rounds, 3)):
        with tempfile.TemporaryDirectory(prefix="copy-", dir=root) as name:
            there = Path(name)
            plain, synced = (_cp(source, there, size, sync=sync) for sync in (False, True))
            followed = _cp(source, there, size, sync=False, read_along=True)
            for results, reference in (
                *((received, plain), (alone, plain)),
                *((durably, synced), (published, synced)),
            ):
                once(results, COPY, reference)
            once(received, READ_ALONG, followed)
            for module, with_reader, without in (
                (UNSYNCED, received, alone),
                ("streamcache", durably, published),
            ):
                with _copying(bench, source, there, size, module) as server:
                    once(with_reader, OURS, _read_it(bench, server, size))
                with _copying(bench, source, there, size, module) as server:
                    once(without, OURS, _leave_it(server, size))
            with _copying(bench, source, there, size) as server:
                stalls.append(_stall(bench, server, size))
    what = f"copy of {size // MiB} MiB from memory to {place}, neither side syncing"
    aim = {"aim": ">= 0.8", "at_least": 0.8}
    return [
        received.row(
            f"{what}: to the last byte that its reader gets, against cp",
            *("GB/s", COPY),
            **aim,
            note="cp alone sends nothing to anybody",
        ),
        received.cost_row("... CPU of copying and sending", "s/GiB", 1.0, COPY),
        alone.row("... nobody reads it: until it is published, against cp", "GB/s", COPY, **aim),
        alone.cost_row("... CPU of that", "s/GiB", 1.0, COPY, aim="<= 1.5", at_most=1.5),
        durably.row(
            "... as it runs, synced on the way: until its reader has it and it is published,"
            " against cp and fsync",
            *("GB/s", COPY),
        ),
        published.row("... the same, nobody reads it", "GB/s", COPY),
        published.cost_row("... CPU of that", "s/GiB", 1.0, COPY),
        Row(
            "... longest wait of a 1 KiB hit meanwhile, beyond the usual",
            sorted(stalls)[len(stalls) // 2],
            "ms",
            note="the hub is never to be held",
        ),
    ]


def _cp(source: Path, there: Path, size: int, *, sync: bool, read_along: bool = False) -> Sample:
    """``read_along``: to the last byte that a client has, who is sent what cp has written."""
    target = there / "copied"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, own = time.monotonic(), time.thread_time()
    cp = programs.require("cp")
    with subprocess.Popen([cp, "--reflink=never", str(source / FILE), str(target)]) as copying:
        if read_along:
            _send_along(target, size)
    seconds = time.monotonic() - began
    if copying.returncode:
        raise RuntimeError(f"{COPY} ended with {copying.returncode}")
    if sync:
        fd = os.open(target, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        seconds = time.monotonic() - began
    own = time.thread_time() - own
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own + after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    target.unlink()
    os.sync()  # what it wrote must not be written out while the next one is measured
    return Sample(size / seconds / 1e9, cpu, seconds, size / GiB)


def _send_along(target: Path, size: int) -> None:
    """Send the file that grows there over loopback to a client that throws it away."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = threading.Thread(target=_throw_away, args=(listener.getsockname(), size))
        client.start()
        peer = listener.accept()[0]
    deadline = time.monotonic() + PATIENCE
    while not target.exists() and time.monotonic() < deadline:
        time.sleep(0.0001)
    with peer, open(target, "rb") as file:
        sent = 0
        while sent < size and time.monotonic() < deadline:
            there = os.fstat(file.fileno()).st_size
            if there - sent < min(MiB, size - sent):
                time.sleep(0.0002)
            else:
                sent += os.sendfile(peer.fileno(), file.fileno(), sent, min(TURN, there - sent))
    client.join()


def _throw_away(address: tuple[str, int], size: int) -> None:
    with socket.create_connection(address, timeout=PATIENCE) as peer:
        buffer = bytearray(MiB)
        while size > 0 and (count := peer.recv_into(buffer, 0, socket.MSG_TRUNC)):
            size -= count


@contextlib.contextmanager
def _copying(
    bench: Bench, source: Path, there: Path, size: int, module: str = "streamcache"
) -> Iterator[StreamCache]:
    """A server with an empty cache, in which one file is copied inside; its bytes are compared."""
    with StreamCache(source, there / "server", module=module) as server:
        bench.warm([server], (SMALL, SMALL_SIZE))
        yield server
        [copied] = [path for path in server.objects() if path.stat().st_size == size]
        subprocess.run(["cmp", str(copied), str(source / FILE)], check=True)
    shutil.rmtree(there / "server")
    os.sync()


def _read_it(bench: Bench, server: StreamCache, size: int) -> Sample:
    """To the last byte received; with its syncs, also to the object under its name."""
    with Load("bulk", server.address, FILE, size, cores=bench.cores.all) as client:
        client.started()
        meter = Meter(server)
        said = client.result()
        got = meter.sample(said["bytes"] / said["seconds"] / 1e9, size / GiB)
    durable = _published(server, meter, size)
    return got if server.module == UNSYNCED else durable


def _leave_it(server: StreamCache, size: int) -> Sample:
    """A client causes the copy and leaves after its first byte."""
    meter = Meter(server)
    _ask(server)
    return _published(server, meter, size)


def _stall(bench: Bench, server: StreamCache, size: int) -> float:
    """ms."""
    cores = bench.cores.all
    with Load("probe", server.address, SMALL, SMALL_SIZE, cores=cores, pause=0.001) as probe:
        probe.started()
        _ask(server)
        _published(server, Meter(server), size)
        said = probe.stop()
    return (said["longest"] - said["median"]) * 1000


def _ask(server: StreamCache) -> None:
    with socket.create_connection(server.address, timeout=10) as peer:
        peer.sendall(f"GET /{FILE} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        if peer.recv(12) != b"HTTP/1.1 200":
            raise RuntimeError(f"{FILE} is not served")


def _published(server: StreamCache, meter: Meter, size: int) -> Sample:
    """When the object has its name; value: GB/s until then."""
    deadline = time.monotonic() + PATIENCE
    while not any(path.stat().st_size == size for path in server.objects()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not published after {PATIENCE} s: {server.log[-500:]}")
        time.sleep(0.005)
    sample = meter.sample(0.0, size / GiB)
    return replace(sample, value=size / sample.seconds / 1e9)


@scenario("cold")
def large_object(bench: Bench) -> list[Row]:
    """Memory for a 10 GiB object, copied and then served, beside that for 10 MiB."""
    sizes = {"10 MiB": 10 * MiB, "10 GiB": 10 * GiB}
    if bench.quick:
        sizes = {"10 MiB": 10 * MiB, "1 GiB": GiB}
    peaks, cpu = {}, {}
    small, large = sizes
    with _in_memory(sizes[large], fallback=bench.root) as root:
        for name, size in sizes.items():
            (root / "source").mkdir(exist_ok=True)
            sampled(root / "source" / FILE, size)
            with StreamCache(root / "source", root / "server") as server:
                before = processes.peak(server.pid)
                for _ in range(2):  # cold, then as a hit
                    with Load("bulk", server.address, FILE, size, cores=bench.cores.all) as client:
                        client.started()
                        client.result()
                    while not server.objects():
                        time.sleep(0.01)
                peaks[name] = (processes.peak(server.pid) - before) / 1e6
                cpu[name] = server.cpu
            shutil.rmtree(root / "server")
            (root / "source" / FILE).unlink()
    return [
        Row(
            f"most memory over idle for a {large} object, beside a {small} one: the difference",
            peaks[large] - peaks[small],
            "MB",
            aim=f"<= {SLACK:g} MB",
            at_most=SLACK,
            cpu=cpu[large],
            others={name: Figure(value, cpu[name]) for name, value in peaks.items()},
        )
    ]


def sampled(path: Path, size: int) -> None:
    """A sparse file that has content where load.py compares it, and holes elsewhere."""
    with open(path, "wb") as file:
        file.truncate(size)
        for offset in range(0, size, load.EACH):
            data = content(path.name, offset, min(offset + load.SAMPLE, size))
            os.pwrite(file.fileno(), data, offset)
    then = time.time() - SETTLED
    os.utime(path, (then, then))


@contextlib.contextmanager
def _in_memory(need: int, *, fallback: Path | None = None) -> Iterator[Path]:
    """A directory on tmpfs that has room for ``need`` bytes twice over; else on the disk."""
    place = MEMORY
    with open("/proc/meminfo") as lines:
        available = next(int(line.split()[1]) for line in lines if "MemAvailable" in line) * 1024
    if not os.path.isdir(MEMORY) or min(shutil.disk_usage(MEMORY).free, available) < 1.3 * need:
        if fallback is None:
            raise RuntimeError(f"{MEMORY} has no room for {need // MiB} MiB")
        place = str(fallback)
    with tempfile.TemporaryDirectory(
        prefix="bench-", dir=place, ignore_cleanup_errors=True
    ) as path:
        yield Path(path)
