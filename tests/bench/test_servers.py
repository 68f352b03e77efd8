"""The servers of the bench itself: the slow origin, the Python peers, and the command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bench import __main__ as command
from tests.bench import programs
from tests.bench.client import Expected, get
from tests.bench.peers import Nginx, NginxSlice, Origin, PythonPeer, Rclone, Server, Varnish
from tests.bench.processes import cpu_seconds
from tests.bench.report import BEGIN, END, Row
from tests.bench.scenario import SCENARIOS, Bench
from tests.content import write
from tests.requirements import missing

NAME = "a.mkv"
SIZE = 1_500_000


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write(tmp_path / "files", NAME, SIZE)
    return tmp_path / "files"


def test_the_origin_is_as_slow_as_told_and_counts(files: Path, tmp_path: Path) -> None:
    with Origin(files, tmp_path / "origin", latency=0.05, bandwidth=SIZE / 0.2) as origin:
        expected = Expected(NAME, SIZE)
        whole = get(origin.address, NAME, expected).require()
        assert whole.first_byte >= 0.05
        assert whole.done >= 0.25
        get(origin.address, NAME, expected, 1000, 2000).require()
        assert origin.bytes_sent() == SIZE + 1000
        assert get(origin.address, "none", expected).status == 404


@pytest.mark.parametrize("kind", ["nginx", "nginx slice", "Varnish", "rclone", "pywsgi", "aiohttp"])
def test_each_peer_serves_right_bytes_and_ends(files: Path, tmp_path: Path, kind: str) -> None:
    with Origin(files, tmp_path / "origin", latency=0.0, bandwidth=0.0) as origin:
        there = tmp_path / "server"
        server: Server = {
            "nginx": lambda: Nginx(files, there),
            "nginx slice": lambda: NginxSlice(origin.address, there),
            "Varnish": lambda: Varnish(origin.address, there),
            "rclone": lambda: Rclone(files, there),
            "pywsgi": lambda: PythonPeer("pywsgi", files, there),
            "aiohttp": lambda: PythonPeer("aiohttp", files, there),
        }[kind]()
        try:
            with server:
                expected = Expected(NAME, SIZE)
                get(server.address, NAME, expected).require()
                assert server.memory > 500_000
                tries = 0
                while not server.cpu:  # counted in steps of 10 ms
                    get(server.address, NAME, expected).require()
                    tries += 1
                    assert tries < 1000
        except programs.NotHere as why:
            missing(str(why))
        assert cpu_seconds(server.pid) == 0


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bin/bench", "--dir", str(tmp_path), *arguments])
    return command.main()


def test_a_scenario_that_fails_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def good(_bench: Bench) -> list[Row]:
        """Something good."""
        return [Row("good", 1.0, at_most=0.5)]

    def bad(_bench: Bench) -> list[Row]:
        """Something bad."""
        raise RuntimeError("a wrong byte in [0, 1)")

    monkeypatch.setattr(command, "SCENARIOS", {"cold.bad": bad, "cold.good": good})
    document = tmp_path / "document.md"
    document.write_text(f"{BEGIN}\n{END}\n")
    assert run(monkeypatch, tmp_path, "--markdown", str(document)) == 1
    table = capsys.readouterr().out
    assert "failed: a wrong byte in [0, 1)" in table
    assert "| good | 1.0000 |" in table
    assert table.strip() in document.read_text()
    assert run(monkeypatch, tmp_path, "--only", "good") == 0  # a missed aim is no failure
    assert run(monkeypatch, tmp_path, "--list") == 0
    assert "Something bad." in capsys.readouterr().out


def test_every_scenario_says_what_it_is() -> None:
    assert len(SCENARIOS) > 20
    assert all(function.__doc__ for function in SCENARIOS.values())
