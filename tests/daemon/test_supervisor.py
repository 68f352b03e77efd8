"""The supervisor's contract with whoever starts the daemon; its workers are those of ``fakes.py``.

``test_workers.py`` has workers that serve.
"""

from __future__ import annotations

import os
import resource
import shlex
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.running import PATIENCE, Running, failed
from tests.daemon_process import children, process_name

Start = Callable[..., Running]


def names(daemon: Running) -> list[str]:
    pids = [daemon.process.pid, *children(daemon.process.pid)]
    return [process_name(pid) for pid in pids]


def test_it_says_ready_once_when_all_are_and_processes_have_names(start: Start) -> None:
    daemon = start(workers=3)
    words = shlex.split(daemon.ready_line())
    assert names(daemon) == ["streamcache", "streamcache w1", "streamcache w2", "streamcache w3"]
    host, port = words[3].removeprefix("http://").removesuffix("/").split(":")
    socket.create_connection((host, int(port)), PATIENCE).close()
    daemon.signal(signal.SIGTERM)
    code, out, log = daemon.end()
    assert (code, out) == (0, ""), log
    assert log.count("fake: cache.start") == log.count("fake: cache.close") == 3
    # As the fakes counted: 3 hits and a miss each.
    assert "served requests=12 hits=9 bytes=900 from_source=0" in log


def test_all_have_the_size_that_the_first_one_found(start: Start) -> None:
    daemon = start("--cache-size", "0", workers=3)
    assert daemon.ready_line().endswith(" size=123456789\n")
    daemon.signal(signal.SIGTERM)
    log = daemon.end()[2]
    assert log.count("size=0") == 1
    assert log.count("size=123456789 connections") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_every_worker(start: Start, number: signal.Signals) -> None:
    daemon = start(workers=2, STREAMCACHE_SERVER_DRAIN_TIMEOUT="7s")
    daemon.ready_line()
    daemon.signal(number)
    code, _, log = daemon.end()
    assert code == 0
    assert log.count("fake: server.stop timeout=7.0") == 2
    assert log.count("fake: cache.close") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_all_at_once(start: Start, number: signal.Signals) -> None:
    daemon = start(fake="hung-stop", workers=2)
    daemon.ready_line()
    daemon.signal(signal.SIGTERM)
    for _ in range(2):
        daemon.wait_for_next("fake: server.stop")
    daemon.signal(number)
    code, _, log = daemon.end()  # the pipes end with the last process
    assert code == 128 + number
    assert "fake: cache.close" not in log


def test_ctrl_c_that_everybody_hears_is_one_signal(start: Start) -> None:
    daemon = start(workers=2, own_group=True)
    daemon.ready_line()
    os.killpg(daemon.process.pid, signal.SIGINT)
    code, _, log = daemon.end()
    assert code == 0
    assert "second signal, " not in log
    assert log.count("fake: cache.close") == 2


def test_a_worker_that_hangs_while_it_drains_is_killed_in_the_end(start: Start) -> None:
    daemon = start(
        fake="hung-stop@w1", workers=2, STREAMCACHE_SERVER_DRAIN_TIMEOUT="0", TEMPO_GRACE="0.5"
    )
    daemon.ready_line()
    daemon.signal(signal.SIGTERM)
    code, _, log = daemon.end()
    assert code == 1
    assert "killed worker=w1" in log
    assert "killed worker=w2" not in log


def test_orders_that_workers_hear_too_are_the_supervisors_alone(start: Start) -> None:
    daemon = start(workers=2)
    daemon.ready_line()
    workers = children(daemon.process.pid)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
        for pid in workers:
            os.kill(pid, number)
    daemon.signal(signal.SIGUSR1)
    for _ in range(2):
        daemon.wait_for_next("fake: server.reopen_logs")
    assert children(daemon.process.pid) == workers
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


