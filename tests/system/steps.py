"""The system calls that worker threads make, counted: the n-th can be made to fail or to kill.

A ``WorkerPool`` runs our functions in threads of its own, so a call of ``os`` that is made there
is a step at the cache disk or at the source. Nothing of the product knows of this.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from streamcache.cache import store, workers

SOURCE = frozenset({"source", "meta"})  # pools
DISK = frozenset({"disk"})
CATALOG = frozenset({"catalog"})

READING = frozenset({"listdir", "fstat", "lstat", "pread", "preadv", "read", "stat", "statvfs"})
WRITING = frozenset(
    {"fdatasync", "fsync", "ftruncate", "mkdir", "open", "pwrite", "rename", "utime", "write"}
)
CALLS = READING | WRITING | {"close", "posix_fadvise", "unlink"}

Action = Callable[[str, Callable[..., Any], tuple[Any, ...]], None]


class Steps:
    """Counts the calls made in the threads of some pools; ``action`` befalls the ``at``-th.

    ``action(name, real, arguments)`` runs in the worker thread, in place of the call (before it,
    where it returns): it raises, or does not return.
    """

    def __init__(
        self, pools: frozenset[str], action: Action, *, at: int, calls: frozenset[str] = CALLS
    ) -> None:
        self.pools = pools
        self.calls = calls
        self.seen: list[str] = []
        self.hit: str | None = None
        self._action = action
        self._at = at
        self._here = threading.local()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Steps seen={len(self.seen)} hit={self.hit}>"

    @contextlib.contextmanager
    def installed(self) -> Iterator[Steps]:
        """Until the end of the block."""
        submit = workers.WorkerPool._submit
        steps = self

        def watched(pool: Any, function: Any, args: Any, *rest: Any, **options: Any) -> Any:
            def run(*given: Any) -> Any:
                steps._here.active = True
                try:
                    if pool.name == "catalog" and function.__name__ != "close":
                        steps.step(function.__name__, function, given)
                    return function(*given)
                finally:
                    steps._here.active = False

            if pool.name not in steps.pools:
                return submit(pool, function, args, *rest, **options)
            return submit(pool, run, args, *rest, **options)

        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(workers.WorkerPool, "_submit", watched))
            for name in sorted(self.calls):
                stack.enter_context(mock.patch.object(os, name, self._counted(name)))
            counted = self._counted("open", builtins.open)
            stack.enter_context(mock.patch.object(store, "open", counted, create=True))
            yield self

    def step(self, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """One call; the action, if it is its turn."""
        with self._lock:
            self.seen.append(name)
            mine = len(self.seen) == self._at
            if mine:
                self.hit = name
        if mine:
            self._action(name, real, args)

    def _counted(self, name: str, real: Callable[..., Any] | None = None) -> Callable[..., Any]:
        real = real or getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            if getattr(self._here, "active", False):
                self.step(name, real, args)
            return real(*args, **options)

        return call


def failing(code: int) -> Action:
    """Raise this errno. A write happens in part before, and a close altogether."""

    def fail(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if name == "close":
            real(*args)
        _half(name, real, args)
        raise OSError(code, os.strerror(code))

    return fail


def killing(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """SIGKILL this process; a write happens in part before."""
    _half(name, real, args)
    os.kill(os.getpid(), 9)
    threading.Event().wait()  # until it arrives


def _half(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if name == "pwrite":
        fd, data, offset = args
        real(fd, memoryview(data)[: len(data) // 2], offset)
