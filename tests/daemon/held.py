"""``python -m tests.daemon.held serve ...``: the real daemon, whose successor does not serve yet.

It has read and opened everything then, says "held", and goes on when the file that HELD_UNTIL in
the environment names is there, or the old process is gone.
"""

from __future__ import annotations

import os
import sys
import time

from streamcache.cli import main
from streamcache.daemon.mainprocess import MainProcess
from streamcache.daemon.upgrade import VARIABLE

GATE = "HELD_UNTIL"


def hold() -> None:
    """Have ``serves`` wait."""
    serves, predecessor = MainProcess.serves, os.getppid()

    def held(self: MainProcess) -> None:
        print("held", file=sys.stderr, flush=True)
        while not os.path.exists(os.environ[GATE]) and os.getppid() == predecessor:
            time.sleep(0.01)
        serves(self)

    MainProcess.serves = held


if __name__ == "__main__":
    if VARIABLE in os.environ:
        hold()
    sys.exit(main())
