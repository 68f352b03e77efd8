"""The cache directory, and who uses it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamcache.cache import store as store_module
from streamcache.cache.store import Store
from streamcache.errors import CacheBusy, CacheError


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Each one is the next process over the same directory."""
    made: list[Store] = []

    def make() -> Store:
        for store in made:
            store.close()
        store = Store(str(tmp_path / "cache"))
        store.prepare()
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    return make_store()


def test_it_is_made_private(store: Store) -> None:
    for name in ("", "objects", "partial", "trash"):
        assert Path(store.root, name).stat().st_mode & 0o777 == 0o700


def test_a_second_process_comes_in_when_the_first_has_opened_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is alone until it lets others in; who comes later is not alone."""
    monkeypatch.setattr(store_module, "_OPEN_WAIT", 0.05)
    second, third = Store(store.root), Store(store.root)
    with pytest.raises(CacheBusy, match="being opened"):
        second.prepare()
    second.close()
    store.share()
    assert second.prepare() is False
    second.share()
    store.close()
    assert third.prepare() is False, "the second one is there"
    third.close()
    second.close()
    assert third.prepare() is True
    third.close()


def test_a_process_that_fails_to_open_it_leaves_it_to_the_next(
    store: Store, tmp_path: Path
) -> None:
    store.close()
    store.prepare()  # exclusively, and then it ends
    store.close()
    assert store.prepare() is True
    second = Store(store.root)
    store.share()
    assert second.prepare() is False
    second.close()


def test_a_lock_that_is_given_up_is_given_up_once(store: Store) -> None:
    store.close()
    store.close()


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    with pytest.raises(CacheError, match="did not make"):
        Store(str(tmp_path)).prepare()
    assert os.listdir(tmp_path) == ["objects"]


@pytest.mark.parametrize("text", ["streamcache 2\n", "\xff\xfe"])
def test_a_directory_of_another_format_is_refused(store: Store, text: str) -> None:
    store.close()
    Path(store.root, "format").write_text(text, encoding="latin-1")
    second = Store(store.root)
    with pytest.raises(CacheError, match="another format"):
        second.prepare()
    second.close()


def test_a_format_that_a_crash_left_empty_is_written_again(store: Store) -> None:
    store.close()
    marker = Path(store.root, "format")
    text = marker.read_text()
    marker.write_text("")
    second = Store(store.root)
    second.prepare()
    assert marker.read_text() == text
    second.close()


@pytest.mark.parametrize("name", ["objects", "partial", "trash"])
def test_a_directory_that_is_a_link_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    store.close()
    Path(store.root, name).rmdir()
    (tmp_path / "elsewhere").mkdir()
    Path(store.root, name).symlink_to(tmp_path / "elsewhere")
    second = Store(store.root)
    with pytest.raises(CacheError, match="symbolic link"):
        second.prepare()
    second.close()


def test_the_lock_is_not_inherited(store: Store) -> None:
    assert fcntl.fcntl(store.lock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_free_bytes_are_those_of_the_file_system(store: Store) -> None:
    assert 0 < store.free_bytes() <= os.statvfs(store.root).f_blocks * 4096 * 1024
