"""The recorded file system is one: what is written is read, and every change is in the record."""

from __future__ import annotations

import fcntl
import mmap
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.powercut import RecordedFS
from tests.powercut.history import Cut, Keep, Sync, disk_after
from tests.powercut.recorded import lay_out
from tests.requirements import missing
from tests.slowfs import unsupported


@pytest.fixture
def fs() -> Iterator[RecordedFS]:
    if (reason := unsupported()) is not None:
        missing(reason)
    with RecordedFS() as mounted:
        yield mounted


def work(root: Path) -> None:
    """A bit of everything that a cache does."""
    (root / "a" / "b").mkdir(parents=True)
    file = root / "a" / "file"
    file.write_bytes(b"x" * 3_000_000)
    with open(file, "r+b") as out:
        out.truncate(2_000_000)
        out.seek(10)
        out.write(b"yyy")
        out.flush()
        os.fsync(out.fileno())
    os.utime(file, ns=(5, 1_234_567_890_123_456_789))
    os.rename(file, root / "a" / "b" / "file")
    (root / "sparse").touch()
    os.truncate(root / "sparse", 1 << 20)
    (root / "link").symlink_to("a/b/file")
    (root / "gone").touch()
    os.unlink(root / "gone")


def look(root: Path) -> dict[str, object]:
    """All that is there, by relative path."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = None
    return found


def test_it_does_what_a_disk_does_and_the_record_has_it_all(fs: RecordedFS, tmp_path: Path) -> None:
    real, again = tmp_path / "real", tmp_path / "again"
    real.mkdir()
    work(real)
    work(fs.path)
    seen = look(fs.path)
    assert seen == look(real)
    assert (fs.path / "sparse").stat().st_blocks == 0
    assert (fs.path / "a/b/file").stat().st_mtime_ns == 1_234_567_890_123_456_789
    fs.unmount()
    records = fs.records()
    assert sum(isinstance(record, Sync) for record in records) == 1
    tree = disk_after(records, Cut(len(records), Keep.EVERYTHING, Keep.EVERYTHING, journal=True))
    lay_out(tree, again)
    assert look(again) == seen
    assert (again / "a/b/file").stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_locks_and_memory_maps_work(fs: RecordedFS) -> None:
    path = fs.path / "locked"
    path.write_bytes(bytes(mmap.PAGESIZE))
    with open(path, "r+b") as one, open(path, "r+b") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with mmap.mmap(one.fileno(), 0) as mapped, mmap.mmap(other.fileno(), 0) as same:
            mapped[5] = 7
            assert same[5] == 7


def test_sqlite_keeps_its_promise(fs: RecordedFS, tmp_path: Path) -> None:
    """With ``synchronous = FULL`` what was committed is there after any cut that comes later."""
    with closing(sqlite3.connect(fs.path / "db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE numbers (number)")
        for number in range(5):
            db.execute("INSERT INTO numbers VALUES (?)", (number,))
        fs.unmount()  # it is still open: nothing more is written
    records = fs.records()
    for seed in range(30):
        cut = Cut(len(records), Keep.SOME, Keep.SOME, True, seed)
        at = tmp_path / str(seed)
        lay_out(disk_after(records, cut), at)
        with closing(sqlite3.connect(at / "db")) as db:
            assert db.execute("SELECT count(*) FROM numbers").fetchone() == (5,), cut
