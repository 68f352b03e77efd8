"""Bodies of several ranges: multipart/byteranges (RFC 9110 14.6, RFC 2046 5.1)."""

from __future__ import annotations

import hashlib

from streamcache.http.entity import Entity
from streamcache.http.ranges import ByteRange


def byteranges(
    entity: Entity, ranges: tuple[ByteRange, ...]
) -> tuple[str, tuple[bytes | ByteRange, ...]]:
    """The content type and the pieces of a body that holds these ranges, in their order."""
    boundary = _boundary(entity, ranges)
    pieces: list[bytes | ByteRange] = []
    before = ""
    for part in ranges:
        head = (
            f"{before}--{boundary}\r\n"
            f"Content-Type: {entity.content_type}\r\n"
            f"Content-Range: {content_range(part, entity.size)}\r\n\r\n"
        )
        pieces += (head.encode("ascii"), part)
        before = "\r\n"
    pieces.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    return f"multipart/byteranges; boundary={boundary}", tuple(pieces)


def content_range(part: ByteRange, size: int) -> str:
    """The value of Content-Range for a part of a file (RFC 9110 14.4: both ends inclusive)."""
    return f"bytes {part.start}-{part.stop - 1}/{size}"


def _boundary(entity: Entity, ranges: tuple[ByteRange, ...]) -> str:
    # 128 bits of a hash: the same question gets the same bytes, and no file holds them by
    # accident; nor on purpose, as the tag covers the time of its last change.
    text = entity.etag + ",".join(f"{part.start}-{part.stop}" for part in ranges)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16, person=b"byteranges").hexdigest()
