"""Objects whose blocks are compared with their digests when they are first read after a start.

Hub's thread; the blocks are read and compared in the disk pool, up to 1 MiB at a time, before that
is sent. Only with ``cache.checksum_on_read``: an object that is not checked yet is not hot.
"""

from __future__ import annotations

import os
from typing import Final

from streamcache.cache.blockmap import BLOCK
from streamcache.cache.digests import SUFFIX, Digest, Digests
from streamcache.cache.health import Health
from streamcache.cache.ledger import Ledger
from streamcache.cache.objects import ObjectHandle, Objects
from streamcache.cache.store import Store
from streamcache.cache.workers import WorkerPool
from streamcache.source.base import Version

_WAIT: Final = 10.0  # s, as for any read that a response waits for


class Unchecked:
    """The blocks of one open object that were not compared yet."""

    def __init__(self, objects: CheckedObjects, handle: ObjectHandle) -> None:
        self._objects = objects
        self._handle = handle
        self._left = bytearray(b"\1" * -(-handle.version.size // BLOCK))

    def find_wrong(self, offset: int, stop: int) -> int | None:
        """A block of bytes [offset, stop) that is not what was written; None: all are. Switches.

        Raises OSError.
        """
        first, last = offset // BLOCK, -(-stop // BLOCK)
        if self._left.find(1, first, last) >= 0:
            if wrong := self._objects.compare(self._handle, first, last):
                return wrong[0]
            self._left[first:last] = bytes(last - first)
            if 1 not in self._left:
                self._objects.checked(self._handle)
        return None


class CheckedObjects(Objects):
    """``Objects`` that are compared before they are served for the first time."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        disk: WorkerPool,
        health: Health,
        *,
        keep: int,
        digest: Digest,
    ) -> None:
        super().__init__(store, ledger, disk, health, keep=keep)
        self._digest = digest
        self._checked: set[str] = set()

    def peek(self, name: str) -> ObjectHandle | None:
        """See ``Objects``; one that is not checked yet is none."""
        handle = super().peek(name)
        return None if handle is not None and handle.unchecked is not None else handle

    def compare(self, handle: ObjectHandle, first: int, last: int) -> list[int]:
        """The wrong ones of these blocks. Switches. Raises OSError."""
        path, size = self._store.objects.path(handle.name), handle.version.size
        return self._disk.call(
            _compare, path, handle.fd, size, first, last, self._digest, timeout=_WAIT
        )

    def checked(self, handle: ObjectHandle) -> None:
        """All of it was compared, in this life of the process."""
        handle.unchecked = None
        self._checked.add(handle.name)

    def _opened(self, name: str, version: Version, fd: int) -> ObjectHandle:
        handle = super()._opened(name, version, fd)
        if name not in self._checked and version.size:
            handle.unchecked = Unchecked(self, handle)
        return handle

    def _forget(self, name: str) -> None:
        super()._forget(name)
        # It may be copied anew. One that only makes room for other descriptors is compared again.
        self._checked.discard(name)


def _compare(path: str, fd: int, size: int, first: int, last: int, digest: Digest) -> list[int]:
    """Worker thread. Without digests nothing is wrong.

    They are read each time: of a thousand films, kept open, they would take a gigabyte of memory.
    """
    digests = Digests.read(path + SUFFIX, size, first, last)
    wrong = [] if digests is None else digests.wrong(fd, first, last, size, digest)
    # After a purge they are those of another object, perhaps of a file that had changed unseen.
    return wrong if wrong and _is_at(path, fd) else []


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
