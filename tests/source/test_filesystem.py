"""A mounted tree: what is opened, what is "gone", and what says nothing about a file (I15)."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcache.errors import (
    AccessDenied,
    NotFound,
    SourceChanged,
    SourceError,
    SourceUnavailable,
)
from streamcache.source import filesystem
from streamcache.source.base import AHEAD_BYTES, Change, Fingerprint, SourceFile
from streamcache.source.filesystem import FileSystemSource
from streamcache.source.mounts import Mount
from tests import content
from tests.mounts import local

NAME = "films/a.mp4"
SIZE = 3 * AHEAD_BYTES + 100


@pytest.fixture
def root(tmp_path: Path) -> Path:
    content.write(tmp_path / "source", NAME, SIZE)
    return tmp_path / "source"


@pytest.fixture
def source(root: Path) -> FileSystemSource:
    return FileSystemSource(str(root))


@pytest.fixture
def file(source: FileSystemSource) -> Iterator[SourceFile]:
    found = source.open(NAME)
    yield found
    found.close()


def read(source: FileSystemSource, file: SourceFile, offset: int, length: int) -> bytes:
    buffer = memoryview(bytearray(length))
    return bytes(buffer[: source.read_into(file, buffer, offset)])


class System:
    """``os`` for the module under test, with some functions that do what the test says."""

    def __init__(self, **functions: object) -> None:
        vars(self).update(functions)

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    """This function of ``os`` fails, as it does when the mount is ill."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(filesystem, "os", System(**{name: fail}))


def test_an_open_file_knows_what_it_is(source: FileSystemSource, root: Path) -> None:
    file = source.open(NAME)
    stat = os.stat(root / NAME)
    assert (file.version.size, file.version.mtime_ns) == (SIZE, stat.st_mtime_ns)
    assert file.fingerprint == Fingerprint.of(stat) == source.stat(NAME)
    assert source.fingerprint(file) == file.fingerprint
    assert file.ahead is None
    file.close()


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 10), (5, AHEAD_BYTES), (SIZE - 1, 1), (0, SIZE), (SIZE - 10, 100), (SIZE, 10)],
)
def test_a_read_fills_the_buffer_or_ends_with_the_file(
    source: FileSystemSource, file: SourceFile, offset: int, length: int
) -> None:
    assert read(source, file, offset, length) == content.content(
        NAME, offset, min(SIZE, offset + length)
    )


