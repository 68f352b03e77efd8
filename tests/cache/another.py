"""A second process that does what the test tells it: for locks, which one process holds alone."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from tests.daemon_process import REPOSITORY

_LOOP = """
import fcntl, os, sys
from streamcache.cache import locks
from streamcache.cache.blockmap import Extent
from streamcache.cache.partial import PartialHeader
from streamcache.cache.store import Store
names = globals()
for line in sys.stdin:
    code = eval(line)
    try:
        answer = eval(code, names)
    except SyntaxError:
        exec(code, names)
        answer = None
    print(repr(answer) if isinstance(answer, (int, str, bool, tuple)) else "None", flush=True)
"""


class AnotherProcess:
    """``do("fd = os.open(...)")``, then ``do("locks.try_lock(fd, 0, 1)")`` gives the answer."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._process.stdin.close()
        self._process.stdout.close()

    def do(self, code: str) -> Any:
        """Evaluate or execute a line there; the answer, if it is a plain value."""
        self._process.stdin.write(repr(code) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "it has ended"
        return ast.literal_eval(answer)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
