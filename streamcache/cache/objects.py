"""Open objects: one descriptor per object, shared by its readers, kept a while after the last.

Hub's thread only; the disk is touched in the disk pool. A lease keeps an object from eviction, in
every process: while there is one, the descriptor has a shared lock (``stored.lease``). An object
that must go while it is leased (outdated, purged) is renamed into trash/ and unlinked when its last
reader leaves.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import gevent

from streamcache.cache import stored as files
from streamcache.cache.health import Health
from streamcache.cache.ledger import Ledger
from streamcache.cache.reading import Seen
from streamcache.cache.store import Store
from streamcache.cache.stored import Fate
from streamcache.cache.workers import WorkerPool
from streamcache.errors import CacheError, Closed
from streamcache.source.base import Version

log = logging.getLogger(__name__)


class Unchecked(Protocol):
    """What of an open object was not compared with its digests yet."""

    def find_wrong(self, offset: int, stop: int) -> int | None:
        """A block of these bytes that is not what was written; None: all are. Switches. OSError."""
        ...


class ObjectHandle:
    """An open object. ``fd`` is good while a lease is held."""

    __slots__ = (
        "fd",
        "good_until",
        "leases",
        "name",
        "seen",
        "spoilt",
        "trashed",
        "unchecked",
        "version",
    )

    def __init__(self, name: str, version: Version, fd: int) -> None:
        """Owns ``fd``, which carries the lock of a reader."""
        self.name = name
        self.version = version
        self.fd = fd
        self.leases = 1
        # Monotonic s until which it need not be asked for again (``Provider.peek``); whatever ends
        # that earlier sets 0.
        self.good_until = 0.0
        self.trashed = ""  # its name in trash/
        self.seen = Seen()
        self.spoilt = False  # it is not what it should be
        self.unchecked: Unchecked | None = None  # what must be compared before it is sent

    def __repr__(self) -> str:
        return f"<ObjectHandle {self.name} leases={self.leases}>"


class Watch:
    """Whether an object was discarded meanwhile: what was opened of it may have lost its name."""

    __slots__ = ("discarded",)

    def __init__(self) -> None:
        self.discarded = False


class Objects:
    """The index of open objects of one cache."""

    def __init__(
        self, store: Store, ledger: Ledger, disk: WorkerPool, health: Health, *, keep: int
    ) -> None:
        self._health = health
        self._store = store
        self._ledger = ledger
        self._disk = disk
        self._keep = keep  # descriptors without a reader that stay open
        self._open: dict[str, ObjectHandle] = {}
        self._idle: OrderedDict[str, ObjectHandle] = OrderedDict()
        self._going: set[str] = set()  # being removed: no new reader
        self._watches: dict[str, list[Watch]] = {}  # by name

    def __repr__(self) -> str:
        return f"<Objects open={len(self._open)} idle={len(self._idle)}>"

    def lease(self, name: str, version: Version) -> ObjectHandle | None:
        """The object with one more lease; None: there is none. Switches. Raises OSError."""
        while True:
            handle = self.lease_open(name)
            if handle is not None or name in self._going:
                return handle
            with self.watch(name) as watch:
                fd = self._health.call(self._store.objects.open, name, version, discard=_close)
            if fd < 0:
                return None
            if not watch.discarded:
                break
            self._disk.post(os.close, fd)  # its thread's answer was on its way meanwhile
        handle = self.lease_open(name)
        if handle is not None or name in self._going:  # others were quicker
            self._disk.post(os.close, fd)
            return handle
        return self._opened(name, version, fd)

    @contextmanager
    def watch(self, name: str) -> Iterator[Watch]:
        """Around what a thread is asked of this object: the hub hears of its answer later."""
        watch = Watch()
        watches = self._watches.setdefault(name, [])
        watches.append(watch)
        try:
            yield watch
        finally:
            watches.remove(watch)
            if not watches:
                del self._watches[name]

    def lease_open(self, name: str) -> ObjectHandle | None:
        """The same, if it is open already. Does not switch."""
        handle = self._open.get(name)
        if handle is None or name in self._going:
            return None
        if not handle.leases:
            # Nothing kept another process from taking it away meanwhile.
            if not _stays(handle.fd):
                self._forget(name)
                return None
            del self._idle[name]
        handle.leases += 1
        return handle

    def peek(self, name: str) -> ObjectHandle | None:
        """The object if it is open, without a lease: good until the hub's next turn."""
        handle = self._open.get(name)
        if handle is None or name in self._going:
            return None
        if name in self._idle:
            self._idle.move_to_end(name)
        return handle

    def take(self, handle: ObjectHandle) -> None:
        """Lease what ``peek`` gave in this turn of the hub: some of it may have left already.

        So also if another process removes it just now: its bytes are there until it is released,
        but in no account, so nobody joins. Does not switch.
        """
        if not handle.leases and not _stays(handle.fd):
            self._open.pop(handle.name, None)
            handle.good_until = 0.0
        self._idle.pop(handle.name, None)
        handle.leases += 1

    def spoil(self, handle: ObjectHandle) -> bool:
        """It is not what it should be: nobody joins its readers. False: that is known already."""
        if self._open.get(handle.name) is handle:
            self._forget(handle.name)
        spoilt, handle.spoilt = handle.spoilt, True
        return not spoilt

    def adopt(self, name: str, version: Version, fd: int, *, joined: bool) -> ObjectHandle:
        """A descriptor of a published object, with the lock of a reader, becomes its handle.

        Others join its readers if it is sure to have its name still (``joined``).
        """
        handle = ObjectHandle(name, version, fd)
        if joined and name not in self._open:
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
        files.release(handle.fd)
        self._idle[handle.name] = handle
        while len(self._idle) > self._keep:
            self._forget(next(iter(self._idle)))

    def leased(self) -> set[str]:
        """Names of the objects that somebody reads in this process."""
        return {name for name, handle in self._open.items() if handle.leases}

    def let_go_of_removed(self) -> None:
        """Close what other processes have removed: its blocks are free only then (I13).

        What is read nevertheless (somebody removed it by hand) takes no more readers; nor does what
        somebody else has written to, which the next look at it removes.
        """
        for name, handle in list(self._open.items()):
            status = os.fstat(handle.fd)
            if not status.st_nlink or not files.is_untouched(status, handle.version):
                self._forget(name)

    def let_go_of_missing(self) -> None:
        """Those that another process has taken from their names take no more readers. Switches.

        Also what it renamed into trash/ because it is read here: its readers go on. OSError.
        """
        inodes = {name: os.fstat(handle.fd).st_ino for name, handle in self._open.items()}
        for name in self._disk.call(_without_name, self._store, inodes):
            handle = self._open.get(name)
            if handle is not None and os.fstat(handle.fd).st_ino == inodes[name]:
                self._forget(name)

    def evict(self, names: list[str]) -> list[str]:
        """Remove those that nobody reads; returns those that are gone. Switches."""
        free = [name for name in names if name not in self._going and not self._is_leased(name)]
        self._going.update(free)
        try:
            for name in free:
                self._forget(name)
            return self._disk.call(self._store.objects.remove_unread, free)
        finally:
            self._going.difference_update(free)

    def discard(self, name: str) -> bool:
        """Take this object off the disk and out of the catalog, although it may be read.

        Its readers go on (I8); its bytes count as trash until the last one leaves. False: it could
        not be done now. Switches. Raises OSError, CatalogError.
        """
        if name in self._going:
            return False
        self._going.add(name)
        if name in self._open:
            self._open[name].good_until = 0.0
        try:
            if not self._is_leased(name):
                self._forget(name)
            trash = f"{name}.{secrets.token_hex(4)}"
            removal, on_disk = self._disk.call(self._store.objects.remove, name, trash)
            if removal is Fate.TRASHED:
                self._ledger.trashed(name, trash, on_disk)
                if self._is_leased(name):
                    self._open[name].trashed = trash
                    self._forget(name)
                else:  # read in another process; or here, and it was left meanwhile
                    self._forget(name)
                    self.empty_trash([trash])
            else:
                if not self._is_leased(name):  # its last reader here may have left meanwhile
                    self._forget(name)
                self._ledger.remove([name])
            return True
        finally:
            self._going.discard(name)
            for watch in self._watches.get(name, ()):
                watch.discarded = True

    def empty_trash(self, names: list[str]) -> None:
        """Unlink what nobody reads any more. Switches. Raises OSError, CatalogError."""
        for name in self._disk.call(self._store.objects.empty_trash, names):
            self._ledger.trash_freed(name)

    def close(self) -> None:
        """Close what nobody reads, and what is read when it is released. Does not switch."""
        self._keep = 0
        for handle in self._open.values():
            handle.good_until = 0.0
        for name in list(self._idle):
            self._forget(name)

    def _opened(self, name: str, version: Version, fd: int) -> ObjectHandle:
        """It was on the disk already."""
        return self.adopt(name, version, fd, joined=True)

    def _is_leased(self, name: str) -> bool:
        handle = self._open.get(name)
        return handle is not None and handle.leases > 0

    def _forget(self, name: str) -> None:
        """No longer under this name; a handle without readers is closed."""
        handle = self._open.pop(name, None)
        if handle is not None:
            handle.good_until = 0.0
        idle = self._idle.pop(name, None)
        if idle is not None:
            self._dispose(idle)

    def _dispose(self, handle: ObjectHandle) -> None:
        # Closing the last descriptor of an unlinked file frees its blocks: not in the hub.
        fd, handle.fd = handle.fd, -1
        if handle.trashed:
            gevent.spawn(self._dispose_of_trash, handle.trashed, fd)
        else:
            self._disk.post(os.close, fd)

    def _dispose_of_trash(self, trashed: str, fd: int) -> None:
        """Greenlet: the last reader here has left; the bytes count until they are free (I13)."""
        try:
            self._disk.call(os.close, fd)
            self.empty_trash([trashed])
        except Closed:
            _close(fd)
        except (OSError, CacheError) as error:
            log.warning("trash not emptied file=%r error=%s", trashed, error)


def _without_name(store: Store, inodes: dict[str, int]) -> list[str]:
    """Worker thread: objects that are not the file at their name any more."""
    return [name for name, inode in inodes.items() if not store.objects.is_at_its_name(name, inode)]


def _stays(fd: int) -> bool:
    """Lease it; whether no other process has removed it, or is about to."""
    return files.lease(fd) and os.fstat(fd).st_nlink > 0


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
