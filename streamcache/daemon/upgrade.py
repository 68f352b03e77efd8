"""One process follows another without a refused connection: SIGUSR2.

The old main process starts the same command again, with its listening sockets, its pid file and a
line; whatever is installed by then is what runs. Both accept for a moment, and share the cache
directory as any two servers may. When the new one says that it serves, the old one drains. When
it ends before that, or takes too long, nothing has happened. An order (SIGHUP, SIGUSR1) that the
old one gets in between is the new one's too, which may have read or opened before what it is about.
What is handed over stands in one variable of the environment, which the new process takes out at
once.

Either side may have a hub or none: nothing here waits.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from streamcache.daemon.line import Line
from streamcache.daemon.listener import Inherited, Listener
from streamcache.daemon.pidfile import PidFile

log = logging.getLogger(__name__)

VARIABLE: Final = "_STREAMCACHE_SUCCEEDS"
_ENDING: Final = 0.5  # s between the last word of a process and its end
START_TIMEOUT: Final = 120.0  # s that the new one may take to serve

monotonic = time.monotonic


class Progress(enum.Enum):
    """How far the new one has come."""

    STARTING = enum.auto()
    SERVING = enum.auto()
    FAILED = enum.auto()


class Successor:
    """The new process, as the old one sees it."""

    def __init__(self, process: subprocess.Popen[bytes], line: Line) -> None:
        self._process = process
        self._line = line
        self.deadline = monotonic() + START_TIMEOUT  # s of ``time.monotonic``
        self.problem = ""  # why it failed
        self.owed: dict[signal.Signals, None] = {}  # orders that came while it started

    def __repr__(self) -> str:
        return f"<Successor pid={self.pid}>"

    @classmethod
    def start(cls, listeners: Mapping[str, Listener], pid_file: PidFile | None) -> Self:
        """Start it; OSError when it cannot be executed."""
        ours, theirs = Line.pair()
        given: dict[str, object] = {
            "line": theirs.fileno(),
            "pid": os.getpid(),
            "listeners": {
                name: [listener.socket.fileno(), listener.listen, listener.path]
                for name, listener in listeners.items()
            },
        }
        fds = [theirs.fileno(), *(each.socket.fileno() for each in listeners.values())]
        if pid_file is not None:
            given["pid_file"] = [pid_file.fileno(), pid_file.path]
            fds.append(pid_file.fileno())
        environ = {**os.environ, VARIABLE: json.dumps(given)}
        # A watchdog that waits for us waits for nobody else; without the name, for any.
        environ.pop("WATCHDOG_PID", None)
        try:
            process = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]], env=environ, pass_fds=fds, close_fds=True
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """Of its main process."""
        return self._process.pid

    def fileno(self) -> int:
        """What to wait for."""
        return self._line.fileno()

    def progress(self) -> Progress:
        """What has become of it."""
        if any(message.get("serves") for message in self._line.hear()):
            return Progress.SERVING
        if self._line.ended:  # it is about to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDING)
        code = self._process.poll()
        if code is not None:
            self.problem = f"it ended with {code}"
        elif self._line.ended:
            self.problem = "it has closed its line"
        elif monotonic() >= self.deadline:
            self.problem = f"not ready after {START_TIMEOUT:g} s"
        else:
            return Progress.STARTING
        return Progress.FAILED

    def pass_on(self) -> None:
        """What it is owed; not before it serves: until then a signal may end it."""
        for number in self.owed:
            log.info("passed on signal=%s pid=%d", number.name, self.pid)
            self._process.send_signal(number)

    def dismiss(self) -> None:
        """It is not wanted any more: it ends, if it lives."""
        if self._process.poll() is None:
            self._process.terminate()
        self.close()

    def close(self) -> None:
        """Hear no more of it."""
        self._line.close()


@dataclass(slots=True)
class Predecessor:
    """The old process, as the new one sees it."""

    pid: int
    line: Line
    listeners: dict[str, Inherited]
    pid_file: PidFile | None

    @classmethod
    def of_environment(cls) -> Self | None:
        """The one that started this process; None: nobody did, for this."""
        text = os.environ.pop(VARIABLE, "")
        if not text:
            return None
        try:
            given = json.loads(text)
            if given["pid"] != os.getppid():
                log.warning("not a successor, who started us is gone pid=%d", given["pid"])
                return None
            fds = [given["line"], *(fd for fd, *_ in given["listeners"].values())]
            if "pid_file" in given:
                fds.append(given["pid_file"][0])
            for fd in fds:
                os.set_inheritable(fd, False)
            pid_file = given.get("pid_file")
            return cls(
                given["pid"],
                Line.inherited(given["line"]),
                {name: Inherited(*each) for name, each in given["listeners"].items()},
                PidFile(pid_file[1], pid_file[0]) if pid_file else None,
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            log.warning("not a successor variable=%s value=%r error=%s", VARIABLE, text, error)
            return None

    def leave(self) -> None:
        """We serve: the old one may go."""
        self.line.tell(serves=True)
        self.line.close()
