"""SIGHUP: settings are read again, checked first, and taken by all workers or by none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.manager import Manager
from tests.daemon.running import Running
from tests.daemon_process import children

Start = Callable[..., Running]

each = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "streamcache.toml"
    path.write_text("")
    return path


@each
def test_what_can_change_does_and_the_rest_is_named(start: Start, file: Path, workers: int) -> None:
    daemon = start("--config", str(file), workers=workers)
    daemon.ready_line()
    file.write_text('[source]\nrevalidate = "7s"\n[limits]\nconnections = 40\n'
                    '[server]\nbacklog = 9\n[cache]\ndir = "/elsewhere"\n')  # fmt: skip
    daemon.signal(signal.SIGHUP)
    for _ in range(workers):
        daemon.wait_for_next(f"fake: server.reconfigure connections={40 // workers}")
        daemon.wait_for_next("fake: cache.reconfigure revalidate=7.0")
    daemon.wait_for("reloaded changed=source.revalidate,limits.connections")
    # The flag of cache.dir wins over the file.
    daemon.wait_for("needs_restart=server.backlog\n")
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


@each
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[source]\nrevalidate = 'soon'\n", "source.revalidate: 'soon'"),
        ("[sauce]\n", "unknown section [sauce]"),
        ("[cache]\nlow_watermark = 0.99\n", "cache.low_watermark: 0.99 is not allowed"),
        ("[access]\nkeys = '/no/such/keys'\n", "access.keys: /no/such/keys cannot be read"),
        ("[log]\naccess = '/no/such/log'\n", "log.access: /no/such/log cannot be written"),
    ],
)
def test_a_bad_file_is_one_line_and_changes_nothing(
    start: Start, file: Path, workers: int, text: str, problem: str
) -> None:
    daemon = start("--config", str(file), workers=workers)
    daemon.ready_line()
    file.write_text(text)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("not reloaded, nothing has changed error=")
    daemon.wait_for(problem)
    daemon.signal(signal.SIGTERM)
    code, _, log = daemon.end()
    assert code == 0
    assert "reconfigure" not in log
    assert log.count("ERROR") == 1


@each
def test_a_working_directory_that_is_gone_ends_nobody(
    start: Start, file: Path, tmp_path: Path, workers: int
) -> None:
    file.write_text("[log]\nlevel = 'info'\n")
    gone = tmp_path / "release"
    gone.mkdir()
    shell = f"export PYTHONPATH=$PWD; cd {gone}"
    daemon = start(*("--config", str(file), "--pid-file", "../pid"), shell=shell, workers=workers)
    daemon.ready_line()
    gone.rmdir()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for(
        "not reloaded, nothing has changed error=cannot read it: No such file or directory"
    )
    daemon.signal(signal.SIGTERM)
    code, _, log = daemon.end()
    assert code == 0
    assert log.count("ERROR") == 1


@each
def test_the_level_of_the_log_changes(start: Start, file: Path, workers: int) -> None:
    daemon = start("--config", str(file), workers=workers)
    daemon.ready_line()
    file.write_text("[log]\nlevel = 'error'\n")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("cache.reconfigure")
    file.write_text("[nonsense]\n")
    daemon.signal(signal.SIGHUP)  # read after the first one, so its line comes at the new level
    daemon.wait_for("not reloaded")
    file.write_text("")
    daemon.signal(signal.SIGTERM)
    code, _, log = daemon.end()
    assert code == 0
    assert "draining" not in log.partition("not reloaded")[2]


def test_files_that_are_read_again_are_named(start: Start, file: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"k1 {'ab' * 32}\n")
    file.write_text(f'[access]\nkeys = "{keys}"\n')
    daemon = start("--config", str(file), workers=2)
    daemon.ready_line()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for(f"reloaded changed=nothing read_again={keys}\n")


def test_a_worker_that_is_born_later_has_the_new_settings(start: Start, file: Path) -> None:
    daemon = start("--config", str(file), workers=2, TEMPO_DELAY="0.01")
    daemon.ready_line()
    file.write_text("[limits]\nconnections = 40\n")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("reloaded changed=limits.connections")
    os.kill(children(daemon.process.pid)[0], signal.SIGKILL)
    daemon.wait_for("size=123456789 connections=20")


def test_who_does_not_answer_is_not_waited_for(start: Start, file: Path) -> None:
    daemon = start("--config", str(file), fake="hung-reload@w2", workers=2, TEMPO_RELOAD="0.3")
    daemon.ready_line()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("not reloaded workers=w2 reason=no answer")
    daemon.wait_for("reloaded changed=nothing")


def test_a_late_answer_is_none_to_the_next_reload(start: Start, file: Path, tmp_path: Path) -> None:
    environment = {"FAKE_GATE": str(tmp_path), "TEMPO_RELOAD": "0.5"}
    daemon = start("--config", str(file), fake="hung-reload@w2", workers=2, **environment)
    daemon.ready_line()
    for connections in (40, 60):
        file.write_text(f"[limits]\nconnections = {connections}\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_next("reloading")
        if connections == 60:
            (tmp_path / "20").touch()  # w2 is through with the first, and hangs in the second
        for _ in range(2):
            daemon.wait_for_next(f"fake: server.reconfigure connections={connections // 2}")
        daemon.wait_for_next("w2 reason=no answer")
        daemon.wait_for_next("reloaded changed=limits.connections")


def test_what_a_worker_cannot_do_is_said(start: Start, file: Path) -> None:
    daemon = start("--config", str(file), fake="broken-reload@w1", workers=2)
    daemon.ready_line()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("not reloaded worker=w1 error=access.keys: gone")
    daemon.wait_for("reloaded changed=nothing")


@each
def test_a_signal_before_the_start_is_over_is_not_lost(
    start: Start, file: Path, tmp_path: Path, workers: int
) -> None:
    gate = tmp_path / "gate"
    daemon = start("--config", str(file), fake="hung-start", FAKE_GATE=str(gate), workers=workers)
    daemon.wait_for("fake: cache.start")
    file.write_text("[limits]\nconnections = 40\n")
    daemon.signal(signal.SIGHUP)
    gate.touch()
    daemon.wait_for("reloaded changed=limits.connections")


def test_a_file_that_hangs_holds_nobody(start: Start, file: Path) -> None:
    daemon = start("--config", str(file))
    daemon.ready_line()
    file.unlink()
    os.mkfifo(file)  # who opens it waits for somebody who writes
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_next("received signal=SIGHUP")
    daemon.signal(signal.SIGUSR1)
    daemon.wait_for("fake: server.reopen_logs")
    file.write_text("[limits]\nconnections = 40\n")
    daemon.wait_for("reloaded changed=limits.connections")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_next("received signal=SIGHUP")
    daemon.signal(signal.SIGTERM)
    assert daemon.end()[0] == 0


@each
def test_the_service_manager_hears_of_it_in_order(
    start: Start, file: Path, tmp_path: Path, workers: int
) -> None:
    with Manager(tmp_path) as manager:
        daemon = start("--config", str(file), workers=workers, **manager.environment)
        ready = manager.next()
        assert ready["READY"] == "1"
        assert ready["MAINPID"] == str(daemon.process.pid)
        assert ready["STATUS"].startswith("serving http://127.0.0.1:")
        for text, says in (("[limits]\nconnections = 40\n", "; reloaded"), ("[x]\n", "; not ")):
            file.write_text(text)
            daemon.signal(signal.SIGHUP)
            begun = manager.next()
            assert begun["RELOADING"] == "1"
            assert int(begun["MONOTONIC_USEC"]) > 0
            done = manager.next()
            assert done["READY"] == "1"
            assert says in done["STATUS"]
        daemon.signal(signal.SIGTERM)
        assert manager.next()["STOPPING"] == "1"
        assert daemon.end()[0] == 0
