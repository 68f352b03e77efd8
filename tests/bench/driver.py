"""The programs of load.py from outside: started on the load's cores, waited for, ended."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import Any

from tests.bench.machine import REPOSITORY

STARTED = 60.0  # s until a load must run


class LoadError(Exception):
    """A load ended with an error, or not at all; the message is its own."""


class Load:
    """One ``python -m tests.bench.load``; leaving the context ends it."""

    def __init__(
        self,
        kind: str,
        address: tuple[str, int],
        name: str,
        size: int,
        *,
        cores: tuple[int, ...],
        nice: int = 0,
        **options: float,
    ) -> None:
        """``options`` are the flags of load.py. ``nice`` lets other loads on the core go first."""

        def prepare() -> None:
            os.sched_setaffinity(0, cores)
            os.nice(nice)

        flags = [f"--{name}={value}" for name, value in options.items()]
        self._errors = os.fdopen(os.memfd_create("errors"), "w+b")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.bench.load"),
                *(kind, address[0], str(address[1]), name, str(size), *flags),
            ],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            preexec_fn=prepare,
        )
        self._output = b""

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def started(self) -> None:
        """Wait until what it measures begins. Raises LoadError."""
        self._line(STARTED)

    def stop(self) -> dict[str, Any]:
        """End one that runs until it is told; what it says."""
        self._process.terminate()
        return self.result()

    def result(self, timeout: float = 600.0) -> dict[str, Any]:
        """Wait for what it says at the end. Raises LoadError."""
        line = self._line(timeout)
        said: dict[str, Any] = json.loads(line)
        return said

    def _line(self, timeout: float) -> bytes:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self._output:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(fd, 65536) if ready else b""
            if not data:
                raise LoadError(self._why() if ready else f"no answer within {timeout:g} s")
            self._output += data
        line, _, self._output = self._output.partition(b"\n")
        return line

    def _why(self) -> str:
        self._process.wait(10)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit {self._process.returncode}"
