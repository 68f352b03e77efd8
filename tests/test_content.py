"""The made-up content is the same however it is cut, and every wrong byte is found."""

from __future__ import annotations

import os
import time

import pytest

from tests.content import BLOCK, Verifier, content, verify, write


@pytest.mark.parametrize("start", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 17])
@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_any_cut_is_the_same_content(start: int, length: int) -> None:
    whole = content("a.mp4", 0, 9 * BLOCK)
    assert content("a.mp4", start, start + length) == whole[start : start + length]
    assert verify("a.mp4", start, whole[start : start + length]) is None


def test_names_and_blocks_differ() -> None:
    blocks = {content(name, n * BLOCK, (n + 1) * BLOCK) for name in "abc" for n in range(8)}
    assert len(blocks) == 24


@pytest.mark.parametrize("wrong", [0, 1, BLOCK - 101, BLOCK - 100, BLOCK, 2 * BLOCK + 55])
def test_the_first_wrong_byte_is_named(wrong: int) -> None:
    data = bytearray(content("b", 100, 100 + 3 * BLOCK))
    data[wrong] ^= 1
    data[-1] ^= 1
    assert verify("b", 100, data) == 100 + wrong


def test_the_content_never_changes() -> None:
    # The load generator and the maker of its files may run on different machines.
    assert content("film.mp4", BLOCK - 4, BLOCK + 4).hex() == "0e86dee041bc59c1"


def test_a_stream_is_checked_as_it_comes() -> None:
    stream = Verifier("c", 10, 30)
    assert stream.feed(content("c", 10, 25)) is None
    assert stream.missing() == "c: bytes missing from 25 to 30"
    assert stream.feed(b"\0\0\0\0\0\0") == "c: bytes after the end at 30"
    assert stream.feed(content("c", 25, 30)) is None
    assert stream.missing() is None


def test_written_files_are_old_and_replaced_by_rename(tmp_path) -> None:
    path = write(tmp_path, "d/e.mp4", BLOCK + 1)
    assert path.read_bytes() == content("d/e.mp4", 0, BLOCK + 1)
    assert path.stat().st_mtime < time.time() - 1000
    with open(path, "rb") as old:
        write(tmp_path, "d/e.mp4", BLOCK, content_name="other")
        assert verify("d/e.mp4", 0, old.read()) is None
    assert verify("other", 0, path.read_bytes()) is None
    assert os.listdir(path.parent) == ["e.mp4"]
