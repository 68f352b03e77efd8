"""The daemon of ``fakes.py``, started."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.content import write
from tests.daemon.running import Running

REPOSITORY = Path(__file__).resolve().parents[2]

SIZE = 32 * 2**20  # of "film.mp4": more than socket buffers hold

Start = Callable[..., Running]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "films"
    path.mkdir()
    return path


@pytest.fixture
def films(source: Path) -> Path:
    """The same with two files in it: "film.mp4" and "small"."""
    for name, size in (("film.mp4", SIZE), ("small", 1024)):
        write(source, name, size, content_name="film")
    return source


@pytest.fixture
def start(tmp_path: Path, source: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def run(
        *flags: str,
        fake: str = "",
        shell: str = "",
        workers: int = 1,
        own_group: bool = False,
        **environment: str,
    ) -> Running:
        command = [sys.executable, "-m", "tests.daemon.fakes", "serve"]
        if "--source" not in flags:
            command.append(os.fspath(source))
        command += ["--cache-dir", os.fspath(tmp_path / "cache"), "--listen", "127.0.0.1:0"]
        command += ["--workers", str(workers)]
        command += [flag for flag in flags if flag != "--source"]
        if shell:
            command = ["sh", "-c", f"{shell}; exec {shlex.join(command)}"]
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "FAKE": fake, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=own_group,
        )
        started.append(process)
        return Running(process)

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()  # workers end by themselves, and then so do the pipes
        process.communicate()
