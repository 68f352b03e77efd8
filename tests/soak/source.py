"""The source of a soak: a slow one where much goes wrong, or one as near as memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.slowfs import SlowFS

KiB, MiB = 1024, 1024 * 1024

SMALL = (0, 1, 64 * KiB, 64 * KiB + 1, 200_000, 700_000, MiB, MiB + 7, 2 * MiB, 4 * MiB)
LARGE = (0, 1, 64 * KiB + 1, MiB + 7, 4 * MiB, 16 * MiB + 1, 24 * MiB, 40 * MiB + 7)


@dataclass(frozen=True, slots=True)
class Source:
    """Files that are written below ``backing``, and served from ``path``."""

    path: Path
    backing: Path
    sizes: tuple[int, ...]  # bytes of a file
    limit: int  # bytes of the cache: a part of what there is, so objects are evicted all the time
    fs: SlowFS | None = None  # whose reads may hang and fail; None: nothing goes wrong


@contextlib.contextmanager
def slow() -> Iterator[Source]:
    """A slow file system."""
    with SlowFS() as fs:
        yield Source(fs.path, fs.backing, SMALL, 12 * MiB, fs)


@contextlib.contextmanager
def near() -> Iterator[Source]:
    """A folder whose files the kernel has in memory; some take several steps to copy."""
    with tempfile.TemporaryDirectory(prefix="soak-source-", dir="/var/tmp") as folder:
        yield Source(Path(folder), Path(folder), LARGE, 96 * MiB)
