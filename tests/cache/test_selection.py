"""Which files are meant: a path, a prefix, a glob."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.cache.selection import Selection


@pytest.mark.parametrize(
    ("glob", "these", "not_these"),
    [
        ("/a/*.mp4", ["a/b.mp4", "a/.mp4"], ["a/b/c.mp4", "a/b.mp4x", "b.mp4", "a/b.mp4/"]),
        ("*.mp4", ["b.mp4"], ["a/b.mp4"]),
        ("**/*.mp4", ["b.mp4", "a/b.mp4", "a/b/c.mp4"], ["b.mkv", "a/b.mp4/c"]),
        ("/a/**", ["a/b", "a/b/c"], ["a", "a/", "b/a/c"]),
        ("/a/**/c", ["a/c", "a/b/c", "a/b/b/c"], ["a/bc", "c", "a/b/cc"]),
        ("/a?[x-z]", ["abz", "ayx"], ["a/z", "abw", "abzz"]),
        ("/[!a]b", ["cb", "üb"], ["ab", "/b", "b"]),
        ("/a[]]", ["a]"], ["a[", "a"]),
        ("/a[!]]", ["ab"], ["a]"]),
        ("/x[.-0]y", ["x.y", "x0y"], ["x/y"]),
        ("/a[[]b", ["a[b"], ["ab"]),
        ("/a^$.\n", ["a^$.\n"], ["a^$x\n"]),
        ("/a**b", ["ab", "axb"], ["a/b"]),
        ("/a[^-]", ["a^", "a-"], ["ab"]),
        ("/\udcff*", ["\udcffx"], ["x"]),
    ],
)
def test_a_glob_is_the_shells(glob: str, these: list[str], not_these: list[str]) -> None:
    chosen = Selection.of(glob=glob)
    assert [path for path in these + not_these if chosen.matches(path)] == these


@given(st.text("ab*?[]!-.", max_size=8), st.text("ab.-]", max_size=8))
def test_within_one_name_it_is_that_of_fnmatch(glob: str, name: str) -> None:
    try:
        chosen = Selection.of(glob=glob)
    except ValueError:
        return
    if name and "**" not in glob:
        assert chosen.matches(name) == fnmatch.fnmatchcase(name, glob)


def test_many_stars_take_no_longer_than_few() -> None:
    begun = time.process_time()
    assert not Selection.of(glob="*a" * 50 + "b").matches("a" * 200)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "one of path, prefix and glob"),
        ({"path": "/a", "glob": "b"}, "one of path, prefix and glob"),
        ({"path": "/"}, "names no file"),
        ({"path": "/a/../b"}, "names no file"),
        ({"path": "/a//b"}, "names no file"),
        ({"prefix": "a\0"}, "NUL"),
        ({"glob": "x" * 5000}, "4096"),
        ({"glob": "/a[b"}, "not closed"),
        ({"glob": "/a[z-b]"}, "has no letters"),
        ({"glob": "**/" * 9 + "a"}, "at most 8"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("*", "[*]")):
        Selection.of(**given)


def test_a_prefix_is_a_beginning_and_no_folder() -> None:
    chosen = Selection.of(prefix="/a/b")
    assert [path for path in ("a/b", "a/bc", "a/b/c", "a/c", "xa/b") if chosen.matches(path)] == [
        "a/b",
        "a/bc",
        "a/b/c",
    ]
    assert Selection.everything().matches("x") and Selection.of(prefix="/").is_everything


@pytest.mark.parametrize(
    ("chosen", "literal", "folder", "deepest", "text"),
    [
        (Selection.of(path="/a/b"), "a/b", "a", 2, "/a/b"),
        (Selection.of(prefix="a/b"), "a/b", "a", None, "/a/b..."),
        (Selection.of(glob="/a/b*/c?"), "a/b", "a", 3, "/a/b*/c?"),
        (Selection.of(glob="/**/c"), "", "", None, "/**/c"),
        (Selection.everything(), "", "", None, "/"),
    ],
)
def test_where_a_look_for_them_begins_and_how_deep_it_goes(
    chosen: Selection, literal: str, folder: str, deepest: int | None, text: str
) -> None:
    assert (chosen.literal, chosen.folder, chosen.deepest) == (literal, folder, deepest)
    assert str(chosen) == text
