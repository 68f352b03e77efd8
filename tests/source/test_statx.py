"""What the kernel knows of an open file is what fstat says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from streamcache.source import statx
from streamcache.source.base import Fingerprint
from streamcache.source.statx import ask_server, cached_fingerprint


@pytest.mark.parametrize("size", [0, 1, (5 << 30) + 3])
@pytest.mark.parametrize("mtime_ns", [0, 1, 1_234_567_890_123_456_789, -1_000_000_001, 1 << 60])
def test_it_is_what_fstat_says(tmp_path: Path, size: int, mtime_ns: int) -> None:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, size)
    os.link(path, tmp_path / "second")
    os.utime(path, ns=(mtime_ns, mtime_ns))
    with open(path, "rb") as file:
        found = cached_fingerprint(file.fileno())
        assert found == Fingerprint.of(os.fstat(file.fileno()))
        assert found is not None
        assert (found.size, found.mtime_ns, found.links) == (size, mtime_ns, 2)


@pytest.mark.parametrize("path", ["/proc/self/stat", __file__])
def test_on_every_file_system(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        found, said = cached_fingerprint(fd), Fingerprint.of(os.fstat(fd))
        assert found is not None
        assert (found.inode, found.device) == (said.inode, said.device)
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/shm", "/"])
def test_what_is_no_regular_file_is_nothing(path: str) -> None:
    """It must not be read: a device may wait, or do something."""
    fd = os.open(path, os.O_RDONLY)
    try:
        assert cached_fingerprint(fd) is None
        ask_server(fd)
    finally:
        os.close(fd)


def test_a_bad_descriptor_is_nothing() -> None:
    assert cached_fingerprint(-1) is None
    with pytest.raises(OSError) as caught:
        ask_server(-1)
    assert caught.value.errno == errno.EBADF


def test_a_c_library_without_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statx, "_libc", object())
    assert cached_fingerprint(0) is None
    with open("/dev/null", "rb") as file:
        ask_server(file.fileno())
