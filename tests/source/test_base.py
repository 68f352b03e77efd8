"""What identifies a version, and what a change of attributes says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamcache.source.base import Change, Fingerprint, SourceFile, Version


def changed(before: Fingerprint, **fields: int) -> Fingerprint:
    values = {name: getattr(before, name) for name in Fingerprint.__dataclass_fields__}
    return Fingerprint(**{**values, **fields})


BEFORE = Fingerprint(size=100, mtime_ns=1, ctime_ns=1, inode=7, device=3, links=1)


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ({}, Change.NONE),
        ({"size": 101, "mtime_ns": 2, "ctime_ns": 2}, Change.APPENDED),
        ({"size": 99, "mtime_ns": 2, "ctime_ns": 2}, Change.REWRITTEN),
        ({"mtime_ns": 2, "ctime_ns": 2}, Change.REWRITTEN),
        ({"ctime_ns": 2}, Change.REWRITTEN),
        ({"ctime_ns": 2, "links": 2}, Change.NONE),
        ({"ctime_ns": 2, "links": 0}, Change.NONE),
        ({"ctime_ns": 2, "mtime_ns": 2, "links": 0}, Change.REWRITTEN),
        ({"inode": 8}, Change.REWRITTEN),
        ({"device": 4, "size": 200}, Change.REWRITTEN),
    ],
)
def test_what_happened_to_an_open_file(fields: dict[str, int], change: Change) -> None:
    assert BEFORE.compare(changed(BEFORE, **fields)) is change


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ({}, Change.NONE),
        ({"size": 101, "ctime_ns": 2}, Change.APPENDED),
        ({"size": 99, "ctime_ns": 2}, Change.REWRITTEN),  # cut off
        ({"size": 99, "ctime_ns": 0}, Change.APPENDED),  # not yet appended
        ({"size": 101, "ctime_ns": 0}, Change.REWRITTEN),  # not yet cut off
        ({"size": 99}, Change.APPENDED),  # within one tick
        ({"size": 101}, Change.APPENDED),
        ({"mtime_ns": 2, "ctime_ns": 2}, Change.REWRITTEN),
        ({"inode": 8, "ctime_ns": 0, "size": 99}, Change.REWRITTEN),
    ],
)
def test_of_two_looks_under_way_at_once_either_may_be_the_first(
    fields: dict[str, int], change: Change
) -> None:
    assert BEFORE.compare_any(changed(BEFORE, **fields)) is change


@pytest.mark.parametrize(
    ("fields", "is_newer"),
    [
        ({}, True),
        ({"ctime_ns": 2}, True),
        ({"ctime_ns": 2, "size": 99}, True),
        ({"ctime_ns": 0, "size": 101}, False),
        ({"size": 101}, True),  # within one tick
        ({"size": 99}, False),
        ({"mtime_ns": 9}, True),  # nobody can tell: the one that is here later
    ],
)
def test_the_ctime_tells_which_of_two_looks_was_the_later(
    fields: dict[str, int], is_newer: bool
) -> None:
    other = changed(BEFORE, **fields)
    assert BEFORE.newer(other) is (other if is_newer else BEFORE)


def test_a_version_is_size_and_time_to_the_nanosecond(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    os.utime(path, ns=(5, 1_000_000_000_000_000_001))
    version = Version.of(os.stat(path))
    assert (version.size, version.mtime_ns) == (5, 1_000_000_000_000_000_001)
    assert len(version.id) == 32
    assert Version.of(os.stat(path)) == version
    os.utime(path, ns=(5, 1_000_000_000_000_000_002))
    later = Version.of(os.stat(path))
    os.utime(path, ns=(5, 1_000_000_000_000_000_001))
    path_of_same_time = tmp_path / "other"
    path_of_same_time.write_bytes(b"123456")
    os.utime(path_of_same_time, ns=(5, 1_000_000_000_000_000_001))
    longer = Version.of(os.stat(path_of_same_time))
    assert len({version.id, later.id, longer.id}) == 3


def test_identity_may_take_in_ctime_or_inode(tmp_path: Path) -> None:
    ids = []
    for name in ("a", "b"):
        path = tmp_path / name
        path.write_bytes(b"same")
        os.utime(path, ns=(1, 1))
        ids.append(
            [Version.of(os.stat(path), "mtime").id, Version.of(os.stat(path), "mtime+inode").id]
        )
    assert ids[0][0] == ids[1][0]
    assert ids[0][1] != ids[1][1]
    before = Version.of(os.stat(path), "mtime+ctime")
    path.chmod(0o600)
    path.chmod(0o644)
    stat = os.stat(path)
    assert Version.of(stat, "mtime").id == ids[1][0]
    assert (Version.of(stat, "mtime+ctime") == before) == (stat.st_ctime_ns == before)


def test_a_source_file_closes_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    stat = os.fstat(fd)
    file = SourceFile(fd, Version.of(stat), Fingerprint.of(stat))
    file.close()
    reused = os.open(path, os.O_RDONLY)
    assert reused == fd
    file.close()
    os.close(reused)
