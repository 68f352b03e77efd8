"""One step: a piece of a file that is under way, and what a worker does for it.

``Step`` belongs to the hub; the functions run in workers, and get descriptors, offsets and buffers.
A source that is nearly as fast as memory costs less to read than to hand over: its steps are copied
by the worker that reads them (``copy``), 256 KiB at a time, which stay in the processor's cache.
"""

from __future__ import annotations

import time
from typing import Final

from streamcache.errors import SourceUnavailable
from streamcache.source.base import Fingerprint, Source, SourceFile
from streamcache.source.feed import Copied, Feed, Piece, Sink

SLICE: Final = 256 * 1024  # bytes that are read before they are written
LATE: Final = 2.0  # s after which a step has no place at the source any more

_LONGEST: Final = 0.025  # s of reading and writing: four times what 16 MiB take
_WRITE_TIME: Final = 0.02  # s that an append gets between its times and its size

# Whose reads hang together: a path, and its version, as one that replaced it may be well.
Key = tuple[str, str]


def key_of(feed: Feed) -> Key:
    """Whose reads hang together with those of this feed."""
    return feed.file.path, feed.file.version.id


class Step:
    """A step in flight."""

    __slots__ = ("feed", "key", "piece", "seek", "sink", "started", "waited_for")

    def __init__(
        self, feed: Feed, piece: Piece, *, seek: bool, waited_for: bool, sink: Sink | None = None
    ) -> None:
        self.feed = feed
        self.key = key_of(feed)
        self.piece = piece
        self.seek = seek
        self.waited_for = waited_for
        self.sink = sink  # its worker writes it there
        self.started = time.monotonic()

    @property
    def age(self) -> float:
        """For how many s it is in flight."""
        return time.monotonic() - self.started

    @property
    def is_late(self) -> bool:
        """Whether its read may hang: it keeps its worker, and nothing else."""
        return self.age > LATE


def look(source: Source, file: SourceFile) -> tuple[Fingerprint, float]:
    """What the file is now, and s that it took to say so."""
    begun = time.monotonic()
    now = source.fingerprint(file)
    return now, time.monotonic() - begun


def look_later(source: Source, file: SourceFile) -> Fingerprint:
    """What the file is when a write that is under way has ended."""
    time.sleep(_WRITE_TIME)
    return source.fingerprint(file)


def read(
    source: Source, file: SourceFile, view: memoryview, offset: int
) -> tuple[int, Fingerprint, float]:
    """Read and look in one call, as each costs a round trip to the hub."""
    count = source.read_into(file, view, offset)
    return count, *look(source, file)


def copy(
    source: Source,
    file: SourceFile,
    view: memoryview,
    piece: Piece,
    sink: Sink,
    seen: Fingerprint,
    copied: Copied,
) -> None:
    """Read the piece into ``view`` and write it into ``sink``, slice by slice, then look.

    If the file still is what was ``seen``, the sink is told so. Where that takes long, as the
    source is not near after all or the disk is slow, and behind what cannot be read, the rest is
    left. Raises SourceError; what the sink raises is in ``copied``.
    """
    now = time.monotonic
    try:
        while copied.read < copied.length:
            part = view[: copied.length - copied.read]
            offset = piece.offset + copied.read
            begun = now()
            try:
                count = source.read_into(file, part, offset)
            except SourceUnavailable:
                if not copied.read:
                    raise
                copied.length = copied.read  # what there is is good; the next step finds the same
                break
            finally:
                copied.reading += now() - begun
            copied.read += count
            if count < len(part):
                break
            copied.since = now()
            sink.put(offset, part)
            copied.writing += now() - copied.since
            copied.since = 0.0
            if copied.reading + copied.writing > _LONGEST:
                copied.length = copied.read
        copied.now, copied.look_time = look(source, file)
        if copied.read == copied.length and copied.now == seen:
            copied.since = now()
            sink.mark(piece.offset, copied.length)
            copied.marked = True
    except Exception as error:
        if not copied.since:
            raise
        copied.error = error
    finally:
        copied.since = 0.0
