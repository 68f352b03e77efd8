"""``python -m streamcache``."""

from __future__ import annotations

import sys

from streamcache.cli import main

if __name__ == "__main__":
    sys.exit(main())
