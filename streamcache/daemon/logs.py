"""Logging of the daemon: one event a line, to stderr."""

from __future__ import annotations

import logging
import sys

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s %(message)s"
_DATE = "%Y-%m-%d %H:%M:%S"


def configure(level: str) -> None:
    """Send what is at least as serious as ``level`` to stderr. For daemons, not for libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT, _DATE))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A stderr that went away must not add a traceback per line, nor stop the serving.
    logging.raiseExceptions = False
