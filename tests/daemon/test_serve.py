"""The daemon's contract with whoever starts it: ready line, signals, exit codes, one line of error.

The cache and server are those of ``fakes.py``; ``test_daemon.py`` runs the real ones.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from streamcache.daemon.worker import COLLECTED
from tests.daemon.running import PATIENCE, Running, failed

REPOSITORY = Path(__file__).resolve().parents[2]

Start = Callable[..., Running]


def test_ready_is_one_line_with_real_port_paths_and_size(
    start: Start, source: Path, tmp_path: Path
) -> None:
    daemon = start()
    line = daemon.ready_line()
    *words, url, told_source, told_cache, size = shlex.split(line)
    assert words == ["streamcache", "ready", "on"]
    port = int(url.removeprefix("http://127.0.0.1:").removesuffix("/"))
    assert port > 0
    assert told_source == f"source={source}"
    assert told_cache == f"cache={tmp_path / 'cache'}"
    assert size == "size=123456789"
    socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    daemon.signal(signal.SIGTERM)
    code, out, log = daemon.end()
    assert (code, out) == (0, ""), log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_the_server_and_then_closes_the_cache(
    start: Start, number: signal.Signals
) -> None:
    daemon = start(STREAMCACHE_SERVER_DRAIN_TIMEOUT="7s")
    daemon.ready_line()
    daemon.signal(number)
    code, _, log = daemon.end()
    assert code == 0
    assert [line for line in log.splitlines() if "fake:" in line][1:] == [
        "fake: server.stop timeout=7.0",
        "fake: cache.close",
    ]
    assert f"draining, a second signal ends at once signal={number.name}" in log


def test_sigusr1_opens_logs_again(start: Start) -> None:
    daemon = start()
    daemon.ready_line()
    daemon.signal(signal.SIGUSR1)
    daemon.wait_for("fake: server.reopen_logs")
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_who_serves_looks_for_garbage_seldom_and_not_in_what_is_there_for_good(
    start: Start, workers: int
) -> None:
    daemon = start(workers=workers)
    daemon.ready_line()
    daemon.signal(signal.SIGUSR1)
    for _ in range(workers):
        daemon.wait_for_next(f"fake: server.reopen_logs collected={COLLECTED} frozen=True")
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_it_at_once(start: Start, number: signal.Signals) -> None:
    daemon = start(fake="hung-stop")
    daemon.ready_line()
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("fake: server.stop")
    daemon.signal(number)
    code, _, log = daemon.end()
    assert code == 128 + number
    assert "fake: cache.close" not in log


def test_a_signal_while_the_cache_starts_ends_it_without_a_ready_line(
    start: Start, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    daemon = start(fake="hung-start", FAKE_GATE=str(gate))
    daemon.wait_for("fake: cache.start")
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("draining")
    gate.touch()
    code, out, log = daemon.end()
    assert (code, out) == (0, "")
    assert "fake: cache.close" in log


def test_a_worker_thread_that_hangs_in_the_source_does_not_hold_up_the_end(start: Start) -> None:
    daemon = start(fake="hung-thread")
    daemon.ready_line()
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


def test_ipv6_stands_in_brackets(start: Start) -> None:
    daemon = start("--listen", "[::1]:0")
    line = daemon.ready_line()
    if not line:
        assert "assign requested address" in failed(daemon)
        pytest.skip("this machine has no IPv6")
    assert line.startswith("streamcache ready on http://[::1]:")


def test_a_unix_socket_is_told_with_its_absolute_path(start: Start, tmp_path: Path) -> None:
    name = os.path.relpath(tmp_path / "a b.sock", REPOSITORY)
    line = start("--listen", f"unix:{name}").ready_line()
    assert shlex.split(line)[3] == f"unix:{tmp_path / 'a b.sock'}"


def test_a_name_with_spaces_and_bytes_that_are_no_text_is_told_as_it_is(
    start: Start, tmp_path: Path
) -> None:
    odd = os.path.join(os.fsencode(tmp_path), b"caf\xe9 d'or")
    os.mkdir(odd)
    line = start("--source", os.fsdecode(odd)).ready_line()
    assert os.fsencode(shlex.split(line)[4]) == b"source=" + odd


def test_a_size_that_was_given_is_told(start: Start) -> None:
    assert start("--cache-size", "10GiB").ready_line().endswith(f" size={10 * 2**30}\n")


def test_the_limit_of_open_files_is_raised_to_the_hard_one(start: Start) -> None:
    daemon = start(shell="ulimit -Sn 300; ulimit -Hn 900")
    daemon.wait_for("files=900")


def test_it_serves_without_a_stdout(start: Start) -> None:
    daemon = start(shell="exec >&-")
    daemon.wait_for("serving url=http://127.0.0.1:")
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        ("in-use", "--cache-dir: cache.dir: {cache} is used by process 4711"),
        ("broken-cache", "--cache-dir: cache.dir: {cache} has no room for a catalog"),
        ("full-disk", "--cache-dir: cache.dir: [Errno 28] No space left on device: '{cache}'"),
        ("broken-source", "SOURCE: source.path: [Errno 5] Input/output error: "),
    ],
)
def test_a_cache_that_cannot_be_opened_is_2(
    start: Start, tmp_path: Path, fake: str, message: str
) -> None:
    assert message.format(cache=tmp_path / "cache") in failed(start(fake=fake))


def test_a_port_in_use_is_2_and_the_cache_is_not_touched(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        code, out, log = start("--listen", listen).end()
    assert (code, out) == (2, "")
    problem = f"--listen: server.listen: cannot listen on {listen}: address already in use"
    assert f"streamcache: error: {problem}" in log
    assert "fake: cache" not in log


def test_any_other_failure_is_1(start: Start) -> None:
    assert "the network card is on fire" in failed(start(fake="broken-server"), code=1)
