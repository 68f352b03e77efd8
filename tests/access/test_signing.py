"""Grants: what they are good for, and everything that they are not."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcache.access.signing import (
    MAX_EXPIRES,
    Keys,
    Outcome,
    in_path,
    parameters,
    redacted,
    sign,
    verify,
)
from streamcache.http.target import resolve

SECRET = bytes(range(32))
KEYS = Keys({"k1": SECRET})
NOW = 1_767_225_600
LATER = NOW + 3600


def look(target: str, keys: Keys = KEYS, now: float = NOW) -> Outcome:
    """What a request for this target comes to."""
    return verify(keys, resolve("GET", target), target, now).outcome


def test_the_format_is_what_the_documentation_says() -> None:
    text = f"streamcache grant 1\nf\n{LATER}\nk1\n/films/Amélie 1.mp4".encode()
    digest = hmac.new(SECRET, text, hashlib.sha256).digest()
    signature = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert sign(KEYS, "/films/Amélie 1.mp4", LATER) == f"f.{LATER}.k1.{signature}"
    text = f"streamcache grant 1\n2\n{LATER}\nk1\n/films/x/".encode()
    signature = base64.urlsafe_b64encode(hmac.digest(SECRET, text, "sha256")).decode()[:-1]
    assert sign(KEYS, "/films/x", LATER, folder=True) == f"2.{LATER}.k1.{signature}"


def test_a_file_s_grant() -> None:
    grant = sign(KEYS, "/films/a b.mp4", LATER)
    good = f"/films/a%20b.mp4?grant={grant}"
    assert look(good) is Outcome.OK
    assert look("/films/./x/../a%20b%2emp4?x=1&grant=" + grant + "&y=2") is Outcome.OK
    assert look("http://elsewhere:99" + good) is Outcome.OK
    assert look(in_path(grant, "/films/a%20b.mp4")) is Outcome.OK
    assert verify(KEYS, in_path(grant, "/films/a b.mp4"), "", NOW).path == "/films/a b.mp4"
    assert look(f"/films/a%20c.mp4?grant={grant}") is Outcome.BAD
    assert look(f"/films/a%20b.mp4/?grant={grant}") is Outcome.BAD
    assert look(f"/films/a%20b.mp4/x?grant={grant}") is Outcome.BAD
    assert look(f"/Films/a%20b.mp4?grant={grant}") is Outcome.BAD


def test_the_last_second_is_the_one_before_it_expires() -> None:
    target = f"/a?grant={sign(KEYS, '/a', LATER)}"
    assert look(target, now=LATER - 0.001) is Outcome.OK
    assert look(target, now=LATER) is Outcome.EXPIRED
    assert look(target, now=LATER + 10**9) is Outcome.EXPIRED


def test_only_a_right_signature_is_told_that_it_expired() -> None:
    grant = sign(KEYS, "/a", NOW - 1)
    assert look(f"/b?grant={grant}") is Outcome.BAD
    assert look(f"/a?grant={grant[:-1]}{'A' if grant[-1] != 'A' else 'B'}") is Outcome.BAD


@pytest.mark.parametrize(
    ("folder", "inside", "outside"),
    [
        ("/", ["/", "/a", "/a/b", "/grant/x"], []),
        ("/a", ["/a/", "/a/b", "/a/b/c"], ["/", "/a", "/ab", "/ab/c", "/b/a/c", "/A/b"]),
        ("/a/b/", ["/a/b/", "/a/b/c"], ["/a/b", "/a/bc", "/a/", "/a/c", "/b/a/c", "/a/c/b/x"]),
    ],
)
def test_a_folder_s_grant(folder: str, inside: list[str], outside: list[str]) -> None:
    grant = sign(KEYS, folder, LATER, folder=True)
    for path in inside:
        assert look(in_path(grant, path)) is Outcome.OK
        assert look(f"{path}?grant={grant}") is Outcome.OK
        assert verify(KEYS, in_path(grant, path), "", NOW).path == path
    for path in outside:
        assert look(in_path(grant, path)) is Outcome.BAD
        assert look(f"{path}?grant={grant}") is Outcome.BAD


def test_a_folder_is_not_left_by_dots() -> None:
    grant = sign(KEYS, "/a/b", LATER, folder=True)
    for way in ("/a/b/../c", "/a/b/%2e%2e/c", "/a/b/./../../a/c"):
        assert look(in_path(grant, way)) is Outcome.BAD
    assert look(in_path(grant, "/a/x/../b/c")) is Outcome.OK
    assert look(f"/x/..{in_path(grant, '/a/b/c')}") is Outcome.OK


def test_a_playlist_s_names_carry_the_grant_on() -> None:
    from urllib.parse import urljoin

    grant = sign(KEYS, "/films/x", LATER, folder=True)
    playlist = "http://h" + in_path(grant, "/films/x/main.m3u8")
    for name, path in (("1080/seg%201.ts", "/films/x/1080/seg 1.ts"), ("a.vtt", "/films/x/a.vtt")):
        target = urljoin(playlist, name).removeprefix("http://h")
        assert look(target) is Outcome.OK
        assert verify(KEYS, resolve("GET", target), target, NOW).path == path
    assert look(urljoin(playlist, "../y/a.ts").removeprefix("http://h")) is Outcome.BAD


def test_no_grant_is_missing() -> None:
    for target in (
        "/a",
        "/a?x=1",
        "/a?Grant=1",
        "/a?xgrant=1",
        "/grant/a",
        "/a/grant=1/b",
        "/a?grant",
    ):
        assert look(target) is Outcome.MISSING
    assert verify(KEYS, "", "*", NOW).outcome is Outcome.MISSING


def test_two_grants_are_none() -> None:
    grant = sign(KEYS, "/a", LATER)
    assert look(f"/a?grant={grant}&grant={grant}") is Outcome.BAD
    assert look(in_path(grant, f"/a?grant={grant}")) is Outcome.BAD


def test_a_grant_changed_in_any_character_is_bad() -> None:
    for grant in (sign(KEYS, "/a/b/c", LATER), sign(KEYS, "/a/b", LATER, folder=True)):
        assert look(f"/a/b/c?grant={grant}") is Outcome.OK
        for at in range(len(grant)):
            for character in "0129fkA_-.":
                changed = grant[:at] + character + grant[at + 1 :]
                if changed != grant:
                    assert look(f"/a/b/c?grant={changed}") is Outcome.BAD, changed
            assert look(f"/a/b/c?grant={grant[:at]}{grant[at + 1 :]}") is Outcome.BAD
            assert look(f"/a/b/c?grant={grant[:at]}") is Outcome.BAD


@pytest.mark.parametrize(
    "grant",
    ["", ".", "...", "f...", f"f.0{LATER}.k1.", f"00.{LATER}.k1.", f"f.+{LATER}.k1.",
     "f.\u0661.k1.",
     f"-1.{LATER}.k1.", f"1000.{LATER}.k1.", f"f.{10**12}.k1.", f"f.{LATER}..", f"f.{LATER}.k1",
     f"F.{LATER}.k1.", f"f.{LATER}.{'k' * 33}.", "f.1e9.k1.", f"f.{LATER}.k1.=", "%66.1.k1."],
)  # fmt: skip
def test_other_spellings_are_bad(grant: str) -> None:
    for text in (grant, grant + "A" * 43):
        assert verify(KEYS, "/a", f"/a?grant={text}", NOW).outcome is Outcome.BAD


def test_keys_are_changed_without_a_gap() -> None:
    old, new = Keys({"a": SECRET}), Keys({"b": bytes(32), "a": SECRET})
    before, after = sign(old, "/x", LATER), sign(new, "/x", LATER)
    assert (before.split(".")[2], after.split(".")[2]) == ("a", "b")
    assert look(f"/x?grant={before}", new) is Outcome.OK
    assert look(f"/x?grant={after}", new) is Outcome.OK
    assert look(f"/x?grant={after}", old) is Outcome.BAD
    assert look(f"/x?grant={before}", Keys({"a": bytes(32)})) is Outcome.BAD
    assert look(f"/x?grant={before}", Keys({"b": SECRET})) is Outcome.BAD


@pytest.mark.parametrize(
    "path", ["", "a", "/a/../b", "/./a", "//a", "/a//b", "/a\0", "/a/", "/\ud800", "*"]
)
def test_what_no_request_names_is_not_signed(path: str) -> None:
    with pytest.raises(ValueError):
        sign(KEYS, path, LATER)


@pytest.mark.parametrize("expires", [-1, MAX_EXPIRES + 1])
def test_times_that_no_grant_has(expires: int) -> None:
    with pytest.raises(ValueError):
        sign(KEYS, "/a", expires)


def test_a_folder_may_be_deep_but_not_endless() -> None:
    assert sign(KEYS, "/a" * 999, LATER, folder=True).startswith("999.")
    with pytest.raises(ValueError, match="too many"):
        sign(KEYS, "/a" * 1000, LATER, folder=True)


def test_a_key_file() -> None:
    text = b"# new\r\n\n  k2 " + b"Ab" * 32 + b"  \r\nk1\t" + b"00" * 40
    keys = Keys.parse(text)
    assert keys.secrets == {"k2": b"\xab" * 32, "k1": bytes(40)}
    assert keys.signing == "k2"
    assert "ab" * 32 not in repr(keys) and "xab" not in repr(keys)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "no key"),
        (b"# k1 00\n", "no key"),
        (b"k1", "line 1: not a key id"),
        (b"ok " + b"00" * 32 + b"\nk1 " + b"0g" * 32, "line 2: not a key id"),
        (b"k1 " + b"00" * 31 + b"0", "line 1: not a key id"),
        (b"k1 " + b"5e" * 31, "line 1: 31 bytes"),
        (b"k1 " + b"5e" * 2000, "line 1: 2000 bytes"),
        (b"k.1 " + b"5e" * 32, "line 1: a key id has"),
        (b"k\xff " + b"5e" * 32, "line 1: not a key id"),
        (b"k " + b"5e" * 32 + b" # mine", "line 1: not a key id"),
        (b"k " + b"5e" * 32 + b"\nk " + b"5e" * 32, "line 2: a second key"),
    ],
)
def test_a_bad_key_file_is_refused_by_line(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        Keys.parse(text)
    assert problem in str(caught.value)
    assert "5e5e" not in str(caught.value)


@pytest.mark.parametrize("secrets", [{}, {"k": b"short"}, {"k!": SECRET}, {"": SECRET}])
def test_bad_keys_are_refused(secrets: dict[str, bytes]) -> None:
    with pytest.raises(ValueError):
        Keys(secrets)


def test_the_log_gets_no_signature() -> None:
    grant = sign(KEYS, "/a", LATER)
    signature = grant.rpartition(".")[2]
    escaped = grant.replace(".", "%2E")
    for target in (
        *(f"/a?grant={grant}", f"/a?x=1&grant={grant}&y=2", in_path(grant, "/a")),
        *(f"http://h/a?grant={grant}", f"/grant%3D{grant}/a", f"/gr%61nt={grant}/a"),
        *(f"/a?grant={escaped}", f"/a?grant={grant}#x", f"/a?grant={grant}&grant={grant}"),
    ):
        assert signature in target
        assert signature not in redacted(target)
        assert str(LATER) in redacted(target)
        other = target.replace(signature, f"%{ord(signature[0]):02X}{signature[1:]}x")
        assert signature[1:] not in redacted(other), "escaped without need, or too long"
    for target in ("/a", "/films/a.b.mp4?x=y", "*", "/" + "a" * 200 + ".mp4"):
        assert redacted(target) == target


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=6)


@given(PATHS, st.integers(0, MAX_EXPIRES), st.data())
def test_what_was_signed_is_good_until_it_expires(
    names: list[str], expires: int, data: st.DataObject
) -> None:
    path = "/" + "/".join(names)
    depth = data.draw(st.integers(0, len(names) - 1))
    folder = "/" + "/".join(names[:depth])
    grants = [sign(KEYS, path, expires), sign(KEYS, folder, expires, folder=True)]
    for grant in grants:
        for asked, target in ((path, f"/?grant={grant}"), (in_path(grant, path), "/")):
            early = verify(KEYS, asked, target, expires - 1)
            late = verify(KEYS, asked, target, expires)
            assert (early.outcome, early.path) == (Outcome.OK, path)
            assert (late.outcome, late.path) == (Outcome.EXPIRED, path)


@given(st.text(), st.text())
def test_any_text_is_judged(path: str, query: str) -> None:
    found = verify(KEYS, path, f"/?{query}", NOW)
    has_one = path.startswith("/grant=") or bool(parameters(f"/?{query}"))
    assert found.outcome is (Outcome.BAD if has_one else Outcome.MISSING)
