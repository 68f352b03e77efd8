"""The files of a copy that is not complete."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.partial import Partial, PartialHeader
from streamcache.cache.store import Store
from streamcache.errors import CacheError

NAME = f"{'ab' * 16}.{'cd' * 16}"
SIZE = 4 * BLOCK + 10
HEADER = PartialHeader("boot", "source", "a/b.mp4", "cd" * 16, SIZE, 5, 6, 7)


@pytest.fixture
def partial(store: Store) -> Iterator[Partial]:
    made, _ = store.partials.open(NAME, HEADER)
    yield made
    made.close()


def on_disk(store: Store, suffix: str) -> Path:
    return Path(store.root, "partial", NAME + suffix)


@given(
    path=st.text(max_size=300),
    source=st.text(max_size=50),
    numbers=st.lists(st.integers(-(1 << 63), 1 << 63), min_size=4, max_size=4),
)
def test_a_header_is_read_as_it_was_written(path: str, source: str, numbers: list[int]) -> None:
    header = PartialHeader("boot", source, path, "v", *numbers)
    raw = header.encode()
    assert len(raw) % 4096 == 0
    assert PartialHeader.decode(raw + b"\1\0\1") == (header, len(raw))


def test_a_path_of_odd_bytes_survives() -> None:
    header = PartialHeader("b", "s", os.fsdecode(b"\xff/\xfe.mp4"), "v", 1, 2, 3, 4)
    assert PartialHeader.decode(header.encode())[0] == header


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"something else",
        b"streamcache map\n",
        b"streamcache map\nzzzzzzzz{}",
        b"streamcache map\n00001000{}",
        (b"streamcache map\n00001000[]").ljust(4096, b"\0"),
        (b"streamcache map\n00001000{}").ljust(4096, b"\0"),
        (b'streamcache map\n00001000{"boot": 1').ljust(4096, b"\0"),
        HEADER.encode()[:-1],
        HEADER.encode().replace(b'"path"', b'"path2"'),
        b"\0" * 4096,
    ],
)
def test_what_is_no_header_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        PartialHeader.decode(raw)


@pytest.mark.parametrize("field", ["boot", "source", "path", "version", "size", "inode", "format"])
@pytest.mark.parametrize("value", [b"null", b"1.5", b"true", b"[]", b"{}", b"[" * 600 + b"]" * 600])
def test_a_header_with_a_field_of_another_type_is_refused(field: str, value: bytes) -> None:
    """A map is found on disk, where anybody may have written it; deep lists exhaust the stack."""
    texts = {"boot": '"', "source": '"', "path": '"', "version": '"'}
    fields = {name: getattr(HEADER, name) for name in HEADER.__slots__}
    pairs = []
    for name, mine in fields.items():
        quote = texts.get(name, "").encode()
        written = value if name == field else quote + str(mine).encode() + quote
        pairs.append(b'"%s": %s' % (name.encode(), written))
    raw = (b"streamcache map\n00001000{" + b", ".join(pairs) + b"}").ljust(4096, b"\0")
    with pytest.raises(ValueError):
        PartialHeader.decode(raw)


def test_a_header_of_another_format_is_another_header() -> None:
    raw = HEADER.encode().replace(b'"format": 1', b'"format": 2')
    assert PartialHeader.decode(raw)[0] != HEADER


def test_what_is_written_can_be_read_at_once(partial: Partial) -> None:
    """63c6357b #1244: unflushed writes were read by another descriptor."""
    partial.write(Extent(2, 4), memoryview(b"x" * 2 * BLOCK))
    assert os.pread(partial.read_fd, 2 * BLOCK, 2 * BLOCK) == b"x" * 2 * BLOCK
    assert os.fstat(partial.read_fd).st_size == SIZE


def test_the_map_speaks_of_data_that_is_there(
    partial: Partial, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: the data first."""
    order: list[int] = []
    pwrite = os.pwrite

    def note(fd: int, data: bytes, offset: int) -> int:
        order.append(fd)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", note)
    partial.write(Extent(4, 5), memoryview(b"y" * 10))
    assert order == [partial._write_fd, partial._map_fd]
    assert on_disk(store, ".map").read_bytes()[-5:] == b"\0\0\0\0\1"


def test_a_write_that_the_system_cuts_short_goes_on(
    partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1000], at))
    partial.write(Extent(0, 1), memoryview(b"z" * BLOCK))
    assert os.pread(partial.read_fd, BLOCK, 0) == b"z" * BLOCK


def test_data_that_cannot_be_written_is_not_promised(
    partial: Partial, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if fd == partial._write_fd and offset:
            raise OSError(errno.ENOSPC, "full")
        return pwrite(fd, data[:4096], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        partial.write(Extent(0, 1), memoryview(b"z" * BLOCK))
    assert not on_disk(store, ".map").read_bytes()[-5:].strip(b"\0")


@pytest.mark.parametrize(
    ("function", "sync"),
    [("fdatasync", Partial.sync), ("fsync", lambda partial: partial.seal(5))],
    ids=["on the way", "at the end"],
)
def test_a_sync_that_fails_spoils_the_map(
    partial: Partial,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    sync: Callable[[Partial], None],
) -> None:
    """The kernel tells of it once: who opens the file from now on would hear nothing."""

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    partial.write(Extent(0, 1), memoryview(bytes(BLOCK)))
    sync(partial)
    assert not partial.is_poisoned
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="no"):
        sync(partial)
    assert partial.is_poisoned


def test_a_file_that_somebody_has_cut_is_not_made_longer(partial: Partial) -> None:
    """It would have its size again, and zeros where blocks are said to be."""
    partial.write(Extent(0, 1), memoryview(b"z" * BLOCK))
    os.truncate(f"/proc/self/fd/{partial.read_fd}", 10)
    with pytest.raises(CacheError, match="was cut"):
        partial.write(Extent(2, 3), memoryview(b"z" * BLOCK))
    assert os.fstat(partial.read_fd).st_size == 10
    assert partial.present(0, 5) == b"\1\0\0\0\0"


def test_the_pinned_time_survives_the_close_of_the_writer(partial: Partial) -> None:
    """Closing a descriptor that wrote would change it: hence two opens."""
    partial.write(Extent(0, 1), memoryview(bytes(BLOCK)))
    partial.seal(1_234_567_890_123_456_789)
    fd = partial.give_away()
    partial.close()
    assert os.fstat(fd).st_mtime_ns == 1_234_567_890_123_456_789
    os.close(fd)


def test_closing_closes_all_but_what_was_given_away(partial: Partial) -> None:
    fds = partial.read_fd, partial._write_fd, partial._map_fd
    kept = partial.give_away()
    partial.close()
    partial.close()
    assert kept == fds[0]
    os.close(kept)
    for fd in fds:
        with pytest.raises(OSError):
            os.fstat(fd)


def test_the_descriptors_are_one_to_read_and_one_to_write(partial: Partial) -> None:
    with pytest.raises(OSError):
        os.write(partial.read_fd, b"x")
    with pytest.raises(OSError):
        os.read(partial._write_fd, 1)
