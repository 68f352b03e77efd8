"""A daemon with pipes: what it says is read as it comes, what it leaves at its end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time

PATIENCE = 20.0  # s; nothing here takes one


class Running:
    """A daemon with pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._log = b""
        self._found: dict[str, int] = {}

    def ready_line(self) -> str:
        assert self.process.stdout is not None
        return os.fsdecode(self.process.stdout.readline())

    def wait_for(self, text: str, start: int = 0) -> None:
        """Until ``text`` is in the log, there or later."""
        assert self.process.stderr is not None
        fd = self.process.stderr.fileno()
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self._log[start:]:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(fd, 65536) if ready else b""
            assert more, f"never said {text!r}:\n{self._log.decode()}"
            self._log += more

    def wait_for_next(self, text: str) -> None:
        """Until ``text`` is in the log behind where it was found the last time."""
        self.wait_for(text, self._found.get(text, 0))
        self._found[text] = self._log.index(text.encode(), self._found.get(text, 0)) + len(text)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Exit code, what else came on stdout, the whole log."""
        out, log = self.process.communicate(timeout=PATIENCE)
        self._log += log
        return self.process.returncode, os.fsdecode(out), os.fsdecode(self._log)


def failed(daemon: Running, code: int = 2) -> str:
    """The one line of a daemon that must not start."""
    got, out, log = daemon.end()
    lines = [line for line in log.splitlines() if not line.startswith("fake:")]
    assert (got, out, len(lines)) == (code, "", 1), log
    assert lines[0].startswith("streamcache: error: ")
    return lines[0]
