"""Objects as files: how they get their names, who may open them, and how they go again."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from streamcache.cache import stored
from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.store import Store
from streamcache.cache.stored import Fate
from streamcache.errors import CacheBusy
from streamcache.source.base import Version
from tests.cache.headers import KEY, NAME, SIZE, VERSION, header

HOUR = 3600 * 10**9  # ns
OF = Version(VERSION, SIZE, 500_000 * HOUR)


def begin(store: Store, name: str = NAME, **fields: object) -> int:
    """A partial with its second block present, that nobody works on; the inode of its data."""
    partial, _ = store.partials.open(name, header(store, **fields))
    partial.write(Extent(1, 2), memoryview(b"1" * BLOCK))
    partial.seal(OF.mtime_ns)
    inode = partial.inode
    partial.close()
    return inode


def publish(store: Store, name: str = NAME) -> Path:
    store.objects.publish(name, begin(store, name))
    store.partials.drop_map(name)
    return path_of(store, name)


def path_of(store: Store, name: str) -> Path:
    return Path(store.root, "objects", name[:2], name)


def partials(store: Store) -> list[str]:
    return sorted(os.listdir(Path(store.root, "partial")))


# -- publishing


def test_publishing_is_a_rename_that_is_made_durable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5. Both the file's folder and, when it is new, the folder above it."""
    inode = begin(store)
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))
    )
    on_disk = store.objects.publish(NAME, inode)
    objects = os.path.join(store.root, "objects")
    assert synced == [objects, os.path.join(objects, "ab")]
    assert on_disk == path_of(store, NAME).stat().st_blocks * 512
    assert partials(store) == [f"{NAME}.map"], "its journal goes when the catalog knows it"
    store.partials.drop_map(NAME)
    store.partials.drop_map(NAME)
    assert partials(store) == []


def test_what_was_removed_cannot_be_published(store: Store) -> None:
    inode = begin(store)
    store.partials.drop(NAME)
    with pytest.raises(CacheBusy):
        store.objects.publish(NAME, inode)


def test_what_another_has_begun_under_the_name_is_not_published(store: Store) -> None:
    """Its blocks are not those that this one saw."""
    partial, _ = store.partials.open(NAME, header(store))
    inode = partial.inode  # not used again while it is open
    store.partials.drop(NAME)
    another = begin(store)
    assert inode != another
    with pytest.raises(CacheBusy, match="lost its name"):
        store.objects.publish(NAME, inode)
    partial.close()
    assert not path_of(store, NAME).exists()
    store.objects.publish(NAME, another)


def test_it_is_told_whether_a_file_was_published(store: Store) -> None:
    partial, _ = store.partials.open(NAME, header(store))
    assert store.objects.published(NAME, partial.inode) is False
    store.objects.publish(NAME, partial.inode)
    assert store.objects.published(NAME, partial.inode) is True
    path_of(store, NAME).unlink()
    assert store.objects.published(NAME, partial.inode) is None, "evicted at once"
    partial.close()


def test_a_rename_between_two_looks_is_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    partial, _ = store.partials.open(NAME, header(store))
    real, looks = os.stat, []

    def stat(path: str, **options: bool) -> os.stat_result:
        looks.append(path)
        if len(looks) == 2:
            monkeypatch.undo()
            store.objects.publish(NAME, partial.inode)
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert store.objects.published(NAME, partial.inode) is not None
    partial.close()


def test_an_object_that_is_not_durable_is_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = begin(store)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        store.objects.publish(NAME, inode)
    assert not path_of(store, NAME).exists()


def test_a_file_system_that_syncs_no_directory_is_good_enough(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = begin(store)

    def fail(fd: int) -> None:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "fsync", fail)
    store.objects.publish(NAME, inode)
    assert path_of(store, NAME).exists()


def test_an_object_is_opened_by_name_and_size(store: Store) -> None:
    publish(store)
    fd = store.objects.open(NAME, OF)
    assert os.pread(fd, 2, BLOCK) == b"11"
    os.close(fd)
    assert store.objects.open(f"{KEY}.{'0' * 32}", OF) == -1
    assert store.objects.open(NAME, replace(OF, size=SIZE + 1)) == -1
    assert not path_of(store, NAME).exists(), "what has another size is not ours"


@pytest.mark.parametrize("how", ["written to", "replaced"])
def test_what_somebody_else_wrote_to_is_no_object(store: Store, how: str) -> None:
    path = publish(store)
    if how == "replaced":
        path.unlink()
        path.write_bytes(b"2" * SIZE)
    else:
        with open(path, "r+b") as file:
            file.write(b"2")
    assert store.objects.open(NAME, OF) == -1
    assert not path.exists()


def test_a_time_that_the_file_system_could_not_keep_is_no_sign(store: Store) -> None:
    path = publish(store)
    os.utime(path, ns=(0, OF.mtime_ns + 10**9))  # rounded
    for mtime in (OF.mtime_ns, -(10**9), 2**33 * 10**9):  # and beyond what all can keep
        fd = store.objects.open(NAME, replace(OF, mtime_ns=mtime))
        assert fd >= 0
        os.close(fd)


