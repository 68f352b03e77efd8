"""Locks between processes: byte ranges of a file, held by an open file description.

The kernel frees them when the last descriptor of that description is closed, so also when its
process dies, however it dies. They never wait: who is refused comes back later. A description must
not be shared: two that claim against each other need one ``open`` each, also in one process.
Nothing here blocks (the cache is on a local disk), so the hub's thread may call all of it.
Source: fcntl_locking(2), "Open file description locks".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

import gevent
from gevent.event import Event

from streamcache.errors import CacheBusy, Closed

_FLOCK = struct.Struct("hhqqi0q")  # struct flock of 64-bit Linux
LOCK_WAIT: Final = 2.0  # s for the lock of a key, which is held for moments only
_POLL: Final = 0.005  # s between two looks at a lock that another process holds


class Range(NamedTuple):
    """Bytes [start, stop) of a file."""

    start: int
    stop: int


def try_lock(fd: int, start: int, length: int, *, shared: bool = False) -> bool:
    """Lock this range for the description of ``fd``, or change how it is locked; False: refused."""
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock(fd: int, start: int, length: int) -> None:
    """Give this range up; what is not locked is no error."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, length, 0))


def foreign(fd: int, start: int, length: int) -> Range | None:
    """The first range of another description that would refuse an exclusive lock of this one."""
    found, stop = None, start + length
    # The kernel tells any: before that one there may be another.
    while start < stop and (held := _any_foreign(fd, start, stop - start)) is not None:
        found, stop = held, held.start
    return found


def _any_foreign(fd: int, start: int, length: int) -> Range | None:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, begin, count, _ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    if kind == fcntl.F_UNLCK:
        return None
    return Range(begin, begin + count if count else 1 << 62)


@contextlib.contextmanager
def key_held(fd: int, key: str) -> Iterator[bool]:
    """Whether the lock of this key is ours in the block; it is waited for ``LOCK_WAIT`` s.

    Blocks: for a program without a hub. ``fd`` is of the file whose bytes stand for keys.
    """
    deadline = time.monotonic() + LOCK_WAIT
    while not (ours := try_lock(fd, _place(key), 1)) and time.monotonic() < deadline:
        time.sleep(_POLL)
    try:
        yield ours
    finally:
        if ours:
            unlock(fd, _place(key), 1)


class KeyLocks:
    """One lock per key, over all processes that share a cache directory.

    Held while names in the cache directory change: a partial is begun, dropped, published. In this
    process the greenlets that want the same key come one after the other.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._held: dict[str, Event] = {}

    def __repr__(self) -> str:
        return f"<KeyLocks held={len(self._held)}>"

    def use(self, fd: int) -> None:
        """The file whose bytes stand for keys; its owner closes it, -1: no longer."""
        self._fd = fd

    def try_acquire(self, key: str) -> KeyLock | None:
        """The lock of this key (32 hex digits), None: somebody has it. Does not switch.

        Raises Closed: the cache was, and a copy outlived it, held by a source that hung.
        """
        if self._fd < 0:
            raise Closed("the cache is closed")
        if key in self._held or not try_lock(self._fd, _place(key), 1):
            return None
        self._held[key] = Event()
        return KeyLock(self, key)

    def acquire(self, key: str) -> KeyLock:
        """The same, waiting for it. Switches. Raises CacheBusy after ``LOCK_WAIT`` s, Closed."""
        lock = self.try_acquire(key)
        if lock is not None:
            return lock
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            ours = self._held.get(key)
            if ours is not None:
                ours.wait(max(0.0, deadline - time.monotonic()))
            else:
                gevent.sleep(_POLL)
            lock = self.try_acquire(key)
            if lock is not None:
                return lock
            if time.monotonic() >= deadline:
                raise CacheBusy(f"{key}: its lock is held for more than {LOCK_WAIT} s")

    def _release(self, key: str) -> None:
        self._held.pop(key).set()
        if self._fd >= 0:
            unlock(self._fd, _place(key), 1)


class KeyLock:
    """A key that is ours until ``release``, or until the end of the ``with`` block."""

    __slots__ = ("_key", "_locks")

    def __init__(self, locks: KeyLocks, key: str) -> None:
        self._locks: KeyLocks | None = locks
        self._key = key

    def release(self) -> None:
        """Idempotent; does not switch."""
        locks, self._locks = self._locks, None
        if locks is not None:
            locks._release(self._key)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Not ours in the block. Switches at its end. Raises CacheBusy if it is not had again."""
        locks = self._locks
        assert locks is not None
        self.release()
        yield
        again = locks.acquire(self._key)
        self._locks, again._locks = locks, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _place(key: str) -> int:
    """Two keys share a byte once in 2^60: then they wait for each other, no more."""
    return int(key[:15], 16)
