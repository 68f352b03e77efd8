"""Open objects: one descriptor per object, shared by its readers, kept a while after the last.

Hub's thread only; the disk is touched in the disk pool. A lease keeps an object from eviction; an
object that must go while it is leased (outdated, purged) is renamed into trash/ and unlinked when
its last reader leaves.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import OrderedDict

import gevent

from streamcache.cache.space import Space
from streamcache.cache.store import Store
from streamcache.cache.workers import WorkerPool
from streamcache.errors import Closed
from streamcache.source.base import Version

_WAIT = 1.0  # s that a request waits for the cache's disk before it goes without (I15)

log = logging.getLogger(__name__)


class ObjectHandle:
    """An open object. ``fd`` is good while a lease is held."""

    __slots__ = ("blocks", "fd", "leases", "name", "trashed", "version")

    def __init__(self, name: str, version: Version, fd: int) -> None:
        self.name = name
        self.version = version
        self.fd = fd
        self.leases = 1
        self.trashed: str | None = None  # its path in trash/
        self.blocks = 0  # bytes on disk, known once it is in trash/

    def __repr__(self) -> str:
        return f"<ObjectHandle {self.name} leases={self.leases}>"


class Objects:
    """The index of open objects of one cache."""

    def __init__(self, store: Store, space: Space, disk: WorkerPool, *, keep: int) -> None:
        self._store = store
        self._space = space
        self._disk = disk
        self._keep = keep  # descriptors without a reader that stay open
        self._open: dict[str, ObjectHandle] = {}
        self._idle: OrderedDict[str, ObjectHandle] = OrderedDict()
        self._going: set[str] = set()  # being removed: no new reader
        self._serial = itertools.count()

    def __repr__(self) -> str:
        return f"<Objects open={len(self._open)} idle={len(self._idle)}>"

    def lease(self, name: str, version: Version) -> ObjectHandle | None:
        """The object with one more lease; None: there is none. Switches. Raises OSError."""
        if name in self._going:
            return None
        handle = self._open.get(name)
        if handle is None:
            fd = self._disk.call(
                self._store.open_object, name, version.size, timeout=_WAIT, discard=_close
            )
            if fd < 0:
                return None
            if not os.fstat(fd).st_nlink:  # evicted while we opened it (I13)
                self._disk.post(os.close, fd)
                return None
            handle = self._open.get(name)
            if handle is not None or name in self._going:  # others were quicker
                self._disk.post(os.close, fd)
                if name in self._going:
                    return None
            else:
                return self.adopt(name, version, fd)
        assert handle is not None
        handle.leases += 1
        self._idle.pop(name, None)
        return handle

    def peek(self, name: str) -> ObjectHandle | None:
        """The object if it is open, without a lease: good until the hub's next turn."""
        handle = self._open.get(name)
        if handle is None or name in self._going:
            return None
        if name in self._idle:
            self._idle.move_to_end(name)
        return handle

    def adopt(self, name: str, version: Version, fd: int) -> ObjectHandle:
        """A descriptor of a published object becomes its handle, with one lease."""
        handle = ObjectHandle(name, version, fd)
        if name not in self._open:
            self._open[name] = handle
        return handle

    def release(self, handle: ObjectHandle) -> None:
        """One lease less. Does not switch."""
        handle.leases -= 1
        if handle.leases:
            return
        if self._open.get(handle.name) is not handle:
            self._dispose(handle)
            return
        self._idle[handle.name] = handle
        while len(self._idle) > self._keep:
            name, oldest = self._idle.popitem(last=False)
            del self._open[name]
            self._dispose(oldest)

    def leased(self) -> set[str]:
        """Names of the objects that somebody reads."""
        return {name for name, handle in self._open.items() if handle.leases}

    def evict(self, names: list[str]) -> list[str]:
        """Remove those that nobody reads; returns those that are gone. Switches."""
        free = [name for name in names if name not in self._going and not self._is_leased(name)]
        self._going.update(free)
        try:
            for name in free:
                self._forget(name)
            return self._disk.call(self._store.remove_objects, free)
        finally:
            self._going.difference_update(free)

    def discard(self, name: str) -> bool:
        """Take this object off the disk although it may be read; False: there was none.

        Its readers go on (I8); its bytes count as trash until the last one leaves. Switches.
        Raises OSError. The caller takes it out of the catalog and the account.
        """
        if name in self._going:
            return False
        if not self._is_leased(name):
            return bool(self.evict([name]))
        self._going.add(name)
        handle = self._open[name]
        handle.leases += 1  # ours: it may be the last
        handle.blocks = os.fstat(handle.fd).st_blocks * 512
        try:
            trashed = self._disk.call(self._store.trash_object, name, next(self._serial))
            if trashed is None:
                return False
            self._space.trash_added(handle.blocks)
            handle.trashed = trashed
            self._forget(name)
            return True
        finally:
            self._going.discard(name)
            self.release(handle)

    def close(self) -> None:
        """Close what nobody reads, and what is read when it is released. Does not switch."""
        self._keep = 0
        for name in list(self._idle):
            self._forget(name)

    def _is_leased(self, name: str) -> bool:
        handle = self._open.get(name)
        return handle is not None and handle.leases > 0

    def _forget(self, name: str) -> None:
        """No longer under this name; a handle without readers is closed."""
        self._open.pop(name, None)
        idle = self._idle.pop(name, None)
        if idle is not None:
            self._dispose(idle)

    def _dispose(self, handle: ObjectHandle) -> None:
        # Closing the last descriptor of an unlinked file frees its blocks: not in the hub.
        fd, handle.fd = handle.fd, -1
        if handle.trashed is None:
            self._disk.post(os.close, fd)
        else:
            gevent.spawn(self._empty, handle.trashed, fd, handle.blocks)

    def _empty(self, trashed: str, fd: int, blocks: int) -> None:
        """Greenlet: the last reader has left; its bytes count until they are free (I13)."""
        try:
            self._disk.call(self._store.empty, trashed, fd)
        except (OSError, Closed) as error:
            log.warning("trash not emptied file=%r error=%s", trashed, error)
        else:
            self._space.trash_freed(blocks)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
