"""A cache directory is ours alone, or it is not used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from streamcache.cache import ownership
from streamcache.cache.store import Store
from streamcache.errors import CacheError
from tests.requirements import missing

FOLDERS = ("", "objects", "partial", "trash")


def store_in(path: Path) -> Store:
    return Store(os.fspath(path))


def make(path: Path) -> None:
    """The directory of a server that has ended."""
    store = store_in(path)
    store.prepare()
    store.close()


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o770, 0o1777, 0o704])
def test_rights_of_others_are_taken_away(tmp_path: Path, mode: int, caplog) -> None:
    folder = tmp_path / "cache"
    make(folder)
    for name in FOLDERS:
        (folder / name).chmod(mode)
    again = store_in(folder)
    again.prepare()
    again.close()
    for name in FOLDERS:
        assert (folder / name).stat().st_mode & 0o777 == 0o700
        assert (
            caplog.text.count(f"they are taken away dir={str(folder / name)!r} old={mode:o}\n") <= 1
        )
    assert f" old={mode:o}\n" in caplog.text


def test_one_that_was_removed_and_made_by_somebody_else_is_not_taken_up_again(
    tmp_path: Path,
) -> None:
    if os.geteuid() != 0:
        missing("root, to give a directory away")
    folder = tmp_path / "cache"
    store = store_in(folder)
    store.prepare()
    try:
        shutil.rmtree(folder)
        folder.mkdir(0o777)
        os.chown(folder, 12345, -1)
        with pytest.raises(CacheError, match="belongs to another user"):
            store.probe()
        assert os.listdir(folder) == []
        os.chown(folder, 0, -1)
        folder.chmod(0o777)
        store.take_lock(store.probe().lock)
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        store.close()


@pytest.mark.parametrize("name", FOLDERS)
def test_what_belongs_to_somebody_else_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    make(folder)
    if os.geteuid() == 0:
        os.chown(folder / name, 12345, -1)
    else:  # as who is not root can give nothing away
        real = ownership.os.fstat
        where = (folder / name).stat().st_ino

        def of_somebody(fd: int) -> os.stat_result:
            found = real(fd)
            values = list(found)
            values[4] += found.st_ino == where
            return os.stat_result(values)

        monkeypatch.setattr(ownership.os, "fstat", of_somebody)
    again = store_in(folder)
    with pytest.raises(CacheError, match=r"belongs to another user \(uid \d+, and this is uid"):
        again.prepare()
    again.close()


def test_a_link_to_a_folder_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError):
        ownership.make_ours(os.fspath(tmp_path / "link"))
