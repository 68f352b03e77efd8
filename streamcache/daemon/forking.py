"""How a worker comes into the world: a fork of the supervisor that forgets what that one has.

Everything here happens before the child has a hub. One that exists before a fork would be shared
(one epoll for all), so it is an error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from gevent._hub_local import get_hub_if_exists

from streamcache.daemon.line import Line
from streamcache.daemon.place import Place
from streamcache.daemon.signals import ORDERS, STOPPING

log = logging.getLogger(__name__)

WATCHED: Final = (*STOPPING, signal.SIGCHLD, *ORDERS)  # what the supervisor has handlers for


def fork(place: Place, live: Callable[[Line], int]) -> None:
    """Fork a worker into ``place``; OSError when there is no process or descriptor to be had.

    ``live`` is its whole life: it gets the worker's end of the line, and returns the exit code.
    """
    if get_hub_if_exists() is not None:
        raise RuntimeError("a hub was made before the fork")
    # The child's own handlers are there before a signal reaches it.
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        with ExitStack() as stack:
            ours, theirs = Line.pair()
            stack.callback(ours.close)
            stack.callback(theirs.close)
            pid = os.fork()
            if pid == 0:
                ours.close()
                _live(live, theirs)
            stack.pop_all()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    theirs.close()
    place.occupy(pid, ours)
    log.debug("forked worker=%s pid=%d", place.name, pid)


def _live(live: Callable[[Line], int], line: Line) -> None:
    """In the child, which never returns from here."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (*STOPPING, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in ORDERS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD, *ORDERS))
        _leave_stdout()
        code = live(line)
    except BaseException:
        log.exception("worker failed")
    finally:
        # Not through the frames above, which are the supervisor's.
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _leave_stdout() -> None:
    """Who waits for the end of stdout waits for the supervisor only."""
    if sys.__stdout__ is None:
        return  # closed from the start: descriptor 1 is something else
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(null, sys.__stdout__.fileno())
    os.close(null)
