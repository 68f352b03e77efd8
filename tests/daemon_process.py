"""The real daemon in a process of its own: started on a free port, ended by its id."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parents[1]
START_TIMEOUT = 30.0  # s
STOP_TIMEOUT = 30.0  # s


class DaemonError(Exception):
    """The daemon did not start or did not end; the message holds the end of its log."""


class DaemonProcess:
    """``python -m streamcache serve SOURCE`` with a cache directory of its own.

    One worker, which is this process itself, unless a test asks for more: ``pid`` is then that of
    the supervisor, and ``worker_pids`` are its children.

    Use as a context manager; leaving it ends the process. ``cache_dir`` and ``log`` outlive it
    when they are given, so that the next one can start on the same cache.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *arguments: str,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_size: str = "2GB",
        workers: int = 1,
        module: str = "streamcache",
        environment: dict[str, str] | None = None,
        python: str = sys.executable,
        begun: Callable[[int], object] = lambda _pid: None,
    ) -> None:
        """``begun`` is told the process id before the daemon is ready."""
        self._temporary = tempfile.TemporaryDirectory(
            prefix="streamcache-", ignore_cleanup_errors=True
        )
        self._ended_by_us = False
        directory = Path(self._temporary.name)
        self.cache_dir = Path(cache_dir) if cache_dir is not None else directory / "cache"
        self._log = directory / "log"
        command = [
            *(python, "-m", module, "serve", os.fspath(source)),
            *("--listen", "127.0.0.1:0"),
            *("--workers", str(workers)),
            *("--cache-dir", os.fspath(self.cache_dir)),
            *("--cache-size", cache_size),
            *arguments,
        ]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        begun(self._process.pid)
        try:
            self.ready_line = self._first_line()
            self.url = _url(self.ready_line)
        except BaseException:
            self.kill()
            self.close()
            raise
        parts = urlsplit(self.url)
        # A Unix socket has neither.
        self.address = (parts.hostname or "", parts.port or 0)

    def __enter__(self) -> DaemonProcess:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self.code is None else f"ended with {self.code}"
        return f"<DaemonProcess {self.url} pid={self.pid} {state}>"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def worker_pids(self) -> dict[str, int]:
        """The process ids of several workers now, by name: "w1" ..."""
        found = {}
        for pid in children(self.pid):
            name = process_name(pid)
            if name.startswith("streamcache w"):
                found[name.removeprefix("streamcache ")] = pid
        return found

    @property
    def admin(self) -> str:
        """The path of its admin socket."""
        return self.log.partition("admin listener url=unix:")[2].partition("\n")[0]

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    @property
    def crashed(self) -> bool:
        """Whether it ended without having been asked to."""
        return self.code is not None and not self._ended_by_us

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        return self._log.read_text(errors="replace")

    def stop(self) -> int:
        """Ask it to drain (SIGTERM) and wait for its end; the exit code."""
        if self._process.poll() is None:
            self._ended_by_us = True
            self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, which was asked for; the exit code."""
        self._ended_by_us = True
        try:
            return self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DaemonError(f"no end {STOP_TIMEOUT:g} s after SIGTERM\n{self._end()}") from None

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self._process.poll() is None:
            self._ended_by_us = True
        self._process.kill()
        self._process.wait()

    def more_output(self) -> str:
        """What it printed after the ready line; call it after the end."""
        assert self._process.stdout is not None
        return self._process.stdout.read().decode(errors="replace")

    def close(self) -> None:
        """End it, if it runs, and remove what it made in temporary places."""
        try:
            if self._process.poll() is None:
                self.stop()
        finally:
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._temporary.cleanup()

    def _first_line(self) -> str:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + START_TIMEOUT
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            byte = os.read(fd, 1) if ready else b""  # what follows the line stays in the pipe
            if not byte:
                raise DaemonError(f"the daemon was not ready in time, or ended\n{self._end()}")
            line += byte
        return line.decode().rstrip("\n")

    def _end(self) -> str:
        return "\n".join(self.log.splitlines()[-40:])


def children(pid: int) -> list[int]:
    """The child processes of a process with one thread; none when it is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def process_name(pid: int) -> str:
    """What ``ps -e`` shows; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _url(line: str) -> str:
    """The URL in ``streamcache ready on URL source=... cache=... size=...``."""
    words = shlex.split(line)
    if words[:3] != ["streamcache", "ready", "on"] or len(words) != 7:
        raise DaemonError(f"not a ready line: {line}")
    return words[3]
