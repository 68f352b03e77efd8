"""Files whose every byte follows from (name, offset), so any range can be checked unseen.

The content is a row of 64 KiB blocks, each from a generator seeded with name and block number.
It does not compress, no two blocks are alike, and nothing has to be kept to verify a range.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from random import Random

BLOCK = 64 * 1024
SETTLED = 3600.0  # s: a file so old counts as finished (``source.settle``)


@functools.lru_cache(maxsize=512)  # 32 MiB: a crowd on one title makes each block once
def block(name: str, number: int) -> bytes:
    """Block ``number`` of the content called ``name``."""
    seed = blake2b(f"{name}\0{number}".encode(), digest_size=16).digest()
    return Random(int.from_bytes(seed)).randbytes(BLOCK)


def content(name: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of the content called ``name``."""
    return b"".join(piece for _offset, piece in _pieces(name, start, stop))


def verify(name: str, offset: int, data: bytes | bytearray | memoryview) -> int | None:
    """The first offset (in the file) at which ``data``, read from ``offset``, is wrong, or None."""
    got = memoryview(data)
    for at, expected in _pieces(name, offset, offset + len(got)):
        piece = bytes(got[at - offset : at - offset + len(expected)])
        if piece != expected:
            return at + next(
                i for i, (a, b) in enumerate(zip(piece, expected, strict=True)) if a != b
            )
    return None


class Verifier:
    """Checks a stream of pieces of one content as they come.

    ``feed`` returns None, or what is wrong in words; ``missing`` says at the end what did not come.
    """

    __slots__ = ("name", "offset", "stop")

    def __init__(self, name: str, start: int, stop: int) -> None:
        self.name = name
        self.offset = start  # of the next byte
        self.stop = stop

    def feed(self, data: bytes | bytearray | memoryview) -> str | None:
        """Check the next bytes."""
        if self.offset + len(data) > self.stop:
            return f"{self.name}: bytes after the end at {self.stop}"
        wrong = verify(self.name, self.offset, data)
        if wrong is not None:
            return f"{self.name}: wrong byte at {wrong}"
        self.offset += len(data)
        return None

    def missing(self) -> str | None:
        """What is missing when no more bytes come."""
        if self.offset == self.stop:
            return None
        return f"{self.name}: bytes missing from {self.offset} to {self.stop}"


def write(
    root: str | os.PathLike[str],
    name: str,
    size: int,
    *,
    content_name: str | None = None,
    age: float = SETTLED,
) -> Path:
    """Write ``name`` under ``root`` with ``size`` bytes of its content; its path.

    It looks ``age`` seconds old, so that it counts as finished. It gets its name when it is
    complete: an older file of that name is replaced by rename. ``content_name`` writes another
    content under this name, as another version of the file.
    """
    path = Path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "wb") as file:
        for _offset, piece in _pieces(content_name or name, 0, size):
            file.write(piece)
    changed = time.time_ns() - int(age * 10**9)
    os.utime(fresh, ns=(changed, changed))
    return fresh.rename(path)


def write_all(root: str | os.PathLike[str], *names: str, size: int) -> None:
    """Write files of that size under ``root``."""
    for name in names:
        write(root, name, size)


def _pieces(name: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of [start, stop), cut at the blocks' borders."""
    while start < stop:
        number, inside = divmod(start, BLOCK)
        piece = block(name, number)[inside : inside + stop - start]
        yield start, piece
        start += len(piece)
