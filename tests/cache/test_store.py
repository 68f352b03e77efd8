"""The cache directory, and who uses it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamcache.cache import store as store_module
from streamcache.cache.marker import MARK
from streamcache.cache.store import Store
from streamcache.errors import CacheBusy, CacheError, CacheForeign


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


def put(folder: Path, names: str) -> None:
    """Make files; those that end with a slash are folders, "a=b" has the text "b", or the mark."""
    folder.mkdir()
    for name in names.split():
        if name.endswith("/"):
            (folder / name).mkdir(parents=True)
        else:
            name, _, text = name.partition("=")
            (folder / name).write_text(MARK if text == "MARK" else text)


def state(folder: Path) -> list[tuple[str, int, int, int]]:
    """Everything in it, with the rights, sizes and times."""
    paths = [folder, *sorted(folder.rglob("*"))]
    looks = [(path, path.lstat()) for path in paths]
    return [(str(path), it.st_mode, it.st_size, it.st_mtime_ns) for path, it in looks]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("letter.txt docs/", "docs"),
        ("objects/ab/", "objects"),
        ("objects/ trash/ partial/ pins/x/", "pins"),
        ("lock/", "lock"),  # as /var has it
        ("lock=4711", "lock"),
        ("lock .hidden", ".hidden"),
        ("lost+found", "lost+found"),
        ("format letter.txt", "letter.txt"),
        ("format=pdf letter.txt", "format"),
        ("format/", "format"),
    ],
)
def test_a_directory_with_something_else_in_it_is_refused_and_stays_as_it_is(
    tmp_path: Path, names: str, told: str
) -> None:
    folder = tmp_path / "home"
    put(folder, names)
    folder.chmod(0o755)
    before = state(folder)
    store = Store(str(folder))
    with pytest.raises(CacheForeign) as caught:
        store.prepare()
    line = f"cache directory '{folder}' is not empty and not a cache of streamcache"
    assert str(caught.value) == f"{line} (it has '{told}'); allowed: a new or an empty directory"
    assert state(folder) == before
    with pytest.raises(CacheError, match="is no cache directory of streamcache"):
        store.join()
    assert state(folder) == before


@pytest.mark.parametrize(
    "names",
    [
        "",
        "lost+found/",
        "lost+found/ lock",
        "lock format",
        "lock evictor objects/ partial/ trash/ pins/",
        "lock format=MARK objects/",
        "format lock evictor mounts={} catalog.lock objects/ab/ partial/",  # without its text
    ],
)
def test_what_a_start_that_was_cut_short_has_left_is_taken_up(tmp_path: Path, names: str) -> None:
    folder = tmp_path / "cache"
    put(folder, names)
    folder.chmod(0o755)
    store = Store(str(folder))
    assert store.prepare() is True
    store.close()
    assert (folder / "format").read_text() == "streamcache 1\n"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_format_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "format")
    with pytest.raises(CacheForeign, match=r"it has 'format'"):
        Store(str(tmp_path)).prepare()


def test_a_directory_that_cannot_be_made_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"/file/cache' cannot be made: Not a directory"):
        Store(f"{tmp_path}/file/cache/").prepare()
    with pytest.raises(CacheError, match="cache directory '/proc/x' cannot be made: No such file"):
        Store("/proc/x").prepare()


def test_a_directory_of_another_format_is_refused(store: Store) -> None:
    store.close()
    Path(store.root, "format").write_text("streamcache 2\n")
    Path(store.root).chmod(0o755)
    second = Store(store.root)
    for use in (second.prepare, second.join):
        with pytest.raises(CacheForeign, match="another format"):
            use()
    assert Path(store.root).stat().st_mode & 0o777 == 0o755
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
    with pytest.raises(CacheForeign, match=f"/cache/{name}' is in the way, where a directory"):
        second.prepare()
    second.close()


def test_a_directory_in_place_of_the_lock_is_named(store: Store) -> None:
    store.close()
    Path(store.root, "lock").unlink()
    Path(store.root, "lock").mkdir()
    with pytest.raises(CacheForeign, match="/cache/lock' is in the way, where a file is needed"):
        Store(store.root).prepare()


@pytest.mark.parametrize(
    ("names", "told"),
    [("thesis.tex", "thesis.tex"), ("partial/x/", "partial"), ("format=pdf thesis.tex", "format")],
)
def test_a_probe_leaves_what_somebody_else_has_put_in_its_place_as_it_is(
    store: Store, tmp_path: Path, names: str, told: str
) -> None:
    theirs = Path(store.root)
    theirs.rename(tmp_path / "moved")
    put(theirs, names)
    theirs.chmod(0o755)
    before = state(theirs)
    for _ in range(2):
        with pytest.raises(CacheForeign, match=rf"not empty .* \(it has '{told}'\)"):
            store.probe()
    assert state(theirs) == before
    theirs.rename(tmp_path / "theirs")
    (tmp_path / "moved").rename(theirs)
    assert store.probe().lock == -1  # ours again, as it was


def test_a_probe_makes_again_what_was_removed_once_and_once_more(store: Store) -> None:
    root = Path(store.root)
    for _ in range(2):  # it knows the new directory for its own, too
        shutil.rmtree(root)
        renewed = store.probe()
        store.take_lock(renewed.lock)
        assert renewed.objects_lost
        store.look()
    root.rename(root.with_name("moved"))
    put(root, "thesis.tex")
    with pytest.raises(CacheForeign):
        store.probe()


def test_a_probe_takes_up_what_a_copy_has_made_while_all_was_removed(store: Store) -> None:
    """rm finds its directory not empty in the end, and leaves that and what is in it."""
    root = Path(store.root)
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    put(root / "partial", "x")
    (root / "catalog").write_text("made anew")
    store.take_lock(store.probe().lock)
    store.look()
    assert (root / "format").read_text() == MARK
    assert (root / "partial" / "x").exists()


def test_the_lock_is_not_inherited(store: Store) -> None:
    assert fcntl.fcntl(store.lock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_free_bytes_are_those_of_the_file_system(store: Store) -> None:
    assert 0 < store.free_bytes() <= os.statvfs(store.root).f_blocks * 4096 * 1024
