"""Packages of the system, for those of the commands here that need more than Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence


def install(packages: Sequence[str], *, otherwise: str) -> bool:
    """Install them with apt-get, as root; whether they are there now.

    Who cannot is told the command, after ``otherwise``.
    """
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        say(f"{otherwise}: sudo {' '.join(command)}")
        return False
    say(" ".join(command))
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for each in (["apt-get", "update", "-qq"], [*command[:1], "-qq", *command[1:]]):
        done = subprocess.run(
            each, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment, check=False
        )
        if done.returncode and "install" in each:
            return False
    return True


def say(text: str) -> None:
    """One line of progress."""
    print(f"== {text}", file=sys.stderr, flush=True)
