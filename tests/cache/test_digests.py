"""Digests of blocks: what is recorded is found again, and what is not ours is not believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamcache.cache.blockmap import BLOCK
from streamcache.cache.digests import Digests, digest, digests_of, open_for, place
from tests.content import content

SIZE = 3 * BLOCK + 5


def record(path: Path, start: int, data: bytes) -> None:
    fd = open_for(str(path), SIZE)
    os.pwrite(fd, digests_of(memoryview(data), digest()), place(start))
    os.close(fd)


def wrong(sums: Path, file: Path, start: int = 0, stop: int = 4) -> list[int]:
    found = Digests.read(str(sums), SIZE)
    assert found is not None
    fd = os.open(file, os.O_RDONLY)
    try:
        return found.wrong(fd, start, stop, SIZE, digest())
    finally:
        os.close(fd)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "film"
    path.write_bytes(content("film", 0, SIZE))
    return path


def test_a_block_that_is_not_what_was_written_is_found(tmp_path: Path, file: Path) -> None:
    sums = tmp_path / "sums"
    record(sums, 0, content("film", 0, SIZE))
    assert wrong(sums, file) == []
    for offset in (0, 2 * BLOCK - 1, SIZE - 1):
        with open(file, "r+b") as changed:
            before = os.pread(changed.fileno(), 1, offset)
            os.pwrite(changed.fileno(), bytes([before[0] ^ 1]), offset)
            assert wrong(sums, file) == [offset // BLOCK]
            os.pwrite(changed.fileno(), before, offset)
    os.truncate(file, SIZE - 1)
    assert wrong(sums, file) == [3]


def test_a_part_of_them_can_be_read(tmp_path: Path, file: Path) -> None:
    sums = tmp_path / "sums"
    record(sums, 0, file.read_bytes())
    size = file.stat().st_size
    whole = Digests.read(str(sums), size)
    assert whole is not None
    for start, stop in ((0, 1), (1, 3), (3, 4), (0, 4)):
        part = Digests.read(str(sums), size, start, stop)
        assert part is not None and part.recorded == whole.recorded[start:stop]
        with open(file, "r+b") as data:
            assert part.wrong(data.fileno(), start, stop, size, digest()) == []
            there = os.pread(data.fileno(), 1, (stop - 1) * BLOCK)
            os.pwrite(data.fileno(), bytes([there[0] ^ 1]), (stop - 1) * BLOCK)
            assert part.wrong(data.fileno(), start, stop, size, digest()) == [stop - 1]
            os.pwrite(data.fileno(), there, (stop - 1) * BLOCK)


def test_what_was_not_recorded_is_not_wrong(tmp_path: Path, file: Path) -> None:
    sums = tmp_path / "sums"
    record(sums, 1, content("another", 0, BLOCK))
    assert wrong(sums, file) == [1]
    record(sums, 3, content("film", 3 * BLOCK, SIZE))
    assert wrong(sums, file) == [1]
    assert wrong(sums, file, 2, 4) == []


@pytest.mark.parametrize("there", ["another size", "garbage", "a link", "a fifo"])
def test_what_is_not_ours_is_replaced_and_not_read(tmp_path: Path, there: str) -> None:
    sums = tmp_path / "sums"
    if there == "another size":
        os.close(open_for(str(sums), SIZE + BLOCK))
    elif there == "garbage":
        sums.write_bytes(os.urandom(place(4)))
    elif there == "a link":
        sums.symlink_to("/etc/passwd")
    else:
        os.mkfifo(sums)
    assert Digests.read(str(sums), SIZE) is None
    os.close(open_for(str(sums), SIZE))
    assert sums.is_file() and not sums.is_symlink()
    assert Digests.read(str(sums), SIZE) == Digests((0, 0, 0, 0))


def test_there_may_be_none(tmp_path: Path) -> None:
    assert Digests.read(str(tmp_path / "none"), SIZE) is None
