"""What was done to a file system, and what a disk may hold when the power goes. No system calls.

A record is one operation that reached the file system. What a program has not synced may be on the
disk or not, and not in the order in which it was done:

* of a file, everything up to its last fsync is there; of each later write every page of 4 KiB, of
  each later change of size and time all or nothing, whatever became of others before it;
* of a directory, everything up to its last fsync is there, and then a beginning of what followed.
  With a ``Journal`` (ext4, XFS, btrfs) there is one such row for all directories, and the fsync of
  anything ends it; without one each directory is on its own, and a rename from one to another may
  have happened in either, in both or in none. POSIX promises no more.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass, field
from random import Random

ROOT = 1  # inode
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Make:
    """A new inode under a name."""

    folder: int
    name: str
    inode: int
    kind: str  # "file", "folder" or "link"
    target: str = ""  # of a link


@dataclass(frozen=True, slots=True)
class Move:
    """Renamed, over whatever had the new name."""

    folder: int
    name: str
    to_folder: int
    to_name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Drop:
    """A name is gone."""

    folder: int
    name: str


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes of a file."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """Another size: what is cut off is gone, what is added is zero."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Touch:
    """Another modification time, in ns since the epoch."""

    inode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Sync:
    """fsync or fdatasync of a file or a directory has returned."""

    inode: int


Record = Make | Move | Drop | Write | Resize | Touch | Sync


class Keep(enum.Enum):
    """How much of what was not synced is on the disk."""

    NOTHING = enum.auto()
    SOME = enum.auto()
    EVERYTHING = enum.auto()


@dataclass(frozen=True, slots=True)
class Cut:
    """A power cut: when it came, and what it left."""

    at: int  # records that were done
    names: Keep  # of directories
    bytes: Keep  # of files
    journal: bool
    seed: int = 0


@dataclass(slots=True)
class File:
    """A file on the disk."""

    data: bytearray = field(default_factory=bytearray)
    mtime_ns: int = 0

    def apply(self, change: Write | Resize | Touch) -> None:
        """As the file system does it."""
        if isinstance(change, Touch):
            self.mtime_ns = change.mtime_ns
        elif isinstance(change, Resize):
            self._resize(change.size)
        else:
            stop = change.offset + len(change.data)
            self._resize(max(stop, len(self.data)))
            self.data[change.offset : stop] = change.data

    def _resize(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))


Tree = dict[str, "Tree | File | str"]
"""A directory on the disk: names to directories, files and the targets of links."""


def disk_after(records: list[Record], cut: Cut) -> Tree:
    """What is on the disk after the cut."""
    done, random = records[: cut.at], Random(cut.seed)
    kinds: dict[int, Make] = {record.inode: record for record in done if isinstance(record, Make)}
    entries = _entries(done, cut, random)
    files = _files(done, cut, random)

    def build(inode: int) -> Tree:
        tree: Tree = {}
        for name, child in entries[inode].items():
            made = kinds[child]
            if made.kind == "folder":
                tree[name] = build(child)
            else:
                tree[name] = made.target if made.kind == "link" else files[child]
        return tree

    return build(ROOT)


def _survivors(count: int, synced: int, keep: Keep, random: Random) -> int:
    """How many of a row of operations are there: a beginning."""
    if keep is Keep.SOME:
        return random.randint(synced, count)
    return count if keep is Keep.EVERYTHING else synced


def _entries(done: list[Record], cut: Cut, random: Random) -> dict[int, dict[str, int]]:
    """By inode of a directory: its names."""
    # Half a rename each: what a directory gets and what it loses.
    rows: dict[int, list[tuple[int, str, int]]] = defaultdict(list)  # -> folder, name, inode or 0
    synced: dict[int, int] = defaultdict(int)
    for record in done:
        for folder, name, inode in _changes_of_names(record):
            rows[0 if cut.journal else folder].append((folder, name, inode))
        if isinstance(record, Sync):
            row = 0 if cut.journal else record.inode
            synced[row] = len(rows[row])
    entries: dict[int, dict[str, int]] = defaultdict(dict)
    for number, row in rows.items():
        for folder, name, inode in row[: _survivors(len(row), synced[number], cut.names, random)]:
            if inode:
                entries[folder][name] = inode
            else:
                entries[folder].pop(name, None)
    return entries


def _changes_of_names(record: Record) -> list[tuple[int, str, int]]:
    if isinstance(record, Make):
        return [(record.folder, record.name, record.inode)]
    if isinstance(record, Drop):
        return [(record.folder, record.name, 0)]
    if isinstance(record, Move):
        come = (record.to_folder, record.to_name, record.inode)
        return [come, (record.folder, record.name, 0)]
    return []


def _files(done: list[Record], cut: Cut, random: Random) -> dict[int, File]:
    """By inode."""
    last = {record.inode: at for at, record in enumerate(done) if isinstance(record, Sync)}
    files: dict[int, File] = defaultdict(File)
    for at, record in enumerate(done):
        if isinstance(record, Write | Resize | Touch):
            file = files[record.inode]
            if at < last.get(record.inode, -1) or cut.bytes is Keep.EVERYTHING:
                file.apply(record)
            elif cut.bytes is Keep.SOME:
                for change in _pages(record):
                    if random.random() < 0.5:
                        file.apply(change)
    return files


def _pages(record: Write | Resize | Touch) -> list[Write | Resize | Touch]:
    """What is kept or lost by itself."""
    if not isinstance(record, Write):
        return [record]
    pieces: list[Write | Resize | Touch] = []
    start, stop = record.offset, record.offset + len(record.data)
    while start < stop:
        end = min(stop, (start // PAGE + 1) * PAGE)
        data = record.data[start - record.offset : end - record.offset]
        pieces.append(Write(record.inode, start, data))
        start = end
    return pieces
