"""Whether bytes of a file are in the page cache, so that ``sendfile`` will not wait for the disk.

Runs in the connection's greenlet; on the fast path in the hub. ``sendfile`` of a page that is not
there holds the hub, and everybody with it, until the disk has it: 13 to 21 ms for a cold window
(docs/performance.md). So each window of 1 MiB is looked at before it is sent, with reads that fail
instead of waiting (RWF_NOWAIT); one that is not all there is read in a worker first. That costs a
hot file three reads of one byte in each MiB, but those who read an object together look once a
second for all of them (``Seen``). A page that is dropped between look and send is waited for, as
before: it is rare, and only slow.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Final

from streamcache.cache.reading import Seen

monotonic = time.monotonic

WINDOW: Final = 1024 * 1024  # bytes, aligned

_LASTS: Final = 1.0  # s that what was found is not looked at again
_MOST: Final = 512  # windows of one file that are remembered: 80 KB, however large it is

_PAGE: Final = 4096
_TOGETHER: Final = 128 * 1024  # bytes that the kernel reads, and mostly drops, together


class PageCache:
    """Looks into the page cache for one server."""

    def __init__(self) -> None:
        self._byte = (bytearray(1),)
        self._supported = True

    def has(self, fd: int, offset: int, stop: int, seen: Seen | None = None) -> bool:
        """Whether the first, middle and last byte are there; never waits.

        True where that cannot be known (a file system without RWF_NOWAIT) or the file is shorter.
        With ``seen`` the bytes lie in one window, and what others have just found is not looked at.
        """
        if not self._supported:
            return True
        if seen is None:
            return self._look(fd, offset, stop)
        now, window = monotonic(), offset // WINDOW
        if now >= seen.until:
            seen.until = now + _LASTS
            seen.windows.clear()
        elif seen.windows.get(window, stop) <= offset:
            return True
        found = self._look(fd, offset, stop)
        if found and stop % WINDOW == 0:
            if len(seen.windows) >= _MOST:
                seen.windows.clear()
            seen.windows[window] = offset
        return found

    def _look(self, fd: int, offset: int, stop: int) -> bool:
        try:
            os.preadv(fd, self._byte, stop - 1, os.RWF_NOWAIT)
            if stop - offset > _PAGE:
                os.preadv(fd, self._byte, offset, os.RWF_NOWAIT)
            if stop - offset > _TOGETHER:
                os.preadv(fd, self._byte, (offset + stop) // 2, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._supported = False
        return True


def window_end(offset: int, stop: int) -> int:
    """Where the window of this offset ends, ``stop`` at most."""
    return min(stop, offset - offset % WINDOW + WINDOW)
