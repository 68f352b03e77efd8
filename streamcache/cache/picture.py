"""What a copy looks like at this moment: which blocks are there, who reads where.

Hub's thread; nothing switches, and however large the file is and however scattered its blocks are,
it takes a few milliseconds at most.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from typing import Final

from streamcache.cache.blockmap import BLOCK, BlockMap
from streamcache.cache.session import CopySession

MOST_RUNS: Final = 4096

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ReaderPicture:
    """Where a client reads, in bytes from the start, and whether it waits for them."""

    client: str
    offset: int
    waits: bool


@dataclass(frozen=True, slots=True)
class CopyPicture:
    """A copy. ``blocks`` are runs of (1 present or 0 not, how many) of ``block`` bytes each."""

    path: str  # "/a/b.mp4"
    version: str
    state: str
    size: int
    present: int  # bytes
    block: int  # 64 KiB; more if there are more than 4096 runs, then present is what is all there
    blocks: Runs
    readers: tuple[ReaderPicture, ...]
    started: float  # s since the epoch


def picture_of(session: CopySession) -> CopyPicture:
    """A session as it is now."""
    block, blocks = runs_of(session.map)
    readers = sorted(session.readers, key=lambda reader: (reader.position, reader.client))
    return CopyPicture(
        path=f"/{session.path}",
        version=session.version.id,
        state=session.state.value,
        size=session.version.size,
        present=session.map.present_bytes,
        block=block,
        blocks=blocks,
        readers=tuple(
            ReaderPicture(reader.client, reader.position, reader.waits) for reader in readers
        ),
        started=time.time() - (time.monotonic() - session.started),
    )


def runs_of(map_: BlockMap) -> tuple[int, Runs]:
    """Bytes of a block, and the runs of present and missing blocks, from the start to the end."""
    found = list(islice(map_.runs(), MOST_RUNS // 2))
    if len(found) < MOST_RUNS // 2:
        return BLOCK, _alternating([(run.start, run.stop) for run in found], map_.count)
    group = 2
    while map_.count > group * MOST_RUNS:
        group *= 2
    count = -(-map_.count // group)
    block = group * BLOCK
    whole = [
        (index, index + 1)
        for index in range(count)
        if map_.ready(index * block, (index + 1) * block) == min(block, map_.size - index * block)
    ]
    return block, _alternating(whole, count)


def _alternating(present: list[tuple[int, int]], count: int) -> Runs:
    runs: list[tuple[int, int]] = []
    at = 0
    for start, stop in present:
        if start > at:
            runs.append((0, start - at))
        if runs and runs[-1][0]:  # it touches the one before
            runs[-1] = (1, runs[-1][1] + stop - start)
        else:
            runs.append((1, stop - start))
        at = stop
    if at < count:
        runs.append((0, count - at))
    return tuple(runs)