def test_a_worker_that_is_being_born_opens_its_log_again_too(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    daemon = start(fake="hung-start@w2", workers=2, TEMPO_DELAY="0.05", FAKE_GATE=str(gate))
    daemon.ready_line()
    for _ in range(2):
        daemon.wait_for_next("fake: cache.start")
    gate.unlink()
    os.kill(children(daemon.process.pid)[1], signal.SIGKILL)
    daemon.wait_for_next("fake: cache.start")
    daemon.signal(signal.SIGUSR1)
    daemon.wait_for_next("fake: server.reopen_logs")
    gate.touch()
    daemon.wait_for_next("fake: server.reopen_logs")
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


@pytest.mark.parametrize("who", ["w1", "w2"])
@pytest.mark.parametrize(
    ("fake", "code", "message"),
    [
        ("in-use", 2, "--cache-dir: cache.dir: {cache} is used by process 4711"),
        ("broken-source", 2, "SOURCE: source.path: [Errno 5] Input/output error: "),
        ("broken-server", 1, "the network card is on fire"),
        ("crash", 1, "worker {who} died at its start (signal=SIGKILL)"),
    ],
)
def test_a_worker_that_cannot_start_ends_the_daemon_with_its_one_line(
    start: Start, tmp_path: Path, fake: str, code: int, message: str, who: str
) -> None:
    daemon = start("--log-level", "error", fake=f"{fake}@{who}", workers=3)
    wanted = message.format(cache=tmp_path / "cache", who=who)
    assert wanted in failed(daemon, code)


def test_what_the_first_worker_finds_wrong_is_the_only_line(start: Start) -> None:
    assert "is used by process 4711" in failed(start(fake="in-use@w1", workers=2))


def test_a_worker_that_accepts_is_said_with_its_number(start: Start) -> None:
    daemon = start(workers=2)
    daemon.ready_line()
    for number, pid in enumerate(children(daemon.process.pid), 1):
        daemon.wait_for(f"started worker=w{number} pid={pid}\n")
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


def test_an_address_in_use_is_2_and_nothing_is_started(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        line = failed(start("--listen", listen, workers=2))
    problem = f"--listen: server.listen: cannot listen on {listen}: address already in use"
    assert problem in line
    path = tmp_path / "no" / "such.sock"
    line = failed(start("--listen", f"unix:{path}", workers=2))
    assert f"cannot listen on unix:{path}: no such file or directory" in line


def test_a_signal_while_a_worker_starts_ends_all_without_a_ready_line(
    start: Start, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    daemon = start(fake="hung-start@w2", workers=2, FAKE_GATE=str(gate))
    for _ in range(2):
        daemon.wait_for_next("fake: cache.start")
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("ends at once signal=SIGTERM")
    gate.touch()
    code, out, log = daemon.end()
    assert (code, out) == (0, ""), log
    assert log.count("fake: cache.close") == 2


def test_a_worker_that_dies_again_and_again_is_waited_for_longer_and_longer(
    start: Start, tmp_path: Path
) -> None:
    daemon = start(fake="crash-again@w2", workers=2, TEMPO_DELAY="0.05", FAKE_GATE=str(tmp_path))
    daemon.ready_line()
    os.kill(children(daemon.process.pid)[1], signal.SIGKILL)
    first = children(daemon.process.pid)[0]
    for delay in ("0.05", "0.1", "0.2", "0.4", "0.8"):
        daemon.wait_for(f"again_in={delay}")
    assert children(daemon.process.pid)[0] == first
    daemon.signal(signal.SIGTERM)
    code, _, log = daemon.end()
    assert code == 0, log
    assert log.count("died worker=w2") >= 5
    assert "died worker=w1" not in log


def test_a_worker_that_lived_has_its_successor_soon(start: Start, tmp_path: Path) -> None:
    daemon = start(
        fake="crash-again@w2",
        workers=2,
        TEMPO_DELAY="0.05",
        TEMPO_LIVED="0",
        FAKE_GATE=str(tmp_path),
    )
    daemon.ready_line()
    os.kill(children(daemon.process.pid)[1], signal.SIGKILL)
    for _ in range(4):
        daemon.wait_for_next("again_in=0.05")
    daemon.signal(signal.SIGTERM)
    code, _, log = daemon.end()
    assert code == 0
    assert "again_in=0.1" not in log


def test_without_descriptors_it_waits_and_the_others_serve_on(start: Start) -> None:
    daemon = start(workers=2, TEMPO_DELAY="0.05")
    daemon.ready_line()
    pid = daemon.process.pid
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, hard))  # all are in use; poll needs some
    os.kill(children(pid)[1], signal.SIGKILL)
    daemon.wait_for("error=Too many open files")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    daemon.wait_for_next("started worker=w2")
    daemon.wait_for_next("started worker=w2")
    daemon.signal(signal.SIGTERM)
    code, _, log = daemon.end()
    assert code == 0, log
    assert "died worker=w1" not in log


def test_a_worker_that_is_told_to_end_has_a_successor(start: Start) -> None:
    daemon = start(workers=2, TEMPO_DELAY="0.05")
    daemon.ready_line()
    os.kill(children(daemon.process.pid)[0], signal.SIGTERM)
    daemon.wait_for("died worker=w1")
    daemon.wait_for("started worker=w1")
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


def test_workers_of_a_supervisor_that_was_killed_end_by_themselves(start: Start) -> None:
    daemon = start(workers=2)
    daemon.ready_line()
    daemon.signal(signal.SIGKILL)
    code, _, log = daemon.end()  # the pipe of the log ends with the last worker
    assert code == -signal.SIGKILL
    assert log.count("the supervisor is gone") == log.count("fake: cache.close") == 2


def test_a_hub_before_the_fork_is_an_error_and_no_shared_hub(start: Start) -> None:
    code, out, log = start(fake="hub", workers=2).end()
    assert (code, out) == (1, "")
    assert "a hub was made before the fork" in log


def test_a_unix_socket_is_the_supervisors(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    daemon = start("--listen", f"unix:{path}", workers=2, TEMPO_DELAY="0.05")
    assert f"unix:{path}" in daemon.ready_line()
    os.kill(children(daemon.process.pid)[0], signal.SIGTERM)
    daemon.wait_for("died worker=w1")
    assert path.exists()  # not the worker's to remove
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0
    assert not path.exists()


def test_a_worker_has_the_listener_its_line_and_nothing_else_of_the_supervisor(
    start: Start,
) -> None:
    daemon = start(workers=3)
    daemon.ready_line()
    stdout = os.stat(f"/proc/{daemon.process.pid}/fd/1").st_ino
    for pid in children(daemon.process.pid):
        kinds = []
        for name in os.listdir(f"/proc/{pid}/fd"):
            found = os.stat(f"/proc/{pid}/fd/{name}")
            assert found.st_ino != stdout
            kinds += ["socket"] * stat.S_ISSOCK(found.st_mode)
        assert len(kinds) == 4  # and two admin listeners: the shared one, and its own
    # The lines are all that the supervisor keeps of them; and its own pair, and the listeners.
    held = os.listdir(f"/proc/{daemon.process.pid}/fd")
    sockets = [
        name
        for name in held
        if stat.S_ISSOCK(os.stat(f"/proc/{daemon.process.pid}/fd/{name}").st_mode)
    ]
    assert len(sockets) == 3 + 2 + 2


def test_it_serves_without_a_stdout(start: Start) -> None:
    daemon = start(workers=2, shell="exec >&-")
    daemon.wait_for("serving url=http://127.0.0.1:")
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0