def test_an_object_that_cannot_be_looked_at_leaves_no_descriptor(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)

    def fail(fd: int) -> os.stat_result:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        with pytest.raises(OSError, match="no"):
            store.objects.open(NAME, OF)
    # That none is open any more is seen by the check around each test.
    assert path_of(store, NAME).exists()


def test_a_fifo_in_the_place_of_an_object_is_not_waited_for(store: Store) -> None:
    publish(store).unlink()
    os.mkfifo(path_of(store, NAME))
    assert store.objects.open(NAME, OF) == -1


def test_an_object_is_not_opened_through_a_link(store: Store) -> None:
    publish(store).unlink()
    path_of(store, NAME).symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        store.objects.open(NAME, replace(OF, size=os.stat("/etc/passwd").st_size))


def test_the_versions_of_a_key_are_listed_the_newest_last(store: Store) -> None:
    names = [f"{KEY}.{number:032x}" for number in (3, 1, 2)]
    for name in (*names, f"{'ab' + '0' * 30}.{VERSION}"):
        publish(store, name)
        # Names get their time by the clock of the file system, which ticks slowly.
        path_of(store, name).chmod(0o600)
        while os.lstat(path_of(store, name)).st_ctime_ns >= _now(store):
            pass
    found = store.objects.versions(KEY)
    assert [stored.name for stored in found] == names
    assert [stored.version.id for stored in found] == [name[33:] for name in names]
    assert all(stored.version.size == SIZE for stored in found)
    assert store.objects.versions("ff" * 16) == []


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
    found = [stored.name for batch in store.objects.all() for stored in batch]
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
    assert store.objects.remove_unread(names) == [names[0], names[1], names[3]]


def test_an_object_that_is_read_goes_through_the_trash(store: Store) -> None:
    path = publish(store)
    on_disk = path.stat().st_blocks * 512
    fd = store.objects.open(NAME, OF)
    assert store.objects.remove_unread([NAME]) == []
    assert store.objects.remove(NAME) == (Fate.LEFT, 0)
    assert path.exists()
    assert store.objects.remove(NAME, "first") == (Fate.TRASHED, on_disk)
    assert store.objects.remove(NAME, "second") == (Fate.GONE, 0)
    assert os.pread(fd, 1, BLOCK) == b"1"
    assert store.objects.empty_trash(["first", "second"]) == ["second"], "it is read"
    assert store.objects.trash() == [("first", on_disk)]
    os.close(fd)
    assert store.objects.empty_trash(["first"]) == ["first"]
    assert store.objects.trash() == []


def test_a_reader_keeps_its_object_until_it_lets_go(store: Store) -> None:
    """Also when another descriptor of the same object was let go."""
    publish(store)
    first, second = store.objects.open(NAME, OF), store.objects.open(NAME, OF)
    stored.release(first)
    assert store.objects.remove_unread([NAME]) == []
    stored.release(second)
    assert stored.lease(first)
    assert store.objects.remove_unread([NAME]) == []
    stored.release(first)
    assert store.objects.remove_unread([NAME]) == [NAME]
    os.close(first)
    os.close(second)


def test_an_object_that_is_going_takes_no_reader(store: Store) -> None:
    path = publish(store)
    remover = os.open(path, os.O_RDONLY)
    assert stored._is_free(remover)
    assert store.objects.open(NAME, OF) == -1
    path.unlink()
    os.close(remover)


def test_an_object_unlinked_while_it_is_opened_takes_no_reader(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blocks would be in no account (I13)."""
    path = publish(store)
    lease = stored.lease

    def late(fd: int) -> bool:
        path.unlink()
        return lease(fd)

    monkeypatch.setattr(stored, "lease", late)
    assert store.objects.open(NAME, OF) == -1


def test_a_new_object_of_the_name_is_not_taken_for_the_old_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published by another process while this one was about to remove the old one."""
    publish(store)
    free = stored._is_free

    def replaced(fd: int) -> bool:
        path_of(store, NAME).unlink()
        publish(store)
        return free(fd)

    monkeypatch.setattr(stored, "_is_free", replaced)
    store.objects.remove(NAME)
    assert path_of(store, NAME).exists()


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_what_is_no_object_is_not_followed_when_it_goes(
    store: Store, tmp_path: Path, kind: str
) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    path = path_of(store, NAME)
    path.parent.mkdir()
    trash = Path(store.root, "trash", "old")
    for place in (path, trash):
        if kind == "link":
            place.symlink_to(precious)
        elif kind == "folder":
            place.mkdir()
        else:
            os.mkfifo(place)
    assert store.objects.remove(NAME)[0] is Fate.GONE
    store.objects.empty_trash(["old"])
    assert store.objects.trash() == []
    assert precious.exists()
    if kind != "folder":
        assert not os.path.lexists(path)
        assert not os.path.lexists(trash)


def test_a_new_cache_is_empty(store: Store) -> None:
    assert store.objects.is_empty()
    publish(store)
    assert not store.objects.is_empty()
