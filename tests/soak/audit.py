"""What a cache directory holds, looked at from outside: nothing here trusts the daemon."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from streamcache.cache.blockmap import BLOCK
from streamcache.cache.names import is_name
from streamcache.cache.partial import PartialHeader
from tests.content import verify
from tests.soak.titles import Titles
from tests.system.site import disk_usage, files_below, objects_in


def audit(cache_dir: Path, titles: Titles) -> list[str]:
    """What is wrong with objects and partials, in words. Processes may be at work meanwhile."""
    return [*_objects(cache_dir, titles), *_partials(cache_dir, titles)]


def _objects(cache_dir: Path, titles: Titles) -> Iterator[str]:
    owners: dict[str, str] = {}  # key -> title
    for path in sorted((cache_dir / "objects").glob("*/*")):
        if not is_name(path.name):  # digests of one
            continue
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # evicted just now
            continue
        key, _, version = path.name.partition(".")
        content = titles.version(version)
        if content is None:
            yield f"object {path.name} of no version that there was"
        elif owners.setdefault(key, content.title) != content.title:
            yield f"object {path.name} of {content.title} has the key of {owners[key]}"
        elif len(data) != content.size:
            yield f"object of {content} has {len(data)} bytes"
        elif (wrong := verify(content.text, 0, data)) is not None:
            yield f"object of {content} is wrong at {wrong}"


def _partials(cache_dir: Path, titles: Titles) -> Iterator[str]:
    """Present blocks only; what is unsound altogether is for the daemon to drop."""
    for path in sorted((cache_dir / "partial").glob("*.map")):
        data = path.with_suffix(".data")
        with contextlib.ExitStack() as stack:
            try:
                map_file = stack.enter_context(open(path, "rb"))
                data_file = stack.enter_context(open(data, "rb"))
            except FileNotFoundError:
                continue
            raw = map_file.read()
            try:
                header, start = PartialHeader.decode(raw)
            except ValueError:
                continue
            content = titles.version(header.version)
            if content is None or header.path != content.title:
                yield f"partial of {header.path!r}, which is {content}"
                continue
            wrong = _wrong_block(data_file.fileno(), raw[start:], content.text, content.size)
            # Dropped and begun anew meanwhile, map and data are not of one partial.
            if wrong is not None and _is_still(map_file.fileno(), path):
                yield f"partial of {content} says that block {wrong} is present"


def _wrong_block(fd: int, present: bytes, text: str, size: int) -> int | None:
    for number, there in enumerate(present):
        if there:
            data = os.pread(fd, BLOCK, number * BLOCK)
            expected = min(BLOCK, size - number * BLOCK)
            if len(data) != expected or verify(text, number * BLOCK, data) is not None:
                return number
    return None


def _is_still(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def held(cache_dir: Path) -> dict[str, int]:
    """Bytes on disk of what was there at one moment, by path, while files come and go.

    In two looks: one alone may count a file that goes, and then another that comes in its room.
    An inode alone does not tell: the next file has it again. The map of what has become an object
    is not counted: it goes in a moment (docs/reliability.md).
    """
    before, after = _look(cache_dir), _look(cache_dir)
    paths = {path for path, _ in after.values()}
    return {
        path: min(on_disk, after[file][1])
        for file, (path, on_disk) in before.items()
        if file in after
        and (not path.endswith(".map") or path.removesuffix(".map") + ".data" in paths)
    }


def _look(cache_dir: Path) -> dict[tuple[int, str], tuple[str, int]]:
    """Path and bytes on disk, by inode and what a partial and its object have in common."""
    return {
        (stat.st_ino, os.path.basename(path).removesuffix(".data")): (path, stat.st_blocks * 512)
        for path, stat in files_below(cache_dir).items()
    }


def unsound(cache_dir: Path) -> list[str]:
    """Files of partial/ that nobody could continue."""
    found = []
    for name in sorted(os.listdir(cache_dir / "partial")):
        path = cache_dir / "partial" / name
        if path.suffix == ".data" and not path.with_suffix(".map").exists():
            found.append(f"{name} without a map")
        elif path.suffix == ".map":
            try:
                raw = path.read_bytes()
                header, start = PartialHeader.decode(raw)
            except (ValueError, FileNotFoundError) as error:
                found.append(f"{name}: {error}")
                continue
            data = path.with_suffix(".data")
            if not data.exists() or data.stat().st_size != header.size:
                found.append(f"{name}: its data is not of {header.size} bytes")
            elif len(raw) - start != -(-header.size // BLOCK):
                found.append(f"{name}: {len(raw) - start} blocks for {header.size} bytes")
    return found


@dataclass(frozen=True, slots=True)
class Books:
    """What the catalog says."""

    complete: bool
    objects: int  # bytes, each in disk blocks
    reserved: int
    trash: int
    names: frozenset[str]  # of objects

    @classmethod
    def read(cls, cache_dir: Path) -> Books:
        """As of now, by a connection that only reads. Raises sqlite3.Error."""
        path = os.path.realpath(cache_dir / "catalog.sqlite")
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            state = db.execute("SELECT complete, objects, reserved, trash FROM state").fetchone()
            names = {raw.hex() for (raw,) in db.execute("SELECT name FROM objects")}
        complete, *sizes = state
        return cls(bool(complete), *sizes, frozenset(f"{n[:32]}.{n[32:]}" for n in names))

    def difference(self, cache_dir: Path) -> str | None:
        """In what it differs from the disk; None: in nothing."""
        if not self.complete:
            return "the catalog is not complete"
        there = {name for name in objects_in(cache_dir) if is_name(name)}  # not their digests
        if there != self.names:
            lost, ghosts = sorted(there - self.names), sorted(self.names - there)
            return f"objects: only on disk {lost}, only in the catalog {ghosts}"
        used, disk = self.objects + self.reserved + self.trash, disk_usage(cache_dir)
        if used != disk:
            return f"usage {used}, on disk {disk}: {self.objects=} {self.reserved=} {self.trash=}"
        return None


def await_order(cache_dir: Path, sleep: Callable[[float], object], wait: float = 60.0) -> list[str]:
    """Until all is sound and the catalog says what the disk says: []; or what is not so after
    ``wait`` s. A sweep, every ten seconds, is what removes the files of dead processes.

    Nobody must be served meanwhile. ``sleep`` lets others run.
    """
    deadline = time.monotonic() + wait
    while True:
        found = unsound(cache_dir)
        try:
            difference = Books.read(cache_dir).difference(cache_dir)
            found += [difference] if difference else []
        except sqlite3.Error as error:
            found.append(f"catalog: {error}")
        if not found or time.monotonic() > deadline:
            return found
        sleep(0.05)
