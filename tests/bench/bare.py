"""The slow mount itself, without streamcache: what the figures are held against."""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path

from tests.slowfs import SlowFS

BLOCK = 64 * 1024
MiB = 1024 * 1024


def one_read(fs: SlowFS, name: str, *, size: int = BLOCK, repeat: int = 9) -> float:
    """Seconds to open a cold file and read its first bytes; the median of some tries."""
    times = []
    for _ in range(repeat):
        fs.drop_cache()
        began = time.monotonic()
        fd = os.open(fs.path / name, os.O_RDONLY)
        # Else the kernel reads ahead, and more than was asked for is waited for.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, size, 0)
        times.append(time.monotonic() - began)
        os.close(fd)
    fs.drop_cache()
    return statistics.median(times)


def whole(fs: SlowFS, name: str) -> float:
    """Seconds to read a cold file from beginning to end, with the kernel's read-ahead."""
    fs.drop_cache()
    began = time.monotonic()
    _read(fs.path / name, 0, os.stat(fs.path / name).st_size)
    return time.monotonic() - began


def seek_while_playing(fs: SlowFS, name: str, *, after: float = 1.0) -> tuple[float, float, float]:
    """One reader seeks to 90 % while another plays: (first byte, whole MiB, the player's time)."""
    fs.drop_cache()
    size = os.stat(fs.path / name).st_size
    played: list[float] = []
    player = threading.Thread(target=lambda: played.append(_read(fs.path / name, 0, size)[1]))
    player.start()
    player.join(after)
    first, last = _read(fs.path / name, size * 9 // 10, MiB)
    player.join()
    return first, last, played[0]


def _read(path: Path, offset: int, size: int) -> tuple[float, float]:
    """Seconds until the first byte and until the last."""
    began = time.monotonic()
    first = 0.0
    fd = os.open(path, os.O_RDONLY)
    try:
        buffer = bytearray(BLOCK)
        end = offset + size
        while offset < end:
            count = os.preadv(fd, [buffer], offset)
            first = first or time.monotonic() - began
            if not count:
                break
            offset += count
    finally:
        os.close(fd)
    return first, time.monotonic() - began
