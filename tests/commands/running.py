"""Commands as a user runs them: what they print, and how they end."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from streamcache.cli import main
from tests.daemon_process import REPOSITORY

WAIT = 60.0  # s


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """Ours without what would name a server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMCACHE")}
    return {**kept, **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "streamcache", *arguments]


def run(*arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Ended:
    """A command without a terminal."""
    done = subprocess.run(
        command(*arguments),
        input=stdin.encode(),
        capture_output=True,
        timeout=WAIT,
        cwd=REPOSITORY,
        env=env or environment(),
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def call(*arguments: str, stdin: str = "", **env: str) -> Ended:
    """The same in this process, which is quicker: without a terminal, too."""
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="utf-8")
    err = io.StringIO()
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    kept = dict(os.environ)
    with redirect_stdout(out), redirect_stderr(err):
        before, sys.stdin = sys.stdin, given
        try:
            os.environ.clear()
            os.environ.update(environment(**env))
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else -1
        finally:
            sys.stdin = before
            os.environ.clear()
            os.environ.update(kept)
    out.flush()
    return Ended(code, written.getvalue().decode(), err.getvalue())


class Terminal:
    """A command on a terminal: ``with Terminal("top") as it: it.until("server")``."""

    def __init__(self, *arguments: str, **env: str) -> None:
        self.seen = ""
        # We keep both ends: what it wrote last is lost when the last one closes the other end.
        self._fd, self._other = pty.openpty()
        self._process = subprocess.Popen(
            command(*arguments),
            stdin=self._other,
            stdout=self._other,
            stderr=self._other,
            cwd=REPOSITORY,
            env=environment(TERM="xterm-256color", COLUMNS="120", LINES="40", **env),
            start_new_session=True,
            preexec_fn=_take_terminal,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._fd)
        os.close(self._other)

    def until(self, text: str) -> str:
        """Wait until it has shown this."""
        deadline = time.monotonic() + WAIT
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            ended = self._process.poll() is not None
            assert self._read() or not ended, f"it ended before {text!r}: {self.seen}"
        return self.seen

    def write(self, text: str) -> None:
        """Type; "\\x03" is Ctrl-C."""
        os.write(self._fd, text.encode())

    def end(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = self._process.wait(WAIT)
        while self._read():
            pass
        return code

    def _read(self) -> bool:
        """Whether it has written something."""
        if not select.select([self._fd], [], [], 0.1)[0]:
            return False
        self.seen += os.read(self._fd, 65536).decode("utf-8", "replace")
        return True


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
