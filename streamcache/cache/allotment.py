"""A copy's room on the cache's disk: what it may write, and the partial that it writes into.

Hub's thread; files are touched in the disk pool. Other processes may copy the same version into the
same partial: then its reservation is that of all of them, and whoever leaves last settles it. What
one of them may write is what it drew itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from streamcache.cache import stored as files
from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.locks import KeyLock, KeyLocks
from streamcache.cache.names import key_of
from streamcache.cache.partial import Partial, PartialHeader
from streamcache.cache.space import Space, footprint
from streamcache.cache.store import Store
from streamcache.cache.workers import WorkerPool
from streamcache.errors import CacheBusy, NoSpace, StreamCacheError

STEP: Final = 256 * 1024 * 1024  # bytes drawn at once: a probe of 10,000 titles drains no cache
AHEAD: Final = STEP // 4  # bytes left of the reservation when more is asked for
_WAIT: Final = 30.0  # s for room to be made

log = logging.getLogger(__name__)


class Allotment:
    """The room of one copy. Closed by ``let_go``, once no write is under way (I4)."""

    def __init__(
        self,
        name: str,
        size: int,
        *,
        store: Store,
        space: Space,
        disk: WorkerPool,
        keys: KeyLocks,
    ) -> None:
        """For a file of ``size`` bytes."""
        self._name = name
        self._size = size
        self._store = store
        self._space = space
        self._disk = disk
        self._keys = keys
        self._drawn = 0  # bytes that we may write
        self._whole = False  # all of the file is reserved, whoever writes it
        self._written = 0  # blocks that we wrote, or are about to
        self._path = ""  # at the source
        self.partial: Partial | None = None
        self.lost = False  # a sync failed: what was written may not be there any more
        self._opened = False
        self._published = False
        self._waits = False  # for room
        self._growing = False
        self._given_up = False

    def __repr__(self) -> str:
        return f"<Allotment {self._name} written={self._written * BLOCK} drawn={self._drawn}>"

    @property
    def fd(self) -> int:
        """Read-only descriptor of the partial; -1: it is not open."""
        return -1 if self.partial is None else self.partial.read_fd

    def open(self, header: PartialHeader, lock: KeyLock) -> bytes:
        """Reserve, then continue the partial that is there, or begin one. Switches.

        ``lock`` is the key's: it is ours, and still held when this returns. Returns the map bytes
        of the blocks that are present; b"": none. Raises NoSpace, CacheBusy, OSError.
        """
        if self._given_up:
            raise NoSpace("nobody wants it any more")
        try:
            # Nobody settles what is drawn under the lock before its partial is in use.
            self._draw(timeout=0)
        except NoSpace:
            with lock.lent():  # waiting may take long
                draw = self._draw(timeout=_WAIT)
            if draw != self._space.generation(self._name):
                self._drawn = 0  # it was settled meanwhile
                self._draw(timeout=0)
        self._path = header.path
        self.partial, present = self._disk.call(self._open_files, header)
        self._opened = True
        return present

    def affords(self, blocks: int) -> bool:
        """Whether we may write that many blocks more."""
        if self._whole:
            return True
        size = min((self._written + blocks) * BLOCK, self._size)
        return bool(self._drawn) and footprint(size) <= self._drawn

    def spend(self, blocks: int) -> None:
        """We are about to write them; a negative number: we did not."""
        self._written += blocks

    def grow(self) -> bool:
        """Draw more, unless that is under way: then False at once. Switches. Raises NoSpace."""
        if self._growing or self._whole or self.partial is None:
            return False
        self._growing = True
        try:
            self._draw(timeout=_WAIT)
        finally:
            self._growing = False
        return True

    def give_up(self) -> None:
        """Wait for room no longer: ``open`` and ``grow`` raise NoSpace. Does not switch."""
        self._given_up = True
        if self._waits:
            self._space.withdraw(self._name)

    def write(
        self,
        extent: Extent,
        data: memoryview,
        *,
        patience: float | None = None,
        late: Callable[[], object] | None = None,
    ) -> None:
        """Data, then map; ``late()`` when that takes more than ``patience`` s. Switches.

        Raises OSError, CacheError as ``Partial.put``.
        """
        assert self.partial is not None
        self._disk.call(self.partial.write, extent, data, timeout=patience, late=late)

    def mark(self, extent: Extent, *, patience: float, late: Callable[[], object]) -> None:
        """These blocks are written: the map says so from now on. As ``write``."""
        assert self.partial is not None
        offset, length = extent.start * BLOCK, len(extent) * BLOCK
        self._disk.call(self.partial.mark, offset, length, timeout=patience, late=late)

    def sync(self) -> None:
        """Make durable what was written so far, also while more is. Switches. Raises OSError."""
        assert self.partial is not None
        try:
            self._disk.call(self.partial.sync)
        except StreamCacheError:  # it did not begin
            raise
        except OSError:
            self.lost = True
            raise

    def seal(self, mtime_ns: int) -> None:
        """Pin the mtime and make the data durable. Switches. Raises OSError."""
        partial = self.partial
        assert partial is not None
        if partial.is_poisoned:
            self.lost = True
            raise CacheBusy("another process failed to make it durable")
        try:
            self._disk.call(partial.seal, mtime_ns, self._path)
        except OSError:
            self.lost = True
            raise

    def publish(self) -> tuple[int, int, KeyLock]:
        """Rename to the object: a leased descriptor of it, its bytes on disk, and the key's lock.

        Descriptor and lock are the caller's from now on (readers keep the descriptor that they
        have, it is the same). The lock is for as long as the catalog does not know the object.
        Switches. Raises CacheBusy, OSError.
        """
        assert self.partial is not None
        lock = self._keys.acquire(key_of(self._name))
        try:
            on_disk = self._disk.call(self._store.objects.publish, self._name, self.partial.inode)
        except BaseException:
            lock.release()
            raise
        return self._taken(), on_disk, lock

    def published(self) -> int | None:
        """Whether another process has published it: then a leased descriptor, the caller's.

        None: not yet. Switches. Raises CacheBusy when it never will be, OSError.
        """
        assert self.partial is not None
        answer = self._disk.call(self._store.objects.published, self._name, self.partial.inode)
        if answer is None:
            raise CacheBusy("its partial has lost its name")
        return self._taken() if answer else None

    def lend(self) -> int:
        """The read-only descriptor, which is the caller's from now on; -1: there is none."""
        return -1 if self.partial is None else self.partial.give_away()

    def let_go(self, *, keep: bool) -> None:
        """Close everything. Switches. Raises OSError, CacheError.

        ``keep``: leave the partial for the next session, as one that we never opened. What was
        published is not touched.
        """
        self.give_up()
        partial, self.partial = self.partial, None
        settle = self._settle_files if keep or not self._opened else self._remove_files
        inode = 0 if partial is None else partial.inode
        try:
            if self._published:
                return
            with self._keys.acquire(key_of(self._name)):
                if partial is not None:
                    self._disk.call(partial.close)
                    partial = None
                generation = self._space.generation(self._name)
                on_disk = self._disk.call(settle, inode)
                if generation and on_disk is not None:
                    self._space.settle(self._name, generation, on_disk)
        finally:
            # Also if others settle it: a new catalog is told only of what is still being written.
            self._space.forget(self._name)
            if partial is not None:
                # Also when the pool is full or closed: what it locks must not stay locked.
                self._disk.post(partial.close)

    def _open_files(self, header: PartialHeader) -> tuple[Partial, bytes]:
        """Worker thread."""
        if self._is_object():  # since we asked: the lock was lent
            raise CacheBusy("another session has published it")
        partial, present = self._store.partials.open(self._name, header)
        # From now on: another session may publish it, and its object be evicted, before we know.
        files.lease(partial.read_fd)
        return partial, present

    def _settle_files(self, inode: int) -> int | None:
        """Worker thread. ``inode``: of the partial that we had; 0: none."""
        return None if self._is_others(inode) else self._store.partials.settle(self._name)

    def _remove_files(self, inode: int) -> int | None:
        """Worker thread."""
        return None if self._is_others(inode) else self._store.partials.remove(self._name)

    def _is_others(self, inode: int) -> bool:
        """Worker thread. What has the name now is an object, or a partial begun after a purge."""
        return self._is_object() or self._store.partials.is_another(self._name, inode)

    def _is_object(self) -> bool:
        """Then a map that is left is its journal, for who enters it in the catalog."""
        return self._store.objects.find(self._name) is not None

    def _draw(self, *, timeout: float) -> int:
        """Reserve more; the generation of the reservation. Switches. Raises NoSpace."""
        whole = footprint(self._size)
        self._waits = True
        try:
            draw = self._space.draw(self._name, min(STEP, whole), whole, timeout=timeout)
        finally:
            self._waits = False
        self._drawn += draw.amount
        self._whole = draw.whole
        return draw.generation

    def _taken(self) -> int:
        """The descriptor, which has had the lock of a reader from the start."""
        assert self.partial is not None
        self._published = True
        return self.partial.give_away()
