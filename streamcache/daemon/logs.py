"""Logging of the daemon: one event a line, to stderr; and what its processes are called.

Processes of one daemon share the descriptor of stderr. A line is one ``write``, so lines of two
are not mixed.
"""

from __future__ import annotations

import contextlib
import logging
import sys

_DATE = "%Y-%m-%d %H:%M:%S"
_role = ""


def configure(level: str, role: str = "") -> None:
    """Send what is at least as serious as ``level`` to stderr. For daemons, not for libraries.

    ``role`` ("w1") stands in each line, to tell processes apart.
    """
    global _role
    _role = role
    handler = logging.StreamHandler(sys.stderr)
    before = f"{role} " if role else ""
    form = f"%(asctime)s.%(msecs)03d %(levelname)-7s {before}%(name)s %(message)s"
    handler.setFormatter(logging.Formatter(form, _DATE))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A stderr that went away must not add a traceback per line, nor stop the serving.
    logging.raiseExceptions = False


def set_level(level: str) -> None:
    """Another level, after ``configure``."""
    logging.getLogger().setLevel(level.upper())


def role() -> str:
    """What this process is called in the logs; "" for the only one."""
    return _role


def name_process(name: str) -> None:
    """What ``ps -e`` and ``top`` show instead of "python"; the kernel keeps 15 bytes."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(name)
