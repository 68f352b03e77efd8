"""A file-like object over a delegate, for programs that embed the cache."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from streamcache.cache.delegate import CacheStatus, Delegate
from streamcache.errors import CacheError
from streamcache.source.base import Version

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK = 1024 * 1024  # bytes a read of the cache takes at most


class StreamFile(io.RawIOBase):
    """An open version of a file: read, readinto, seek, tell. For one greenlet; reads switch."""

    def __init__(self, delegate: Delegate, call: Callable[..., Any], path: str) -> None:
        """Owns ``delegate``; ``call(function, *args)`` runs in a worker thread."""
        super().__init__()
        self._delegate = delegate
        self._call = call
        self._path = path
        self._position = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._position}/{self.size}"
        return f"<StreamFile {self._path!r} {self.status.value} {state}>"

    @property
    def size(self) -> int:
        """Bytes."""
        return self._delegate.size

    @property
    def version(self) -> Version:
        """What is being read; it does not change."""
        return self._delegate.version

    @property
    def status(self) -> CacheStatus:
        """How the cache serves it."""
        return self._delegate.status

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill ``buffer`` with what is ready: at least one byte, 0 at the end. Switches.

        Raises SourceError, SourceChanged or CacheError.
        """
        self._check()
        view = memoryview(buffer).cast("B")
        stop = min(self._position + min(len(view), _CHUNK), self.size)
        if stop <= self._position:
            return 0
        ready = self._delegate.ready(self._position, stop)
        if ready.data is None:
            # The cache's disk blocks too, if it is cold: never in the hub.
            try:
                count: int = self._call(os.preadv, ready.fd, [view[: ready.length]], ready.offset)
                if not count:  # 0 would say that the file ends here
                    raise CacheError(f"{self._path}: cut short in the cache at {ready.offset}")
            except (OSError, CacheError) as error:
                self._delegate.failed(error)  # or it goes on past the cache
                return self.readinto(buffer)
        else:
            view[: ready.length] = ready.data
            count = ready.length
        self._delegate.sent(ready, count)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; reads nothing. Beyond the end is allowed, as for any file."""
        self._check()
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        if whence not in bases:
            raise ValueError(f"whence {whence}: 0, 1 or 2 is needed")
        base = bases[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        self._check()
        return self._position

    def close(self) -> None:
        """Give the lease back. Idempotent."""
        if not self.closed:
            self._delegate.close()
        super().close()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
