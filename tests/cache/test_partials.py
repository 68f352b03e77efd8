"""The files of partials: begun, continued, dropped, and looked through by who finds them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.partial import Partial, PartialHeader
from streamcache.cache.partials import Leftover, PartialFolder
from streamcache.cache.space import footprint
from streamcache.cache.store import Store
from streamcache.errors import CacheBusy
from tests.cache.headers import KEY, NAME, SIZE, header


def name(number: int) -> str:
    return f"{KEY}.{number:032x}"


@pytest.fixture
def folder(store: Store) -> PartialFolder:
    return store.partials


def begin(store: Store, partial: str = NAME, **fields: object) -> None:
    """One with its second block present, that nobody works on."""
    made, present = store.partials.open(partial, header(store, **fields))
    assert present == b""
    made.write(Extent(1, 2), memoryview(b"1" * BLOCK))
    made.close()


def files(store: Store) -> list[str]:
    return sorted(os.listdir(Path(store.root, "partial")))


def path(store: Store, suffix: str, partial: str = NAME) -> Path:
    return Path(store.root, "partial", f"{partial}.{suffix}")


def taken(store: Store, partial: str = NAME) -> int:
    return sum(path(store, suffix, partial).stat().st_blocks * 512 for suffix in ("data", "map"))


# -- opened


def test_a_partial_is_continued_where_it_was_left(store: Store) -> None:
    begin(store)
    partial, present = store.partials.open(NAME, header(store))
    assert present == b"\0\1\0\0"
    partial.write(Extent(3, 4), memoryview(b"3" * 10))
    partial.close()
    partial, present = store.partials.open(NAME, header(store))
    assert present == b"\0\1\0\1"
    assert os.pread(partial.read_fd, 10, 3 * BLOCK) == b"3" * 10
    partial.close()


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
def test_a_partial_of_something_else_is_begun_anew(store: Store, fields: dict[str, object]) -> None:
    begin(store)
    partial, present = store.partials.open(NAME, header(store, **fields))
    assert present == b""
    assert os.pread(partial.read_fd, 10, BLOCK) == bytes(10)
    assert os.fstat(partial.read_fd).st_size == fields.get("size", SIZE)
    partial.close()
    assert files(store) == [f"{NAME}.data", f"{NAME}.map"]


def test_several_sessions_may_have_it_open(store: Store) -> None:
    first, _ = store.partials.open(NAME, header(store))
    second, present = store.partials.open(NAME, header(store))
    assert present == bytes(4)
    assert first.inode == second.inode
    first.write(Extent(0, 1), memoryview(b"0" * BLOCK))
    assert second.present(0, 4) == b"\1\0\0\0"
    assert os.pread(second.read_fd, 1, 0) == b"0"
    first.close()
    second.close()


def test_what_another_session_copies_is_not_replaced(store: Store) -> None:
    """Not quite the same file at the source; it writes on under that name."""
    first, _ = store.partials.open(NAME, header(store))
    with pytest.raises(CacheBusy, match="not quite"):
        store.partials.open(NAME, header(store, ctime_ns=8))
    first.write(Extent(0, 1), memoryview(b"0" * BLOCK))
    first.close()
    again, present = store.partials.open(NAME, header(store))
    assert present == b"\1\0\0\0"
    again.close()


def test_what_is_being_removed_is_not_continued(store: Store) -> None:
    begin(store)
    remover, _ = store.partials.open(NAME, header(store))
    assert remover.try_own()
    with pytest.raises(CacheBusy, match="removed"):
        store.partials.open(NAME, header(store))
    remover.close()


def cut_data(store: Store) -> None:
    os.truncate(path(store, "data"), SIZE - 1)


def cut_map(store: Store) -> None:
    os.truncate(path(store, "map"), path(store, "map").stat().st_size - 1)


def odd_map(store: Store) -> None:
    with open(path(store, "map"), "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\2")


def poisoned(store: Store) -> None:
    partial, _ = store.partials.open(NAME, header(store))
    partial.poison()
    partial.close()


def no_map(store: Store) -> None:
    path(store, "map").unlink()


def no_data(store: Store) -> None:
    path(store, "data").unlink()


def link_data(store: Store) -> None:
    no_data(store)
    target = Path(store.root, "target")
    target.touch()
    os.truncate(target, SIZE)
    path(store, "data").symlink_to(target)


def copied_data(store: Store) -> None:
    """As good as the original, but who says that it is as old as the map?"""
    copy = Path(store.root, "copy")
    shutil.copy2(path(store, "data"), copy)
    copy.rename(path(store, "data"))


DAMAGE = [cut_data, cut_map, odd_map, poisoned, no_map, no_data, link_data, copied_data]


def test_a_partial_of_version_0_2_0_is_continued(store: Store) -> None:
    """Its header does not say which data file it is about."""
    begin(store)
    raw = path(store, "map").read_bytes()
    _, start = PartialHeader.decode(raw)
    old = header(store).encode()
    assert b"home" not in old
    assert len(old) == start
    path(store, "map").write_bytes(old + raw[start:])
    partial, present = store.partials.open(NAME, header(store))
    assert present == b"\0\1\0\0"
    partial.close()


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_unsound_partial_is_begun_anew(store: Store, damage: Callable[[Store], None]) -> None:
    begin(store)
    damage(store)
    partial, present = store.partials.open(NAME, header(store))
    assert present == b""
    assert os.pread(partial.read_fd, SIZE, 0) == bytes(SIZE)
    partial.close()
    if damage is link_data:
        assert Path(store.root, "target").read_bytes() == bytes(SIZE)


def test_a_partial_is_sparse(store: Store) -> None:
    partial, _ = store.partials.open(NAME, header(store, size=5 << 30))
    partial.close()
    assert taken(store) < 1 << 20


@pytest.mark.parametrize("there", [False, True], ids=["new", "continued"])
@pytest.mark.parametrize("nth", range(1, 5))
def test_what_cannot_be_opened_leaves_no_descriptor(
    store: Store, monkeypatch: pytest.MonkeyPatch, nth: int, there: bool
) -> None:
    if there:
        begin(store)
    real, calls = os.open, []

    def fail(path: str, *args: int) -> int:
        calls.append(path)
        if len(calls) == nth:
            raise OSError(errno.EMFILE, "no")
        return real(path, *args)

    if there and nth == 4:
        return  # three opens suffice
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(OSError, match="no"):
            store.partials.open(NAME, header(store))
    # The leak check around each test counts descriptors.
    partial, present = store.partials.open(NAME, header(store))
    assert present == (b"\0\1\0\0" if there else b"")
    partial.close()


def test_half_a_partial_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be in no account."""

    def fail(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(OSError, match="no"):
            store.partials.open(NAME, header(store))
    assert files(store) == []


# -- left behind


def test_what_nobody_works_on_is_settled_or_removed(store: Store) -> None:
    begin(store)
    on_disk = taken(store)
    assert store.partials.settle(NAME) == on_disk
    assert store.partials.settle(NAME) == on_disk, "it stays"
    assert store.partials.remove(NAME) == 0
    assert files(store) == []
    assert store.partials.settle(NAME) == store.partials.remove(NAME) == 0


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_unsound_goes_when_it_is_settled(
    store: Store, damage: Callable[[Store], None]
) -> None:
    begin(store)
    damage(store)
    assert store.partials.settle(NAME) == 0
    assert files(store) == []


@pytest.mark.parametrize("damage", [None, odd_map, poisoned])
def test_what_somebody_works_on_stays(store: Store, damage: Callable[[Store], None] | None) -> None:
    """Whatever it looks like: its descriptors are open, so its blocks are not free."""
    partial, _ = store.partials.open(NAME, header(store))
    if damage is not None:
        other, _ = store.partials.open(NAME, header(store))
        if damage is poisoned:
            other.poison()
        else:
            damage(store)
        other.close()
    assert store.partials.settle(NAME) is None
    assert store.partials.remove(NAME) is None
    assert store.partials.look(NAME) is None
    assert files(store) == [f"{NAME}.data", f"{NAME}.map"]
    partial.close()
    assert store.partials.remove(NAME) == 0


def test_what_was_published_left_a_journal(store: Store) -> None:
    partial, _ = store.partials.open(NAME, header(store))
    store.objects.publish(NAME, partial.inode)
    assert store.partials.look(NAME) is None, "it is in use"
    partial.close()
    idle = store.partials.look(NAME)
    assert idle is not None
    assert (idle.kind, idle.path, idle.on_disk) == (Leftover.JOURNAL, "a.mp4", 0)
    assert store.partials.names() == [NAME]
    store.partials.drop_map(NAME)
    assert store.partials.names() == []
    store.partials.drop_map(NAME)


def test_looking_says_what_is_there(store: Store) -> None:
    assert store.partials.look(NAME) is None
    begin(store)
    idle = store.partials.look(NAME)
    assert idle is not None
    assert (idle.kind, idle.path, idle.on_disk) == (Leftover.PARTIAL, "a.mp4", taken(store))
    odd_map(store)
    unsound = store.partials.look(NAME)
    assert unsound is not None
    assert unsound.kind is Leftover.UNSOUND


def test_all_are_found_and_the_room_they_take_or_may_take(store: Store) -> None:
    begin(store, name(0))
    begin(store, name(1), boot="another")
    begin(store, name(2))
    os.unlink(store.partials.data(name(2)))
    used, _ = store.partials.open(name(3), header(store))
    at = Path(store.root, "partial")
    (at / "foreign").touch()
    (at / "foreign.map").touch()
    (at / f"{name(4)}.data").write_bytes(b"data without a map")
    (at / "subfolder").mkdir()
    assert store.partials.names() == [name(0), name(1), name(2), name(3), name(4)]
    assert store.partials.room() == [
        (name(0), taken(store, name(0))),
        (name(1), taken(store, name(1))),  # of no use, but there until it is swept
        (name(3), footprint(SIZE)),
        (name(4), path(store, "data", name(4)).stat().st_blocks * 512),
    ]
    assert not (at / "foreign").exists()
    assert not (at / "foreign.map").exists()
    assert (at / "subfolder").is_dir()
    used.close()


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
@pytest.mark.parametrize("suffix", ["map", "data"])
def test_hostile_files_do_no_harm(store: Store, tmp_path: Path, kind: str, suffix: str) -> None:
    """They are unsound; what a link leads to is not ours, and a FIFO is not waited for."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    begin(store)
    at = path(store, suffix)
    at.unlink()
    if kind == "fifo":
        os.mkfifo(at)
    elif kind == "folder":
        at.mkdir()
    else:
        at.symlink_to(precious)
    idle = store.partials.look(NAME)
    assert idle is not None
    assert idle.kind is Leftover.UNSOUND
    assert store.partials.room() == ([(NAME, idle.on_disk)] if idle.on_disk else [])
    assert store.partials.settle(NAME) == 0
    left = [f"{NAME}.{suffix}"] if kind == "folder" else []
    assert files(store) == left
    assert precious.read_text() == "precious"


def test_hostile_files_are_replaced_when_it_is_opened(store: Store, tmp_path: Path) -> None:
    for suffix in ("map", "data"):
        begin(store)
        path(store, suffix).unlink()
        os.mkfifo(path(store, suffix))
        partial, present = store.partials.open(NAME, header(store))
        assert present == b""
        partial.close()
        store.partials.drop(NAME)


def test_what_cannot_be_removed_is_no_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(store)

    def fail(path: str) -> None:
        raise PermissionError("no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        with pytest.raises(PermissionError):
            store.partials.remove(NAME)
    assert store.partials.remove(NAME) == 0
    store.partials.drop(NAME)


def test_it_is_asked_of_the_kernel_who_works_on_it(folder: PartialFolder, store: Store) -> None:
    """One session of two leaves; then the other."""
    first, second = (folder.open(NAME, header(store))[0] for _ in range(2))
    assert not first.try_own()
    first.close()
    assert folder.remove(NAME) is None
    assert isinstance(second, Partial)
    assert second.try_own()
    second.close()
    assert folder.remove(NAME) == 0
