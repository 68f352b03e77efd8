"""wrk, the load of small requests: how it is run, what it says, and what makes that false."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench import programs

_SCRIPT = Path(__file__).with_name("wrk.lua")
_HEAD = 1024  # bytes: no server here writes a longer head


class WrkError(Exception):
    """It did not run, or its requests were not answered as they should."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One run."""

    requests: int
    bytes: int  # heads and bodies
    seconds: float
    p50: float  # s
    p99: float
    longest: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @classmethod
    def parse(cls, output: str) -> Summary:
        """What ``done`` in wrk.lua printed, among what wrk prints. Raises WrkError."""
        lines = [line for line in output.splitlines() if line.startswith('{"requests"')]
        if len(lines) != 1:
            raise WrkError(f"no summary: {output.strip()[-200:]}")
        said = json.loads(lines[0])
        if said["errors"] or not said["requests"]:
            raise WrkError(f"{said['errors']} errors in {said['requests']} requests")
        micro = 1e-6
        return cls(
            said["requests"],
            said["bytes"],
            said["us"] * micro,
            said["p50"] * micro,
            said["p99"] * micro,
            said["max"] * micro,
        )

    def require(self, body: int) -> Summary:
        """Itself, if all answers can have had ``body`` bytes. Raises WrkError.

        wrk looks at no byte; a client of ours does that meanwhile.
        """
        each = self.bytes / self.requests
        # Those under way at the end count bytes, but no request.
        if not body <= each <= (body + _HEAD) * (1 + 100 / self.requests):
            raise WrkError(f"{each:.0f} bytes per answer, with a body of {body}")
        return self


def run(
    address: tuple[str, int],
    path: str,
    *kind: str,
    body: int,
    connections: int,
    seconds: float,
    threads: int = 1,
    cores: tuple[int, ...],
) -> Summary:
    """``kind``: see wrk.lua. Answers must have ``body`` bytes. Raises WrkError, NotHere."""
    command = [
        *(programs.require("wrk"), f"-t{threads}", f"-c{connections}", f"-d{round(seconds)}s"),
        *("--latency", "--timeout", "20s", "-s", os.fspath(_SCRIPT)),
        *(f"http://{address[0]}:{address[1]}/{path}", "--", *kind),
    ]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        raise WrkError(f"exit {done.returncode}: {done.stdout.strip()[-200:]}")
    return Summary.parse(done.stdout).require(body)
