"""The cache directory: whose it is, what is published in it, and what the last process left."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.partial import PartialHeader
from streamcache.cache.store import Store, is_name
from streamcache.errors import CacheError, CacheInUse

KEY, VERSION = "ab" * 16, "cd" * 16
NAME = f"{KEY}.{VERSION}"
SIZE = 3 * BLOCK + 10


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


def header(store: Store, **fields: object) -> PartialHeader:
    values = {
        "boot": store.boot,
        "source": "source",
        "path": "a.mp4",
        "version": VERSION,
        "size": SIZE,
        "mtime_ns": 5,
        "ctime_ns": 6,
        "inode": 7,
    }
    return PartialHeader(**{**values, **fields})


def begin(store: Store, name: str = NAME, **fields: object) -> None:
    """A partial with its second block present."""
    partial = store.create_partial(name, header(store, **fields))
    partial.write(Extent(1, 2), memoryview(b"1" * BLOCK))
    partial.close()


def publish(store: Store, name: str = NAME) -> Path:
    begin(store, name)
    store.publish(name)
    store.drop_map(name)
    return path_of(store, name)


def path_of(store: Store, name: str) -> Path:
    return Path(store.root, "objects", name[:2], name)


def partials(store: Store) -> list[str]:
    return sorted(os.listdir(Path(store.root, "partial")))


# -- the directory


def test_it_is_made_private(store: Store) -> None:
    for name in ("", "objects", "partial", "trash"):
        assert Path(store.root, name).stat().st_mode & 0o777 == 0o700


def test_a_second_process_is_refused(store: Store) -> None:
    second = Store(store.root)
    with pytest.raises(CacheInUse):
        second.prepare()
    store.close()
    second.prepare()
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


def test_trash_is_emptied_at_the_start(make_store: Callable[[], Store]) -> None:
    store = make_store()
    Path(store.root, "trash", "old").touch()
    assert os.listdir(Path(make_store().root, "trash")) == []


def test_the_lock_is_not_inherited(store: Store) -> None:
    assert fcntl.fcntl(store._lock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (NAME, True),
        (NAME.upper(), False),
        (KEY, False),
        (f"{KEY}.{VERSION}x", False),
        (f"{KEY}.{VERSION}.data", False),
        (f"../{KEY[3:]}.{VERSION}", False),
        ("", False),
    ],
)
def test_names_are_two_digests(text: str, good: bool) -> None:
    assert is_name(text) is good


# -- publishing


def test_publishing_is_a_rename_that_is_made_durable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5. Both the file's folder and, when it is new, the folder above it."""
    begin(store)
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))
    )
    blocks = store.publish(NAME)
    objects = os.path.join(store.root, "objects")
    assert synced == [objects, os.path.join(objects, "ab")]
    assert blocks == path_of(store, NAME).stat().st_blocks * 512
    assert partials(store) == [f"{NAME}.map"], "its journal goes when the catalog knows it"
    store.drop_map(NAME)
    store.drop_map(NAME)
    assert partials(store) == []


def test_what_was_removed_cannot_be_published(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.publish(NAME)


def test_an_object_that_is_not_durable_is_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        store.publish(NAME)
    assert not path_of(store, NAME).exists()


def test_a_file_system_that_syncs_no_directory_is_good_enough(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store)

    def fail(fd: int) -> None:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "fsync", fail)
    store.publish(NAME)
    assert path_of(store, NAME).exists()


def test_an_object_is_opened_by_name_and_size(store: Store) -> None:
    publish(store)
    fd = store.open_object(NAME, SIZE)
    assert os.pread(fd, 2, BLOCK) == b"11"
    os.close(fd)
    assert store.open_object(f"{KEY}.{'0' * 32}", SIZE) == -1
    assert store.open_object(NAME, SIZE + 1) == -1
    assert not path_of(store, NAME).exists(), "what has another size is not ours"


def test_an_object_that_cannot_be_looked_at_leaves_no_descriptor(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)

    def fail(fd: int) -> os.stat_result:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        with pytest.raises(OSError, match="no"):
            store.open_object(NAME, SIZE)
    # That none is open any more is seen by the check around each test.
    assert path_of(store, NAME).exists()


