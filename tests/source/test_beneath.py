"""Both ways to open beneath a directory: by openat2, and by components where there is none."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamcache.source import beneath
from streamcache.source.beneath import open_beneath, open_by_components

Opener = Callable[[int, str, int], int]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    (tmp_path / "root" / "a" / "b" / "file").write_bytes(b"inside")
    (tmp_path / "root" / "top").write_bytes(b"top")
    (tmp_path / "outside").write_bytes(b"outside")
    (tmp_path / "root" / "out").symlink_to("../outside")
    (tmp_path / "root" / "a" / "up").symlink_to("../..")
    (tmp_path / "root" / "absolute").symlink_to("/etc/passwd")
    (tmp_path / "root" / "loop").symlink_to("loop")
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture(params=[open_beneath, open_by_components])
def opener(request: pytest.FixtureRequest) -> Opener:
    return request.param


def read(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


@pytest.mark.parametrize(("path", "data"), [("top", b"top"), ("a/b/file", b"inside")])
def test_a_path_is_opened(opener: Opener, root: int, path: str, data: bytes) -> None:
    assert read(opener(root, path, os.O_RDONLY)) == data


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../outside",
        "a/../../outside",
        "out",
        "a/up/outside",
        "absolute",
        "/etc/passwd",
        "loop",
    ],
)
def test_no_path_leads_out(opener: Opener, root: int, path: str) -> None:
    with pytest.raises(OSError) as caught:
        os.close(opener(root, path, os.O_RDONLY))
    assert caught.value.errno in (errno.EXDEV, errno.ELOOP, errno.ENOTDIR, errno.ENOENT)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("none", errno.ENOENT),
        ("a/none/file", errno.ENOENT),
        ("top/file", errno.ENOTDIR),
        ("x" * 300, errno.ENAMETOOLONG),
        ("", errno.ENOENT),
    ],
)
def test_the_systems_error_is_kept(opener: Opener, root: int, path: str, code: int) -> None:
    with pytest.raises(OSError) as caught:
        opener(root, path, os.O_RDONLY)
    assert caught.value.errno == code


def test_the_new_descriptor_is_not_inherited(opener: Opener, root: int) -> None:
    fd = opener(root, "top", os.O_RDONLY)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_magic_link_is_not_followed(root: int, tmp_path: Path) -> None:
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError):
            os.close(open_beneath(proc, "self/root/etc/passwd", os.O_RDONLY))
    finally:
        os.close(proc)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_without_openat2_components_are_walked(
    root: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class Old:
        def syscall(self, *_: object) -> int:
            beneath.ctypes.set_errno(code)
            return -1

    monkeypatch.setattr(beneath, "_libc", Old())
    assert read(open_beneath(root, "a/b/file", os.O_RDONLY)) == b"inside"
    with pytest.raises(OSError):
        open_beneath(root, "out", os.O_RDONLY)


def test_a_rename_under_way_is_tried_again_but_not_for_ever(
    root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = beneath._libc, []

    class Busy:
        def syscall(self, *args: object) -> int:
            calls.append(args)
            if len(calls) < answers:
                beneath.ctypes.set_errno(errno.EAGAIN)
                return -1
            return int(real.syscall(*args))

    monkeypatch.setattr(beneath, "_libc", Busy())
    answers = 3
    assert read(open_beneath(root, "top", os.O_RDONLY)) == b"top"
    calls.clear()
    answers = 1000
    with pytest.raises(OSError) as caught:
        open_beneath(root, "top", os.O_RDONLY)
    assert caught.value.errno == errno.EAGAIN
    assert len(calls) < 100


def test_no_race_leads_out(opener: Opener, root: int, tmp_path: Path) -> None:
    """A directory that becomes a link between two steps."""
    real, link = tmp_path / "root" / "c", tmp_path / "root" / "c.link"
    (tmp_path / "root" / "c").mkdir()
    (real / "outside").write_bytes(b"inside")
    link.symlink_to(tmp_path)
    spare, stop = tmp_path / "root" / "c.spare", threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(real, spare)
            os.rename(link, real)
            os.rename(real, link)
            os.rename(spare, real)

    swapper = threading.Thread(target=swap)
    swapper.start()
    opened = refused = 0
    try:
        while opened + refused < 2000 or not (opened and refused):
            try:
                fd = opener(root, "c/outside", os.O_RDONLY)
            except OSError:
                refused += 1
            else:
                opened += 1
                assert read(fd) == b"inside"
    finally:
        stop.set()
        swapper.join()