def test_a_short_answer_of_the_system_is_not_the_end(
    source: FileSystemSource, file: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 5: a short read was taken for the end of the file."""

    def little(fd: int, buffers: list[memoryview], offset: int) -> int:
        return os.preadv(fd, [buffers[0][:1000]], offset)

    monkeypatch.setattr(filesystem, "os", System(preadv=little))
    assert read(source, file, 0, SIZE) == content.content(NAME, 0, SIZE)


# -- read ahead, together with the open


@pytest.mark.parametrize(
    ("size", "ahead", "length"),
    [
        (SIZE, 0, AHEAD_BYTES),
        (SIZE, AHEAD_BYTES, AHEAD_BYTES),
        (SIZE, 3 * AHEAD_BYTES, 100),
        (AHEAD_BYTES, 0, AHEAD_BYTES),
        (1, 0, 1),
    ],
)
def test_the_first_bytes_can_come_with_the_open(
    source: FileSystemSource, root: Path, size: int, ahead: int, length: int
) -> None:
    content.write(root, NAME, size)
    file = source.open(NAME, ahead)
    assert file.ahead is not None
    assert file.ahead.offset == ahead
    assert bytes(file.ahead.data) == content.content(NAME, ahead, ahead + length)
    file.close()


@pytest.mark.parametrize(("size", "ahead"), [(0, 0), (10, AHEAD_BYTES), (SIZE, 1 << 40)])
def test_beyond_the_end_nothing_comes_with_the_open(
    source: FileSystemSource, root: Path, size: int, ahead: int
) -> None:
    content.write(root, NAME, size)
    file = source.open(NAME, ahead)
    assert file.ahead is None
    file.close()


def test_bytes_of_a_file_that_changes_while_it_is_opened_do_not_come_with_the_open(
    source: FileSystemSource, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_and_read(fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        os.utime(root / NAME)
        return data

    monkeypatch.setattr(filesystem, "os", System(pread=change_and_read))
    file = source.open(NAME, 0)
    assert file.ahead is None
    file.close()


def test_what_cannot_be_read_with_the_open_is_left_to_a_proper_read(
    source: FileSystemSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "pread", errno.EIO)
    file = source.open(NAME, 0)
    assert file.ahead is None
    assert read(source, file, 0, 10) == content.content(NAME, 0, 10)
    file.close()


# -- what is not there


@pytest.mark.parametrize(
    "path",
    [
        "none.mp4",
        "films/none.mp4",
        "none/a.mp4",
        "films",
        "films/a.mp4/child",
        "films/a.mp4/.",
        "x" * 300,
        "/".join(["y" * 200] * 30),
    ],
)
def test_what_is_no_regular_file_is_not_found(source: FileSystemSource, path: str) -> None:
    """Defect 2: ENOTDIR was a 500; also H12, H13."""
    with pytest.raises(NotFound):
        source.open(path)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_a_special_file_is_not_found_and_does_not_hang(
    source: FileSystemSource, root: Path, kind: str
) -> None:
    special = root / "special"
    if kind == "fifo":
        os.mkfifo(special)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(special))
    else:
        special.symlink_to("/dev/zero")
    with pytest.raises(NotFound):
        source.open("special", 0)


@pytest.mark.parametrize("path", ["a\0b", "films/a.mp4\0", "films/a.mp4\0.jpg"])
def test_a_name_is_not_cut_at_a_nul(source: FileSystemSource, path: str) -> None:
    with pytest.raises((NotFound, ValueError)):
        source.open(path)


def test_no_link_leads_out_of_the_root(source: FileSystemSource, root: Path) -> None:
    """Defect 21: symlinks could leave the root."""
    (root.parent / "secret").write_text("secret")
    (root / "films" / "out").symlink_to("../../secret")
    (root / "absolute").symlink_to(root.parent / "secret")
    (root / "up").symlink_to("..")
    (root / "circle").symlink_to("circle")
    for path in ("films/out", "absolute", "up/secret", "../secret", "films/../../secret", "circle"):
        with pytest.raises(NotFound):
            source.open(path)
        with pytest.raises(NotFound):
            source.stat(path)


def test_a_link_within_the_root_is_followed(source: FileSystemSource, root: Path) -> None:
    (root / "link").symlink_to(NAME)
    file = source.open("link")
    assert read(source, file, 0, 10) == content.content(NAME, 0, 10)
    file.close()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_what_is_forbidden_is_denied(
    source: FileSystemSource, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Defect 1: EACCES became a 500."""

    def refuse(*_: object) -> int:
        raise OSError(code, "no")

    monkeypatch.setattr(filesystem, "open_beneath", refuse)
    with pytest.raises(AccessDenied):
        source.open(NAME)
    with pytest.raises(AccessDenied):
        source.stat(NAME)


# -- what says nothing about the file


@pytest.mark.parametrize(
    "code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENOMEM, errno.EMFILE]
)
@pytest.mark.parametrize("call", ["open", "read", "fstat", "stat"])
def test_a_fault_of_the_source_is_never_gone(
    source: FileSystemSource,
    file: SourceFile,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    call: str,
) -> None:
    """Defect 2: ESTALE, EIO and ETIMEDOUT were not mapped."""
    failing(monkeypatch, {"open": "open", "read": "preadv"}.get(call, "fstat"), code)
    with pytest.raises(SourceUnavailable) as caught:
        match call:
            case "open":
                source.open(NAME)
            case "read":
                read(source, file, 0, 10)
            case "fstat":
                source.fingerprint(file)
            case "stat":
                source.stat(NAME)
    assert caught.value.errno == code
    assert caught.value.filename == (source.root if call == "open" else f"/{NAME}")
    assert not isinstance(caught.value, NotFound)


def test_without_descriptors_left_a_file_is_not_gone(source: FileSystemSource) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(SourceUnavailable):
            source.open(NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_root_that_is_gone_is_a_fault(source: FileSystemSource, root: Path) -> None:
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(SourceUnavailable):
        source.open(NAME)
    with pytest.raises(SourceUnavailable):
        source.stat(NAME)


def test_a_missing_file_is_not_believed_when_the_mount_is_another(
    source: FileSystemSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unmounted: an empty directory is there, and everything in it is missing."""
    monkeypatch.setattr(filesystem, "mounts", lambda: [Mount("/", "ext4", "/dev/other", "/")])
    with pytest.raises(SourceUnavailable):
        source.open("none.mp4")
    source.open(NAME).close()


def test_a_file_that_is_missing_for_a_moment_is_found(
    source: FileSystemSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced by a rename over NFS, a name may be missing for the blink of an eye."""
    real, calls = filesystem.open_beneath, []

    def missing_once(root: int, path: str, flags: int) -> int:
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError(errno.ENOENT, "no")
        return real(root, path, flags)

    monkeypatch.setattr(filesystem, "open_beneath", missing_once)
    source.open(NAME).close()
    assert len(calls) == 2


def test_nothing_is_left_open_when_an_open_fails(
    source: FileSystemSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "fstat", errno.EIO)
    for _ in range(3):
        with pytest.raises(SourceUnavailable):
            source.open(NAME, 0)
    # The leak check around each test counts descriptors.


# -- changes, seen through the real file system


def test_what_is_done_to_an_open_file_is_seen(source: FileSystemSource, root: Path) -> None:
    path = root / NAME
    seen = []
    for change in (
        lambda: None,
        lambda: os.truncate(path, SIZE - 1),
        lambda: path.write_bytes(b"x" * SIZE),
        lambda: path.open("ab").close(),
        lambda: os.truncate(path, SIZE + 1),
        lambda: os.utime(path),
        lambda: os.link(path, root / "other"),
        lambda: content.write(root, NAME, 10),
        lambda: (root / NAME).unlink(),
    ):
        content.write(root, NAME, SIZE)
        (root / "other").unlink(missing_ok=True)
        file = source.open(NAME)
        change()
        seen.append(file.fingerprint.compare(source.fingerprint(file)))
        file.close()
    none, appended, rewritten = Change.NONE, Change.APPENDED, Change.REWRITTEN
    assert seen == [none, rewritten, rewritten, none, appended, rewritten, none, none, none]


def test_a_file_replaced_by_rename_reads_on_as_it_was(
    source: FileSystemSource, root: Path, file: SourceFile
) -> None:
    content.write(root, NAME, SIZE, content_name="other")
    assert read(source, file, 0, SIZE) == content.content(NAME, 0, SIZE)
    assert source.stat(NAME) != file.fingerprint


def test_the_source_is_named_by_its_real_path_or_as_it_was_told(root: Path) -> None:
    link = root.with_name("link")
    link.symlink_to(root)
    assert FileSystemSource(str(link)).id == str(root)
    assert FileSystemSource(str(link), id="films").id == "films"


def test_names_that_are_no_text_can_be_opened(source: FileSystemSource, root: Path) -> None:
    name = os.fsdecode(b"films/\xff\xfe.mp4")
    content.write(root, name.encode("utf-8", "surrogateescape").decode("latin-1"), 1)
    with open(os.path.join(os.fsencode(root), os.fsencode(name)), "wb") as new:
        new.write(b"hello")
    file = source.open(name)
    assert file.version.size == 5
    file.close()


# -- stale handles


def test_a_stale_file_is_replaced_under_its_descriptor(
    source: FileSystemSource, file: SourceFile
) -> None:
    fd, before = file.fd, os.readlink(f"/proc/self/fd/{file.fd}")
    assert source.reopen(file, file.fingerprint) == file.fingerprint
    assert file.fd == fd
    assert os.readlink(f"/proc/self/fd/{fd}") == before
    assert not os.get_inheritable(fd)
    assert read(source, file, 0, 10) == content.content(NAME, 0, 10)


@pytest.mark.parametrize("what", ["replaced", "gone", "rewritten"])
def test_another_file_does_not_take_its_place(
    source: FileSystemSource, root: Path, file: SourceFile, what: str
) -> None:
    if what == "replaced":
        content.write(root, NAME, SIZE, content_name="other")
    elif what == "gone":
        (root / NAME).unlink()
    else:
        os.utime(root / NAME)
    with pytest.raises(SourceChanged):
        source.reopen(file, file.fingerprint)
    if what != "rewritten":
        assert read(source, file, 0, 10) == content.content(NAME, 0, 10)


def test_one_that_was_appended_to_is_the_same(
    source: FileSystemSource, root: Path, file: SourceFile
) -> None:
    with open(root / NAME, "ab") as more:
        more.write(b"more")
    now = source.reopen(file, file.fingerprint)
    assert file.fingerprint.compare(now) is Change.APPENDED


# -- probes, and other file systems over the root


def is_missing(source: FileSystemSource, path: str) -> bool:
    """Proven; False: it is a fault."""
    try:
        source.open(path).close()
    except NotFound:
        return True
    except SourceUnavailable:
        return False
    raise AssertionError(f"{path} is there")


def test_a_probe_asks_for_the_root(source: FileSystemSource, root: Path) -> None:
    source.probe(None)
    source.probe(NAME)
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(SourceUnavailable):
        source.probe(NAME)


def test_an_empty_mount_point_does_not_answer_a_probe(source: FileSystemSource, root: Path) -> None:
    with local.tmpfs(root, "size=1m"):
        for known in (None, NAME):
            with pytest.raises(SourceError):
                source.probe(known)
        content.write(root, NAME, 10)
        source.probe(NAME)  # somebody mounted another server's copy of it
        with pytest.raises(SourceUnavailable):
            source.probe(None)
    source.probe(None)


@pytest.mark.parametrize("first", ["missing", "present"])
def test_what_is_mounted_over_an_empty_root_is_the_source(tmp_path: Path, first: str) -> None:
    """The daemon was started before the file system was mounted."""
    source = FileSystemSource(str(tmp_path))
    with local.tmpfs(tmp_path, "size=1m"):
        content.write(tmp_path, NAME, 10)
        if first == "present":
            source.open(NAME).close()
        assert is_missing(source, "none.mp4")
        source.open(NAME).close()
        source.probe(None)
    assert not is_missing(source, NAME), "it was unmounted: that is no 404"
    with local.tmpfs(tmp_path, "size=1m"):
        assert is_missing(source, NAME)


def test_a_root_that_was_not_empty_is_not_given_up(source: FileSystemSource, root: Path) -> None:
    with local.tmpfs(root, "size=1m"):
        assert not is_missing(source, NAME)
        assert not is_missing(source, "none.mp4")
    assert is_missing(source, "none.mp4")


def test_a_root_that_was_empty_once_is_not_given_up(tmp_path: Path) -> None:
    source = FileSystemSource(str(tmp_path))
    content.write(tmp_path, NAME, 10)
    source.open(NAME).close()
    with local.tmpfs(tmp_path, "size=1m"):
        assert not is_missing(source, NAME)


def test_the_same_directory_mounted_over_itself_is_the_source(
    source: FileSystemSource, root: Path
) -> None:
    with local.bound(root, root):
        assert is_missing(source, "none.mp4")
        source.open(NAME).close()


def test_an_empty_root_that_was_a_mount_in_an_earlier_life_waits_for_that(tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    (point / "films").mkdir(parents=True)
    source = FileSystemSource(str(point / "films"))
    source.expect_mount(str(point))
    with local.tmpfs(point / "films", "size=1m"):
        assert not is_missing(source, "none.mp4")
