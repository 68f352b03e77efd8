"""``python -m tests.bench.unsynced serve ...``: the daemon, but its syncs do nothing.

To be held against a ``cp`` that does not sync either. All else is as it is: what would be synced
is known only here.
"""

from __future__ import annotations

import os
import sys

from streamcache.cli import main


def nothing(_fd: int) -> None:
    """In the place of fsync and fdatasync."""


if __name__ == "__main__":
    os.fsync = os.fdatasync = nothing
    sys.exit(main())
