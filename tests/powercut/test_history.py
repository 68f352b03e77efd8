"""What a disk may hold after a power cut: small histories, each with what may and may not be."""

from __future__ import annotations

from tests.powercut.history import (
    PAGE,
    ROOT,
    Cut,
    Drop,
    File,
    Keep,
    Make,
    Move,
    Record,
    Resize,
    Sync,
    Touch,
    Tree,
    Write,
    disk_after,
)

FOLDER, OTHER, FILE, NEW = 2, 3, 4, 5
FOLDERS: list[Record] = [
    Make(ROOT, "folder", FOLDER, "folder"),
    Make(ROOT, "other", OTHER, "folder"),
    Sync(ROOT),
]
WRITTEN: list[Record] = [*FOLDERS, Make(FOLDER, "file", FILE, "file"), Write(FILE, 0, b"old")]


def plain(tree: Tree) -> dict:
    """Files as their bytes."""
    return {
        name: bytes(node.data)
        if isinstance(node, File)
        else node
        if isinstance(node, str)
        else plain(node)
        for name, node in tree.items()
    }


def left(records: list[Record], *, names: Keep, bytes: Keep, journal: bool, seed: int = 0) -> dict:
    return plain(disk_after(records, Cut(len(records), names, bytes, journal, seed)))


def all_left(records: list[Record], *, journal: bool) -> list[dict]:
    """Every state that there may be, as far as chance finds them."""
    found: list[dict] = []
    for seed in range(200):
        state = left(records, names=Keep.SOME, bytes=Keep.SOME, journal=journal, seed=seed)
        if state not in found:
            found.append(state)
    return found


def test_without_a_sync_there_may_be_nothing_or_a_name_or_all() -> None:
    states = [state["folder"] for state in all_left(WRITTEN, journal=True)]
    assert sorted(states, key=repr) == sorted([{}, {"file": b""}, {"file": b"old"}], key=repr)
    nothing = left(WRITTEN, names=Keep.NOTHING, bytes=Keep.NOTHING, journal=True)
    assert nothing == {"folder": {}, "other": {}}
    everything = left(WRITTEN, names=Keep.EVERYTHING, bytes=Keep.EVERYTHING, journal=True)
    assert everything == {"folder": {"file": b"old"}, "other": {}}


def test_what_was_synced_is_there() -> None:
    """A journal writes the names with the file; else the directory has to be synced too."""
    synced = [*WRITTEN, Sync(FILE)]
    assert all_left(synced, journal=True) == [{"folder": {"file": b"old"}, "other": {}}]
    assert {repr(state["folder"]) for state in all_left(synced, journal=False)} == {
        "{}",
        "{'file': b'old'}",
    }
    both = [*synced, Sync(FOLDER)]
    assert all_left(both, journal=False) == [{"folder": {"file": b"old"}, "other": {}}]


def test_a_rename_within_a_directory_is_whole() -> None:
    records = [
        *WRITTEN,
        *(Sync(FILE), Sync(FOLDER)),
        *(Make(FOLDER, "new", NEW, "file"), Write(NEW, 0, b"new"), Sync(NEW)),
        Move(FOLDER, "new", FOLDER, "file", NEW),
    ]
    for journal in (True, False):
        states = {repr(state["folder"].get("file")) for state in all_left(records, journal=journal)}
        assert states == {"b'old'", "b'new'"}


def test_a_rename_between_directories_may_be_seen_by_halves_without_a_journal() -> None:
    records = [*WRITTEN, Sync(FILE), Sync(FOLDER), Move(FOLDER, "file", OTHER, "moved", FILE)]
    both = {"folder": {"file": b"old"}, "other": {"moved": b"old"}}
    neither = {"folder": {}, "other": {}}
    assert both in all_left(records, journal=False)
    assert neither in all_left(records, journal=False)
    assert neither not in all_left(records, journal=True)
    # Synced where it came to, it is there.
    assert all(state["other"] for state in all_left([*records, Sync(OTHER)], journal=False))


def test_a_name_that_was_dropped_may_be_back() -> None:
    records = [*WRITTEN, Sync(FILE), Sync(FOLDER), Drop(FOLDER, "file")]
    states = [state["folder"] for state in all_left(records, journal=True)]
    assert {} in states and {"file": b"old"} in states


def test_pages_of_one_write_are_kept_or_lost_each_by_itself() -> None:
    records = [*WRITTEN, Write(FILE, 0, b"a" * 2 * PAGE), Sync(FILE)]
    records.append(Write(FILE, 0, b"b" * 2 * PAGE))
    a, b = b"a" * PAGE, b"b" * PAGE
    found = {state["folder"]["file"] for state in all_left(records, journal=True)}
    assert found == {a + a, a + b, b + a, b + b}


def test_sizes_and_times_are_those_of_the_last_sync_or_later() -> None:
    records = [
        *WRITTEN,
        *(Resize(FILE, 5), Touch(FILE, 7), Sync(FILE)),
        *(Resize(FILE, 2), Touch(FILE, 8)),
    ]
    sizes, times = set(), set()
    for seed in range(50):
        tree = disk_after(records, Cut(len(records), Keep.SOME, Keep.SOME, True, seed))
        folder = tree["folder"]
        assert isinstance(folder, dict)
        file = folder["file"]
        assert isinstance(file, File)
        sizes.add(bytes(file.data))
        times.add(file.mtime_ns)
    assert sizes == {b"old\0\0", b"ol"}
    assert times == {7, 8}


def test_later_operations_are_not_done_yet() -> None:
    tree = disk_after(WRITTEN, Cut(3, Keep.EVERYTHING, Keep.EVERYTHING, journal=True))
    assert plain(tree) == {"folder": {}, "other": {}}
