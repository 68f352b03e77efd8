"""Several servers over one cache directory, with no daemon between them: real processes.

Each test starts daemons that know nothing of each other. They share claims, reservations, leases
and the Evictor's election through the directory alone.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.content import Verifier, write
from tests.daemon_process import DaemonError, DaemonProcess
from tests.slowfs import SlowFS
from tests.system.site import MiB, disk_usage, least_usage, objects_in, partials_in

BLOCK = 64 * 1024
SIZE = 8 * MiB + 77
Start = Callable[..., DaemonProcess]


class Client(threading.Thread):
    """Reads bytes [start, end of file) of a path from one daemon, each byte checked."""

    def __init__(
        self, daemon: DaemonProcess, path: str, start: int = 0, *, content: str = "", size: int
    ) -> None:
        super().__init__(daemon=True)
        self.daemon_process = daemon
        self.error: str | None = None
        self.received = 0
        self.longest = 0.0  # s without a byte
        self._path = path
        self._start = start
        self._verifier = Verifier(content or path, start, size)
        self.start()

    def run(self) -> None:
        try:
            self._read()
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)

    def _read(self) -> None:
        connection = http.client.HTTPConnection(*self.daemon_process.address, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", f"/{self._path}", headers={"Range": f"bytes={self._start}-"})
            response = connection.getresponse()
            if response.status != 206:
                self.error = f"status {response.status}"
                return
            last = time.monotonic()
            while data := response.read1(1 << 20):
                now = time.monotonic()
                self.longest, last = max(self.longest, now - last), now
                self.received += len(data)
                self.error = self.error or self._verifier.feed(data)
            self.error = self.error or self._verifier.missing()

    def finish(self, wait: float = 60.0) -> str | None:
        """What went wrong, None: every byte came and was right."""
        self.join(wait)
        return "still reading" if self.is_alive() else self.error


def wait_until(condition: Callable[[], object], wait: float = 20.0) -> None:
    deadline = time.monotonic() + wait
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {wait} s"
        time.sleep(0.005)


@pytest.fixture
def start(slowfs: SlowFS, cache_dir: Path) -> Iterator[Start]:
    """``start()``: one more server of the same files over the same cache directory.

    What two of them read from the source counts twice: its pages are not kept by the kernel.
    """
    slowfs.set(direct=True)
    with contextlib.ExitStack() as stack:

        def one_more(
            *flags: str, size: str = "100MB", source: Path | None = None, claims: str = "2s"
        ) -> DaemonProcess:
            process = DaemonProcess(
                *(source or slowfs.path, "--workers", "1", "--log-level", "debug", *flags),
                cache_dir=cache_dir,
                cache_size=size,
                environment={"STREAMCACHE_COPY_CLAIM_TIMEOUT": claims},
            )
            return stack.enter_context(process)

        yield one_more


def film(slowfs: SlowFS, name: str = "film", size: int = SIZE, **options: str) -> None:
    write(slowfs.backing, name, size, **options)
    slowfs.drop_cache()


def settled(cache_dir: Path, daemons: list[DaemonProcess], objects: int) -> None:
    """All copies are objects, nothing else is left, and nobody says that the account is off."""
    wait_until(lambda: len(objects_in(cache_dir)) == objects)
    wait_until(lambda: not os.listdir(cache_dir / "partial"))
    for daemon in daemons:
        assert "account off" not in daemon.log
        assert "Traceback" not in daemon.log, daemon.log


def test_a_crowd_on_a_cold_file_reads_each_source_byte_once(
    slowfs: SlowFS, start: Start, cache_dir: Path
) -> None:
    film(slowfs)
    daemons = [start() for _ in range(3)]
    slowfs.reset()
    clients = [Client(daemons[number % 3], "film", size=SIZE) for number in range(12)]
    assert [client.finish() for client in clients] == [None] * 12
    assert slowfs.counters("film").bytes_read == SIZE
    settled(cache_dir, daemons, 1)


def test_seeks_in_several_processes_are_answered_at_once_and_kept(
    slowfs: SlowFS, start: Start, cache_dir: Path
) -> None:
    film(slowfs)
    slowfs.set(bandwidth=2 * MiB)  # 4 s for the file
    daemons = [start() for _ in range(2)]
    slowfs.reset()
    player = Client(daemons[0], "film", size=SIZE)
    wait_until(lambda: player.received)
    seekers = [
        Client(daemons[number % 2], "film", (SIZE * place // 100) // BLOCK * BLOCK, size=SIZE)
        for number, place in enumerate((90, 80, 70, 60))
    ]
    wait_until(lambda: all(seeker.received for seeker in seekers))
    assert player.received < SIZE // 2, "not behind the player's copy"
    assert [client.finish() for client in (player, *seekers)] == [None] * 5
    assert slowfs.counters("film").bytes_read == SIZE
    settled(cache_dir, daemons, 1)


def test_when_the_copying_process_is_killed_others_go_on(
    slowfs: SlowFS, start: Start, cache_dir: Path
) -> None:
    film(slowfs)
    slowfs.set(bandwidth=4 * MiB)
    first, second = (start(claims="60s") for _ in range(2))
    slowfs.reset()
    doomed = Client(first, "film", size=SIZE)
    wait_until(lambda: doomed.received > MiB)
    other = Client(second, "film", size=SIZE)
    wait_until(lambda: other.received > 2 * MiB)
    first.kill()
    assert other.finish() is None
    assert other.longest < 20.0, "it noticed, as claims of the dead are free at once"
    # What the dead one was just reading is read again: no more than it had in flight.
    assert SIZE <= slowfs.counters("film").bytes_read <= SIZE + 4 * MiB
    settled(cache_dir, [second], 1)


def test_a_process_that_is_stopped_holds_its_blocks_for_a_while_only(
    slowfs: SlowFS, start: Start, cache_dir: Path
) -> None:
    film(slowfs)
    slowfs.set(bandwidth=4 * MiB)
    first, second = (start(claims="500ms") for _ in range(2))
    stopped = Client(first, "film", size=SIZE)
    wait_until(lambda: stopped.received > MiB)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        other = Client(second, "film", size=SIZE)
        assert other.finish() is None
        assert other.longest < 5.0, "copy.claim_timeout is 0.5 s"
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert stopped.finish() is None
    settled(cache_dir, [first, second], 1)
    again = Client(second, "film", size=SIZE)
    assert again.finish() is None


def test_usage_is_never_above_the_limit_while_four_processes_fill(
    slowfs: SlowFS, start: Start, cache_dir: Path
) -> None:
    slowfs.set(latency=0.002, bandwidth=0, meta_latency=0.001)
    size, limit, names = MiB + 13, 12 * 10**6, [f"film{number}" for number in range(48)]
    for name in names:
        film(slowfs, name, size)
    daemons = [start(size=str(limit)) for _ in range(4)]
    highest, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], least_usage(cache_dir))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for turn in range(0, len(names), 8):
            clients = [
                Client(daemon, name, size=size)
                for name in names[turn : turn + 8]
                for daemon in daemons
            ]
            assert [client.finish() for client in clients] == [None] * len(clients)
    finally:
        done.set()
        watcher.join()
    assert limit // 2 < highest[0] <= limit
    # Evicted and copied again: the account is still right.
    wait_until(lambda: not os.listdir(cache_dir / "partial"))
    assert objects_in(cache_dir)
    for daemon in daemons:
        assert "Traceback" not in daemon.log, daemon.log


def test_when_the_evicting_process_is_killed_another_makes_room(
    slowfs: SlowFS, start: Start, cache_dir: Path
) -> None:
    slowfs.set(latency=0.002, bandwidth=0, meta_latency=0.001)
    size, names = MiB, [f"film{number}" for number in range(40)]
    for name in names:
        film(slowfs, name, size)
    for turn in range(3):
        first, second = start(size="8MB"), start(size="8MB")
        for name in names[:10]:
            assert Client(first, name, size=size).finish() is None
        clients = [Client(first, name, size=size) for name in names[10:20]]
        time.sleep(0.02 * turn)
        first.kill()
        for client in clients:
            client.finish()
        for name in names[20:]:
            assert Client(second, name, size=size).finish() is None
        assert disk_usage(cache_dir) <= 8 * 10**6
        wait_until(lambda daemon=second: "evicted objects=" in daemon.log)
        assert Client(second, names[-1], size=size).finish() is None
        assert second.stop() == 0


def test_two_versions_of_a_file_in_flight_in_two_processes(
    slowfs: SlowFS, start: Start, cache_dir: Path
) -> None:
    film(slowfs)
    slowfs.set(bandwidth=4 * MiB)
    first = start("--revalidate", "50ms")
    second = start("--revalidate", "50ms")
    old = Client(first, "film", size=SIZE)
    wait_until(lambda: old.received > MiB)
    write(slowfs.backing, "new", SIZE + 5)
    os.rename(slowfs.backing / "new", slowfs.backing / "film")
    time.sleep(0.1)
    new = Client(second, "film", content="new", size=SIZE + 5)
    assert new.finish() is None
    # One version for its whole life: all of the old one, or cut short.
    error = old.finish()
    assert error is None or "IncompleteRead" in error, error
    settled(cache_dir, [first, second], 1)
    assert list(objects_in(cache_dir).values()) == [SIZE + 5]
    assert Client(first, "film", content="new", size=SIZE + 5).finish() is None


def test_who_reads_an_object_keeps_it_from_another_process(
    slowfs: SlowFS, start: Start, cache_dir: Path
) -> None:
    slowfs.set(latency=0.002, bandwidth=0, meta_latency=0.001)
    size, small = 24 * MiB, 8 * MiB  # more than the buffers of a connection hold
    film(slowfs, "film", size)
    others = [f"other{number}" for number in range(4)]
    for name in others:
        film(slowfs, name, small)
    first, second = start(size="44MB"), start(size="44MB")
    assert Client(first, "film", size=size).finish() is None
    wait_until(lambda: len(objects_in(cache_dir)) == 1)
    (kept,) = objects_in(cache_dir)
    connection = http.client.HTTPConnection(*first.address, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/film")
        response = connection.getresponse()
        verifier = Verifier("film", 0, size)
        assert verifier.feed(response.read(1000)) is None
        for name in others:
            assert Client(second, name, size=small).finish() is None
            assert kept in objects_in(cache_dir)
        assert "evicted objects=" in first.log + second.log
        while data := response.read1(1 << 20):
            assert verifier.feed(data) is None
        assert verifier.missing() is None


def test_a_partial_of_a_dead_process_is_continued_by_another(
    slowfs: SlowFS, start: Start, cache_dir: Path
) -> None:
    film(slowfs)
    slowfs.set(bandwidth=4 * MiB)
    first, second = start(), start()
    slowfs.reset()
    doomed = Client(first, "film", size=SIZE)
    wait_until(lambda: doomed.received > 4 * MiB)
    first.kill()
    doomed.finish()
    (partial,) = partials_in(cache_dir)
    kept = partial.present_bytes
    before = slowfs.counters("film").bytes_read
    assert Client(second, "film", size=SIZE).finish() is None
    assert slowfs.counters("film").bytes_read - before == SIZE - kept
    settled(cache_dir, [second], 1)


def test_another_size_is_refused(slowfs: SlowFS, start: Start, cache_dir: Path) -> None:
    start(size="100MB")
    with pytest.raises(DaemonError) as refused:
        start(size="50MB")
    line = str(refused.value).strip().splitlines()[-1]
    assert "cache.size" in line or "--cache-size" in line
    assert "100" in line


def test_servers_of_two_sources_share_one_directory(
    slowfs: SlowFS, start: Start, cache_dir: Path, tmp_path: Path
) -> None:
    film(slowfs)
    other = tmp_path / "other"
    other.mkdir()
    write(other, "film", MiB, content_name="another")
    daemons = [start(), start(source=other)]
    clients = [
        Client(daemons[0], "film", size=SIZE),
        Client(daemons[1], "film", content="another", size=MiB),
    ]
    assert [client.finish() for client in clients] == [None, None]
    settled(cache_dir, daemons, 2)
