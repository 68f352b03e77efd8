"""``python -m tests.system.shifted serve ...``: the daemon, and what it takes for the time of day.

That is off by as many seconds as the eight bytes (a double) say in the file that SHIFT names, and
follows them at once. Tests only.
"""

from __future__ import annotations

import mmap
import os
import sys
import time

from streamcache.cli import main


def shift() -> None:
    """From now on, in this process and its children."""
    with open(os.environ["SHIFT"], "r+b") as file:
        seconds = memoryview(mmap.mmap(file.fileno(), 8)).cast("d")
    real = time.time
    time.time = lambda: real() + seconds[0]


if __name__ == "__main__":
    shift()
    sys.exit(main())
