"""``python -m streamcache``, and the ``streamcache`` command itself."""

from __future__ import annotations

import sys

_INTERRUPTED = 130  # 128 + SIGINT


def main() -> int:
    """The exit code. Ctrl-C is no traceback, also while the program is still being imported."""
    try:
        from streamcache.cli import main as run

        return run()
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
