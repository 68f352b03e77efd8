"""The end of a copy: durable, looked at once more, and an object by its name.

Runs in the session's greenlet. Of all sessions that copy a version, in whichever process, one
publishes; the others find that it is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import gevent

from streamcache.cache.allotment import Allotment
from streamcache.cache.locks import KeyLock
from streamcache.cache.reopening import is_stale
from streamcache.cache.workers import WorkerPool
from streamcache.errors import CacheBusy, NotFound, SourceChanged, SourceUnavailable
from streamcache.source.base import Change, Fingerprint, Source, SourceFile

_POLL: Final = 0.005  # s until the first look while another session publishes, then twice that
_SELDOM: Final = 0.1  # s between looks at most: its disk is slow, or it was stopped


@dataclass(frozen=True, slots=True)
class Published:
    """An object, by a leased descriptor; all of it is the receiver's."""

    fd: int
    on_disk: int = 0  # bytes, if it was we who published it
    lock: KeyLock | None = None  # the key's: while the catalog does not know of the object


class Look:
    """The last look at the source: by descriptor and by path it is what was copied."""

    def __init__(self, source: Source, meta: WorkerPool, file: SourceFile, path: str) -> None:
        self._source = source
        self._meta = meta
        self._file = file
        self._path = path

    def is_still(self, seen: Fingerprint) -> bool:
        """Whether it is what it was. Switches. Raises SourceUnavailable."""
        return self._meta.call(self._ask, seen)

    def _ask(self, seen: Fingerprint) -> bool:
        """Worker thread."""
        try:
            looks = (self._fingerprint(seen), self._source.stat(self._path))
            self._source.drop_cached(self._file)
            return all(seen.compare(look) is Change.NONE for look in looks)
        except NotFound:
            return False

    def _fingerprint(self, seen: Fingerprint) -> Fingerprint:
        try:
            return self._source.fingerprint(self._file)
        except SourceUnavailable as error:
            if not is_stale(error):
                raise
            return self._source.reopen(self._file, seen)


def publish(
    room: Allotment, mtime_ns: int, *, wanted: Callable[[], bool], is_still: Callable[[], bool]
) -> Published | None:
    """All blocks are present: make an object of them; None: it is not ``wanted`` any more.

    Switches. Raises SourceChanged and other errors of the source, CacheError, OSError.
    """
    partial = room.partial
    assert partial is not None
    pause = _POLL
    try:
        while wanted():
            ours = partial.try_publish()
            fd = room.published()
            if fd is not None:
                return Published(fd)
            if not ours:
                gevent.sleep(pause)
                pause = min(2 * pause, _SELDOM)
                continue
            room.seal(mtime_ns)
            if not is_still():
                raise SourceChanged("changed at the source while it was copied")
            if wanted():
                with contextlib.suppress(CacheBusy):  # the key is held; look at all of it again
                    return Published(*room.publish())
        return None
    finally:
        # Its own readers may keep the partial open for hours.
        partial.leave_to_others()