def test_an_object_is_not_opened_through_a_link(store: Store) -> None:
    publish(store).unlink()
    path_of(store, NAME).symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        store.open_object(NAME, os.stat("/etc/passwd").st_size)


def test_the_versions_of_a_key_are_listed_the_newest_last(store: Store) -> None:
    names = [f"{KEY}.{number:032x}" for number in (3, 1, 2)]
    for name in (*names, f"{'ab' + '0' * 30}.{VERSION}"):
        publish(store, name)
        # Names get their time by the clock of the file system, which ticks slowly.
        path_of(store, name).chmod(0o600)
        while os.lstat(path_of(store, name)).st_ctime_ns >= _now(store):
            pass
    found = store.versions(KEY)
    assert [stored.name for stored in found] == names
    assert [stored.version.id for stored in found] == [name[33:] for name in names]
    assert all(stored.version.size == SIZE for stored in found)
    assert store.versions("ff" * 16) == []


def _now(store: Store) -> int:
    path = Path(store.root, "tick")
    path.touch()
    path.unlink()
    path.touch()
    now = path.stat().st_ctime_ns
    path.unlink()
    return now


def test_all_objects_are_found_and_foreign_things_left_or_removed(
    store: Store, tmp_path: Path
) -> None:
    names = [f"{first}{'0' * 30}.{VERSION}" for first in ("00", "ab", "ff")]
    for name in names:
        publish(store, name)
    objects = Path(store.root, "objects")
    (objects / "file").touch()
    (objects / "ab" / "file").touch()
    (objects / "ab" / names[0]).touch()  # in the wrong folder
    (objects / "ab" / "folder").mkdir()
    outside = tmp_path / "outside"
    (outside / "ab").mkdir(parents=True)
    (outside / names[1]).touch()
    (objects / "cc").symlink_to(outside)
    found = [stored.name for batch in store.all_objects() for stored in batch]
    assert sorted(found) == names
    assert not (objects / "file").exists()
    assert sorted(os.listdir(objects / "ab")) == [names[1], "folder"]
    assert (outside / names[1]).exists(), "a link is not followed"


def test_removing_says_what_is_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """K08; defect 12: the first missing file ended the whole deletion."""
    names = [f"{KEY}.{number:032x}" for number in range(4)]
    for name in names:
        publish(store, name)
    path_of(store, names[1]).unlink()
    unlink = os.unlink

    def stubborn(path: str) -> None:
        if path.endswith(names[2]):
            raise PermissionError("no")
        unlink(path)

    monkeypatch.setattr(os, "unlink", stubborn)
    assert store.remove_objects(names) == [names[0], names[1], names[3]]


def test_an_object_that_is_read_goes_through_the_trash(store: Store) -> None:
    publish(store)
    fd = store.open_object(NAME, SIZE)
    trashed = store.trash_object(NAME, 0)
    assert trashed is not None
    assert store.trash_object(NAME, 1) is None
    assert os.pread(fd, 1, BLOCK) == b"1"
    store.empty(trashed, fd)
    assert not os.path.exists(trashed)
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_new_cache_is_empty(store: Store) -> None:
    assert store.is_empty()
    publish(store)
    assert not store.is_empty()


def test_free_bytes_are_those_of_the_file_system(store: Store) -> None:
    assert 0 < store.free_bytes() <= os.statvfs(store.root).f_blocks * 4096 * 1024


# -- partials


def test_a_partial_is_continued_where_it_was_left(make_store: Callable[[], Store]) -> None:
    begin(make_store())
    store = make_store()
    found = store.continue_partial(NAME, header(store))
    assert found is not None
    partial, present = found
    assert present == b"\0\1\0\0"
    partial.write(Extent(3, 4), memoryview(b"3" * 10))
    partial.close()
    again = store.continue_partial(NAME, header(store))
    assert again is not None
    assert again[1] == b"\0\1\0\1"
    assert os.pread(again[0].read_fd, 10, 3 * BLOCK) == b"3" * 10
    again[0].close()


