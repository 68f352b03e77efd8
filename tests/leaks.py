"""What a test must not leave behind: descriptors, greenlets, native threads, another logging."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
import traceback
import weakref
from dataclasses import dataclass

TOLERATED = ("anon_inode:",)
"""Descriptors of event loops (epoll, eventfd): a hub lives as long as its thread."""


@dataclass(frozen=True, slots=True)
class LeakPolicy:
    """What is checked around each test of a directory.

    A directory chooses its own by a fixture ``leak_policy`` in its ``conftest.py``.
    """

    descriptors: bool = True
    greenlets: bool = True
    threads: bool = False  # off: gevent's pools keep their threads for the next task
    grace: float = 2.0  # s until what is still there counts as left behind


class Snapshot:
    """What the process holds now."""

    __slots__ = ("_descriptors", "_greenlets", "_logging", "_policy", "_threads")

    def __init__(self, policy: LeakPolicy) -> None:
        self._policy = policy
        self._descriptors = _descriptors() if policy.descriptors else {}
        self._greenlets = _greenlets() if policy.greenlets else weakref.WeakSet()
        self._threads = _threads() if policy.threads else set()
        self._logging = _logging()

    def left_behind(self) -> list[str]:
        """What came since and did not go within the grace time, in words."""
        found = self._compare()
        if not found:
            return found
        gc.collect()
        deadline = time.monotonic() + self._policy.grace
        while (found := self._compare()) and time.monotonic() < deadline:
            _let_others_run()
        return found

    def _compare(self) -> list[str]:
        found = []
        if self._policy.descriptors:
            now = _descriptors()
            found += [
                f"descriptor {fd} -> {target}"
                for fd, target in now.items()
                if self._descriptors.get(fd) != target
            ]
        if self._policy.greenlets:
            found += [
                f"greenlet {greenlet!r}\n{_stack(greenlet)}"
                for greenlet in _greenlets()
                if greenlet not in self._greenlets
            ]
        if self._policy.threads:
            found += [f"thread {name}" for name in sorted(_threads() - self._threads)]
        now = _logging()
        if now != self._logging:  # what the next tests find in the log would depend on this one
            found.append(f"logging {self._logging} -> {now}")
        return found


def ignore_what_is_there() -> None:
    """Take all objects of now out of the garbage collector's lists, and so out of sight.

    Called once, when all test modules are imported: it makes looking for greenlets cost 1 ms
    rather than 20, and collections cheaper.
    """
    gc.collect()
    gc.freeze()


def _greenlets() -> weakref.WeakSet:
    """The greenlets that run or wait, without hubs and those of threads."""
    if "gevent" not in sys.modules:
        return weakref.WeakSet()
    from gevent.hub import Hub
    from greenlet import getcurrent, greenlet

    return weakref.WeakSet(
        found
        for found in gc.get_objects()
        if issubclass(type(found), greenlet)
        and bool(found)  # started, not finished
        and found.parent is not None  # else a thread's main greenlet
        and not issubclass(type(found), Hub)
        and found is not getcurrent()
        and type(found).__name__ != "_WorkerGreenlet"  # of a thread pool
    )


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one of listdir itself
            continue
        if not target.startswith(TOLERATED):
            found[int(name)] = target
    return found


def _threads() -> set[str]:
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8") as file:
                found.add(f"{task} {file.read().strip()}")
        except OSError:  # it ended
            continue
    return found


def _logging() -> dict[str, object]:
    """The levels that are set, and the handlers of the root that are not pytest's."""
    root = logging.getLogger()
    found: dict[str, object] = {
        name: logging.getLevelName(logger.level)
        for name, logger in logging.Logger.manager.loggerDict.items()
        if name.startswith("streamcache") and isinstance(logger, logging.Logger) and logger.level
    }
    handlers = [each for each in root.handlers if not type(each).__module__.startswith("_pytest")]
    return found | {"root": logging.getLevelName(root.level), "handlers": handlers}


def _let_others_run() -> None:
    if "gevent" in sys.modules:
        from gevent._hub_local import get_hub_if_exists

        if get_hub_if_exists() is not None:
            import gevent

            gevent.sleep(0.01)
            return
    time.sleep(0.01)


def _stack(greenlet) -> str:
    frame = greenlet.gr_frame
    return "".join(traceback.format_stack(frame, 8)) if frame is not None else ""
