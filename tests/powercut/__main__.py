"""``python -m tests.powercut MOUNTPOINT LOG``: an empty file system in memory, recorded."""

from __future__ import annotations

import sys

from tests.powercut.server import run

if __name__ == "__main__":
    run(*sys.argv[1:])