@pytest.mark.parametrize(
    "fields",
    [
        {"boot": "another"},
        {"source": "another"},
        {"path": "b.mp4"},
        {"version": "00" * 16},
        {"size": SIZE - 1},
        {"mtime_ns": 4},
        {"ctime_ns": 4},
        {"inode": 4},
    ],
)
def test_a_partial_of_something_else_is_dropped(store: Store, fields: dict[str, object]) -> None:
    begin(store)
    assert store.continue_partial(NAME, header(store, **fields)) is None
    assert partials(store) == []


def cut_data(store: Store) -> None:
    os.truncate(Path(store.root, "partial", f"{NAME}.data"), SIZE - 1)


def cut_map(store: Store) -> None:
    path = Path(store.root, "partial", f"{NAME}.map")
    os.truncate(path, path.stat().st_size - 1)


def odd_map(store: Store) -> None:
    with open(Path(store.root, "partial", f"{NAME}.map"), "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\2")


def no_map(store: Store) -> None:
    Path(store.root, "partial", f"{NAME}.map").unlink()


def no_data(store: Store) -> None:
    Path(store.root, "partial", f"{NAME}.data").unlink()


def link_data(store: Store) -> None:
    no_data(store)
    target = Path(store.root, "target")
    target.touch()
    os.truncate(target, SIZE)
    Path(store.root, "partial", f"{NAME}.data").symlink_to(target)


DAMAGE = [cut_data, cut_map, odd_map, no_map, no_data]


@pytest.mark.parametrize("damage", [*DAMAGE, link_data])
def test_an_unsound_partial_is_dropped(store: Store, damage: Callable[[Store], None]) -> None:
    begin(store)
    damage(store)
    assert store.continue_partial(NAME, header(store)) is None
    assert partials(store) == []


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_unsound_at_the_start_goes(
    make_store: Callable[[], Store], damage: Callable[[Store], None]
) -> None:
    first = make_store()
    begin(first)
    damage(first)
    store = make_store()
    assert store.scan_partials("source") == ([], [])
    assert partials(store) == []


def test_what_the_last_process_left_is_found(make_store: Callable[[], Store]) -> None:
    first = make_store()
    names = [f"{KEY}.{number:032x}" for number in range(4)]
    begin(first, names[0])
    begin(first, names[1], source="another")
    begin(first, names[2], boot="another")
    begin(first, names[3])
    first.publish(names[3])  # killed before the catalog knew
    folder = Path(first.root, "partial")
    (folder / "foreign").touch()
    (folder / "foreign.map").touch()
    (folder / "subfolder").mkdir()
    store = make_store()
    kept, published = store.scan_partials("source")
    assert [partial.name for partial in kept] == [names[0]]
    assert kept[0].header.path == "a.mp4"
    assert kept[0].blocks == store.partial_blocks(names[0])
    assert [stored.name for stored in published] == [names[3]]
    assert (folder / "subfolder").is_dir()
    assert set(partials(store)) - {f"{names[3]}.map"} == {
        f"{names[0]}.data",
        f"{names[0]}.map",
        "subfolder",
    }


def test_creating_replaces_what_had_its_name(store: Store) -> None:
    begin(store)
    partial = store.create_partial(NAME, header(store))
    assert os.pread(partial.read_fd, 10, BLOCK) == bytes(10)
    partial.close()
    found = store.continue_partial(NAME, header(store))
    assert found is not None
    assert found[1] == bytes(4)
    found[0].close()


def test_a_partial_is_sparse(store: Store) -> None:
    partial = store.create_partial(NAME, header(store, size=5 << 30))
    partial.close()
    assert store.partial_blocks(NAME) < 1 << 20


@pytest.mark.parametrize("nth", range(1, 4))
def test_what_cannot_be_created_leaves_no_descriptor(
    store: Store, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    real, calls = os.open, []

    def fail(path: str, *args: int) -> int:
        calls.append(path)
        if len(calls) == nth:
            raise OSError(errno.EMFILE, "no")
        return real(path, *args)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match="no"):
        store.create_partial(NAME, header(store))
    # The leak check around each test counts descriptors.
    monkeypatch.undo()
    store.create_partial(NAME, header(store)).close()


def test_dropping_what_is_not_there_is_nothing(store: Store) -> None:
    store.drop_partial(NAME)
