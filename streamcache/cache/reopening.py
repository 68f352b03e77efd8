"""Before a read that failed is tried a second time: wait, or open anew what is stale.

Hub's thread; the step's or the reader's greenlet. A restarted server knows the handles of before no
more (ESTALE). The file at the path takes their place if it is the same, under the same descriptor:
who is reading meanwhile is not disturbed (I4).
"""

from __future__ import annotations

import errno
import logging
from typing import Final

import gevent
from gevent.event import AsyncResult

from streamcache.cache.workers import WorkerPool
from streamcache.errors import SourceChanged, StreamCacheError
from streamcache.source.base import Fingerprint, Source, SourceFile

DELAY: Final = 0.2  # s before a read that failed is tried a second time

log = logging.getLogger(__name__)


class Reopening:
    """The second tries at one open file; whoever calls has it under way, so nobody closes it."""

    def __init__(self, source: Source, meta: WorkerPool, file: SourceFile) -> None:
        self._source = source
        self._meta = meta
        self._file = file
        self._under_way: AsyncResult[Fingerprint | None] | None = None

    def prepare(self, error: StreamCacheError, seen: Fingerprint) -> Fingerprint | None:
        """After ``error``: what the file is if it was opened anew, else None. Switches.

        ``seen`` is what it was. Raises SourceChanged: the path leads to another one.
        """
        if not is_stale(error):
            gevent.sleep(DELAY)
            return None
        if self._under_way is None:
            self._under_way = AsyncResult()
            gevent.spawn(self._reopen, self._under_way, seen)
        return self._under_way.get()

    def _reopen(self, result: AsyncResult[Fingerprint | None], seen: Fingerprint) -> None:
        """Greenlet: so that those who share it may leave."""
        try:
            result.set(self._meta.call(self._source.reopen, self._file, seen))
        except SourceChanged as error:
            result.set_exception(error)
        except StreamCacheError:  # the second try will tell
            gevent.sleep(DELAY)
            result.set(None)
        except Exception as error:  # a fault of ours: who waits need not wait in vain (I11)
            log.exception("file not opened anew path=%r", f"/{self._file.path}")
            result.set_exception(SourceChanged(f"/{self._file.path}: {error}"))
        finally:
            self._under_way = None


def is_stale(error: BaseException) -> bool:
    """The open file's handle is known no more at the source."""
    return isinstance(error, OSError) and error.errno == errno.ESTALE
