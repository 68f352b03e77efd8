"""What a source is: a version, an open file of it, and the worker-thread calls that make them."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from streamcache.config.source import Identity
from streamcache.source.walk import Walked

AHEAD_BYTES = 64 * 1024  # read together with the open, when it is asked for


@dataclass(frozen=True, slots=True)
class Version:
    """What identifies the content of a source file, as far as its attributes tell.

    ``id`` is 32 hex digits over size and mtime (and more, see ``source.identity``): the same on
    every node that mounts the same source, so it serves as entity tag.
    """

    id: str
    size: int  # bytes
    mtime_ns: int  # ns since the epoch

    @classmethod
    def of(cls, stat: os.stat_result, identity: Identity = "mtime") -> Version:
        """The version that these attributes identify."""
        parts = [stat.st_size, stat.st_mtime_ns]
        if identity == "mtime+ctime":
            parts.append(stat.st_ctime_ns)
        elif identity == "mtime+inode":
            parts.append(stat.st_ino)
        text = ":".join(map(str, parts)).encode()
        digest = hashlib.blake2b(text, digest_size=16, person=b"version")
        return cls(digest.hexdigest(), stat.st_size, stat.st_mtime_ns)


class Change(enum.Enum):
    """What happened to an open file, as far as its attributes tell."""

    NONE = "none"
    APPENDED = "appended"  # the bytes that were there are the same
    REWRITTEN = "rewritten"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The whole stat of an open source file: within a session every field of it counts."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    links: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Fingerprint:
        """The fields of a stat that change when content does."""
        return cls(
            size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            ctime_ns=stat.st_ctime_ns,
            inode=stat.st_ino,
            device=stat.st_dev,
            links=stat.st_nlink,
        )

    def compare(self, now: Fingerprint) -> Change:
        """What happened to the open file between this look at it and the later ``now``.

        An append cannot be told from a rewrite that also grows. A name more or less (a hard link,
        or another file renamed over this one) moves ctime too, and leaves the content alone.
        """
        if now == self:
            return Change.NONE
        if (now.inode, now.device) != (self.inode, self.device) or now.size < self.size:
            return Change.REWRITTEN
        if now.size > self.size:
            return Change.APPENDED
        renamed = now.mtime_ns == self.mtime_ns and now.links != self.links
        return Change.NONE if renamed else Change.REWRITTEN

    def may_be_growing(self, now: Fingerprint) -> bool:
        """Whether only the times moved since this look: a rewrite, or the beginning of an append.

        A write moves the times before it moves the size (Linux, and so its file servers), so a
        look can fall between the two.
        """
        times = {"mtime_ns": now.mtime_ns, "ctime_ns": now.ctime_ns}
        return now != self and dataclasses.replace(self, **times) == now

    def newer(self, other: Fingerprint) -> Fingerprint:
        """Which of two looks that were under way at once was the later: their ctimes tell.

        Their sizes only within one tick of that clock, or what was cut off later would look like
        what was not yet appended. ``other``, if they say the same.
        """
        earlier = (other.ctime_ns, other.size) < (self.ctime_ns, self.size)
        return self if earlier else other

    def compare_any(self, other: Fingerprint) -> Change:
        """What happened to the open file between two looks that were under way at once."""
        if self.newer(other) is self:
            return other.compare(self)
        return self.compare(other)


@dataclass(frozen=True, slots=True)
class Ahead:
    """Bytes that were read when the file was opened, and are of its version."""

    offset: int
    data: memoryview


class SourceFile:
    """An open file of the source: a descriptor, and what it was when it was opened.

    Closing it may block, so ``close`` runs in a worker thread; until then the descriptor is
    valid, also after the file was replaced at the source (I8).
    """

    __slots__ = ("ahead", "fd", "fingerprint", "path", "version")

    def __init__(
        self,
        fd: int,
        version: Version,
        fingerprint: Fingerprint,
        ahead: Ahead | None = None,
        path: str = "",
    ) -> None:
        self.fd = fd
        self.version = version
        self.fingerprint = fingerprint
        self.ahead = ahead
        self.path = path  # relative to the source's root

    def close(self) -> None:
        """Close the descriptor. Worker thread; idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Source(Protocol):
    """Worker-thread calls of a source: each may block for as long as the source likes (I1)."""

    id: str  # names the source in keys

    def open(self, path: str, ahead: int | None = None) -> SourceFile:
        """Open the regular file at ``path`` ("a/b.mp4", relative to the root) and fstat it.

        ``ahead``: also read the first bytes from this offset on, which is a multiple of
        ``AHEAD_BYTES``. Raises NotFound (proven, I15), AccessDenied or SourceUnavailable.
        """
        ...

    def read_into(self, file: SourceFile, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from ``offset`` on; bytes read, fewer only at the end of the file.

        Raises SourceUnavailable on an I/O error.
        """
        ...

    def drop_cached(self, file: SourceFile) -> None:
        """The file was copied: what the kernel keeps of it would be kept twice."""
        ...

    def fingerprint(self, file: SourceFile) -> Fingerprint:
        """What the open file is now. Raises SourceUnavailable."""
        ...

    def stat(self, path: str) -> Fingerprint:
        """What the file at ``path`` is now, by name. Raises as ``open`` does."""
        ...

    def reopen(self, file: SourceFile, seen: Fingerprint) -> Fingerprint:
        """The open file is stale (ESTALE): put its path's file in its place, if it is the same.

        ``seen`` is what it was last; what it is now. Raises SourceChanged, and as ``open`` does.
        """
        ...

    def walk(
        self, folder: str, *, is_meant: Callable[[str], bool], may_hold: Callable[[str], bool]
    ) -> Iterator[list[Walked]]:
        """See ``walk.walk``. Each piece is a worker's call, one at a time; so is the end.

        Raises NotFound, AccessDenied or SourceUnavailable of the folder itself.
        """
        ...

    def probe(self, known: str | None) -> None:
        """Ask whether the source answers at all; ``known``: a path that it had.

        Raises SourceUnavailable, or does not return as long as it does not.
        """
        ...
