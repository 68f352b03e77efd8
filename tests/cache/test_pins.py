"""What is pinned stays, whatever the order of eviction says."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcache.cache.catalog import Catalog
from streamcache.cache.names import key_of
from streamcache.cache.pins import PinFolder
from streamcache.cache.policy import PolicyName
from tests.cache.test_catalog import BOTH, GiB, chosen, entry, object_name


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "catalog.sqlite")


@pytest.fixture(params=BOTH)
def policy(request: pytest.FixtureRequest) -> PolicyName:
    return request.param


@pytest.fixture
def catalog(path: str, policy: PolicyName) -> Iterator[Catalog]:
    made = Catalog.open(path, policy=policy, capacity=GiB)
    for number in range(6):
        made.add(entry(number, at=float(number)))
    yield made
    made.close()


def key(number: int) -> str:
    return key_of(object_name(number))


def test_pinned_objects_are_never_chosen_and_count_all_the_same(catalog: Catalog) -> None:
    assert catalog.pin({key(0): "a", key(3): "b", key(99): "c"}) == 2
    assert catalog.pin({key(0): "a"}) == 1  # again: nothing changes
    assert sorted(chosen(catalog, GiB)) == sorted(object_name(n) for n in (1, 2, 4, 5))
    assert catalog.usage() == (6 * 4096, 6)
    assert catalog.pins.bytes() == 2 * 4096
    assert catalog.pins.all() == {key(0): "a", key(3): "b", key(99): "c"}


def test_a_pin_comes_before_the_object_and_outlives_it(catalog: Catalog) -> None:
    catalog.pin({key(7): "x"})
    catalog.add(entry(7))
    catalog.remove([object_name(7)])
    catalog.add(entry(7, version=2))  # another version of it
    catalog.touch({object_name(7, 2): 3}, 9.0)
    found = chosen(catalog, GiB)
    assert len(found) == 6 and object_name(7, 2) not in found


def test_what_is_unpinned_goes_like_any_other(catalog: Catalog) -> None:
    catalog.pin({key(0): "a", key(7): "b"})
    assert catalog.unpin([key(0), key(7), key(8)]) == 1
    assert sorted(chosen(catalog, GiB)) == sorted(object_name(n) for n in range(6))
    assert (catalog.pins.all(), catalog.pins.bytes()) == ({}, 0)


def test_one_that_was_chosen_before_it_was_pinned_goes_or_stays_whole(catalog: Catalog) -> None:
    first, second = chosen(catalog, 2 * 4096)
    catalog.pin({key_of(first): "a", key_of(second): "b"})
    catalog.remove_victims([first])  # it was off the disk by then
    assert catalog.get(first) is None
    left = chosen(catalog, GiB)  # and this one is not offered again
    assert second not in left and len(left) == 4
    assert sorted(catalog.leaving()) == sorted(left)
    catalog.remove_victims([second])
    assert catalog.get(second) is not None


def test_pins_outlive_a_restart_and_another_policy(path: str) -> None:
    policies: tuple[PolicyName, ...] = ("s3fifo", "lru", "s3fifo")
    for number, policy in enumerate(policies):
        catalog = Catalog.open(path, policy=policy, capacity=GiB)
        if not number:
            for each in range(4):
                catalog.add(entry(each))
            catalog.pin({key(2): "a"})
        assert sorted(chosen(catalog, GiB)) == sorted(object_name(n) for n in (0, 1, 3))
        catalog.close()


def test_the_order_of_the_others_is_that_of_a_smaller_cache(path: str) -> None:
    """S3-FIFO's shares are of what may be evicted: pins must not fill its main queue's."""
    plain = Catalog.open(":memory:", capacity=GiB)
    pinned = Catalog.open(path, capacity=GiB)
    for number in range(200):
        plain.add(entry(number))
        pinned.add(entry(number))
    for number in range(200, 1200):
        pinned.pin({key(number): ""})
        pinned.add(entry(number))
    for catalog in (plain, pinned):
        catalog.touch({object_name(n): 2 for n in range(0, 200, 3)}, 5.0)
        chosen(catalog, 20 * 4096)
        for number in range(2000, 2050):
            catalog.add(entry(number))
    assert chosen(plain, 100 * 4096) == chosen(pinned, 100 * 4096)
    plain.close()
    pinned.close()


def test_a_catalog_of_the_time_before_pins_gets_them(path: str) -> None:
    catalog = Catalog.open(path, capacity=GiB)
    catalog.add(entry(1))
    catalog.database.db.execute("DROP TABLE pins")
    catalog.close()
    catalog = Catalog.open(path, capacity=GiB)
    assert catalog.pin({key(1): "a"}) == 1
    assert chosen(catalog, GiB) == []
    catalog.close()


def test_each_pin_is_durable_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def recorded(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", recorded)
    PinFolder(str(tmp_path)).add({key(1): "a", key(2): "b"})
    pins = str(tmp_path / "pins")
    assert synced == [f"{pins}/{key(1)}", f"{pins}/{key(2)}", pins]


@pytest.mark.parametrize("change", ["add", "remove"])
def test_a_change_that_is_not_durable_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """But on a file system where directories cannot be synced."""
    folder, fsync = PinFolder(str(tmp_path)), os.fsync
    folder.add({key(1): "a"})
    code = errno.EIO

    def failing(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path / "pins"):
            raise OSError(code, os.strerror(code))
        fsync(fd)

    def changed() -> None:
        if change == "add":
            folder.add({key(2): "b"})
        else:
            folder.remove([key(1)])

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError) as caught:
        changed()
    assert caught.value.errno == errno.EIO
    code = errno.EINVAL
    changed()
    assert folder.all() == ({key(1): "a", key(2): "b"} if change == "add" else {})


def test_the_folder_says_what_is_pinned(tmp_path: Path) -> None:
    folder = PinFolder(str(tmp_path))
    assert folder.all() == {}
    folder.add({key(1): "a/\udcff", key(2): "b"})
    folder.add({key(1): "a/\udcff"})
    (tmp_path / "pins" / "foreign").write_text("x")
    (tmp_path / "pins" / ("f" * 32)).symlink_to("/etc/passwd")
    (tmp_path / "pins" / ("e" * 32)).mkdir()
    assert folder.all([key(2)]) == {key(1): "a/\udcff", key(2): ""}
    assert not (tmp_path / "pins" / "foreign").exists()
    folder.remove([key(1), key(9)])
    assert folder.all() == {key(2): "b"}
