"""What files a source has: each once, in bounded pieces, and none that leads out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamcache.errors import NotFound, SourceUnavailable
from streamcache.source.filesystem import FileSystemSource
from streamcache.source.walk import Walked


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    for name in ("a/1", "a/b/2", "a/b/c/3", "d/4", ".hidden/5", "a/.6", "a/\udcff"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x" * len(name.encode("utf-8", "surrogateescape")))
    return path


def found(root: Path, folder: str = "", **rules: object) -> list[str]:
    options = {"is_meant": lambda path: True, "may_hold": lambda folder: True, **rules}
    walk = FileSystemSource(str(root)).walk(folder, **options)
    files = [one for piece in walk for one in piece]
    assert len({one.path for one in files}) == len(files)
    for one in files:
        if not one.error:
            assert one.size == os.stat(root / one.path).st_size
    return sorted(one.path for one in files)


def test_all_files_are_found_but_those_with_a_dot(root: Path) -> None:
    assert found(root) == ["a/1", "a/b/2", "a/b/c/3", "a/\udcff", "d/4"]
    assert found(root, "a/b") == ["a/b/2", "a/b/c/3"]
    assert found(root, ".hidden") == [".hidden/5"]


def test_only_what_is_meant_and_only_where_it_may_be(root: Path) -> None:
    entered = []

    def may_hold(folder: str) -> bool:
        entered.append(folder)
        return folder != "a/b/"

    assert found(root, is_meant=lambda path: path < "a/b/d", may_hold=may_hold) == ["a/1"]
    assert sorted(entered) == ["a/", "a/b/", "d/"]


def test_links_to_files_count_and_lead_nowhere_else(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    (root / "d/inside").symlink_to("../a/1")
    (root / "d/out").symlink_to("../../outside")
    (root / "d/loop").symlink_to("loop")
    (root / "d/folder").symlink_to("../a")
    os.mkfifo(root / "d/fifo")
    assert found(root, "d") == ["d/4", "d/inside"]


def test_a_piece_has_a_bounded_number_of_names(root: Path) -> None:
    (root / "many").mkdir()
    for number in range(450):
        (root / f"many/{number:03}.{'mp4' if number % 100 == 0 else 'txt'}").touch()
    source = FileSystemSource(str(root))
    walk = source.walk("many", is_meant=lambda path: path.endswith("4"), may_hold=lambda _: True)
    pieces = list(walk)
    assert len(pieces) == 3  # 200 names each, and the rest
    assert sum(map(len, pieces)) == 5
    assert len(list(source.walk("", is_meant=lambda _: True, may_hold=lambda _: True))) == 3


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_walked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FileSystemSource(str(root))
    real = source._descriptor

    def fail(path: str, flags: int) -> int:
        if path == "a/b":
            raise SourceUnavailable(5, "Input/output error", path)
        return real(path, flags)

    monkeypatch.setattr(source, "_descriptor", fail)
    walk = source.walk("", is_meant=lambda _: True, may_hold=lambda _: True)
    files = [one for piece in walk for one in piece]
    assert Walked("a/b", 0, "Input/output error") in files
    assert {"a/1", "d/4"} <= {one.path for one in files}


def test_a_folder_that_is_not_there_is_an_error(root: Path) -> None:
    for folder in ("none", "a/1", "../x"):
        with pytest.raises(NotFound):
            found(root, folder)


def test_a_walk_that_is_given_up_has_nothing_open(root: Path) -> None:
    walk = FileSystemSource(str(root)).walk("", is_meant=lambda _: True, may_hold=lambda _: True)
    for number in range(250):
        (root / f"a/{number}").touch()
    next(walk)
    before = len(os.listdir("/proc/self/fd"))
    walk.close()
    assert len(os.listdir("/proc/self/fd")) < before
