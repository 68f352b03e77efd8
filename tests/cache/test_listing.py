"""Pages of the catalog: each object once, in the order that was asked for."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcache.cache.catalog import Catalog
from streamcache.cache.database import CatalogCorrupt, CatalogReplaced
from streamcache.cache.entry import Entry, NewEntry
from streamcache.cache.listing import MOST, Listing, SortBy, entries, page
from streamcache.cache.names import key_of
from streamcache.cache.selection import Selection
from tests.cache.test_catalog import object_name

GiB = 1 << 30
PATHS = ["b/1", "a/2", "a/1", "a\udcff/1", "a/\udcff\udcff", "a", "a/b/c"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "catalog.sqlite")


@pytest.fixture
def catalog(path: str) -> Iterator[Catalog]:
    made = Catalog.open(path, capacity=GiB)
    for number, where in enumerate(PATHS):
        made.add(NewEntry(object_name(number), where, number % 3, 4096, 1.0 + number % 2))
    made.add(NewEntry(object_name(1, version=5), "a/2", 1, 4096, 1.0))
    made.touch({object_name(3): 5, object_name(4): 5, object_name(0): 1}, 9.0)
    yield made
    made.close()


def all_pages(path: str, selection: Selection, **options: object) -> list[Entry]:
    found, after, counts = [], "", set()
    while True:
        got = page(path, Listing(selection, after=after, **options))
        found += got.entries
        counts.add(got.count)
        after = got.next
        if not after:
            assert counts == {len(found)}
            return found
        assert len(got.entries) == options.get("limit", 100)


@pytest.mark.usefixtures("catalog")
@pytest.mark.parametrize("limit", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["path", "size", "used", "hits"])
def test_all_pages_together_have_each_object_once_and_in_order(
    path: str, sort: SortBy, order: str, limit: int
) -> None:
    found = all_pages(path, Selection.everything(), sort=sort, order=order, limit=limit)
    keys = [(getattr(one, sort), one.name) for one in found]
    if sort == "path":
        keys = [(text.encode("utf-8", "surrogateescape"), name) for text, name in keys]
    assert keys == sorted(keys, reverse=order == "desc")
    assert len({one.name for one in found}) == len(found) == 8


@pytest.mark.usefixtures("catalog")
@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize(
    ("selection", "paths"),
    [
        (Selection.of(prefix="/a/"), ["a/1", "a/2", "a/2", "a/b/c", "a/\udcff\udcff"]),
        (Selection.of(prefix="a\udcff"), ["a\udcff/1"]),
        (Selection.of(glob="/*/1"), ["a/1", "a\udcff/1", "b/1"]),
        (Selection.of(glob="a/**/c"), ["a/b/c"]),
        (Selection.of(path="/a/2"), ["a/2", "a/2"]),
        (Selection.of(path="/a/3"), []),
        (Selection.of(prefix="c"), []),
    ],
)
def test_only_what_is_selected_is_listed(
    path: str, selection: Selection, paths: list[str], limit: int
) -> None:
    assert [one.path for one in all_pages(path, selection, limit=limit)] == paths


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_to_see_all_pages_each_object_is_looked_at_once(
    path: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.open(path, capacity=GiB)
    count = 2000
    catalog.add([NewEntry(object_name(n), f"a/{n:04}", 1, 4096, 1.0) for n in range(count)])
    catalog.close()
    looked, matches = [], Selection.matches

    def counted(selection: Selection, name: str) -> bool:
        looked.append(name)
        return matches(selection, name)

    monkeypatch.setattr(Selection, "matches", counted)
    found: list[Entry] = []
    after, pages = "", 0
    while pages == 0 or after:
        listing = Listing(Selection.of(glob="/*/*[0-4]"), order=order, limit=50, after=after)
        some, after = entries(path, listing)
        found += some
        pages += 1
    names = [one.path for one in found]
    assert names == sorted(names, reverse=order == "desc")
    assert len(set(names)) == count // 2 and pages == 20
    assert len(looked) <= count + 10 * pages  # those between two pages again


def test_what_is_added_or_goes_meanwhile_moves_nothing_else(path: str, catalog: Catalog) -> None:
    whole = Selection.everything()
    first = page(path, Listing(whole, limit=3))
    catalog.remove([first.entries[2].name])  # the one that the cursor is at
    catalog.add(NewEntry(object_name(90), "a/0", 1, 4096, 1.0))  # before it: not seen any more
    catalog.add(NewEntry(object_name(91), "z", 1, 4096, 1.0))
    rest = page(path, Listing(whole, limit=100, after=first.next))
    names = [one.name for one in (*first.entries, *rest.entries)]
    assert object_name(91) in names and object_name(90) not in names
    assert len(names) == len(set(names)) == 9


def test_an_entry_says_whether_its_path_is_pinned(path: str, catalog: Catalog) -> None:
    catalog.pin({key_of(object_name(1)): "a/2"})
    pinned = [one.name for one in all_pages(path, Selection.everything()) if one.pinned]
    assert sorted(pinned) == sorted([object_name(1), object_name(1, version=5)])
    assert pinned[0][33:] == page(path, Listing(Selection.of(path="a/2"))).entries[0].version


def _cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize(
    "options",
    [
        {"sort": "name"},
        {"order": "up"},
        {"limit": 0},
        {"limit": MOST + 1},
        {"after": "x"},
        {"after": "é"},
        {"after": _cursor("path", "asc", 5, "00")},
        {"after": _cursor("path", "asc", "xx", "00")},
        {"after": _cursor("path", "desc", "00", "00")},
        {"after": _cursor("size", "asc", "00", "00"), "sort": "size"},
        {"after": _cursor("size", "asc", True, "00"), "sort": "size"},
        {"after": _cursor("size", "asc", [1], "00"), "sort": "size"},
        {"after": _cursor("size", "asc")},
        {"after": base64.urlsafe_b64encode(b"[" * 100_000).decode()},
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not one of|not in 1 to|was not given"):
        Listing(Selection.everything(), **options)


def test_a_catalog_that_is_not_there_or_broken_says_so(path: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogReplaced):
        page(path, Listing(Selection.everything()))
    assert list(tmp_path.iterdir()) == []
    Path(path).write_bytes(b"no catalog" * 1000)
    with pytest.raises(CatalogCorrupt):
        page(path, Listing(Selection.everything()))
