"""``streamcache sign``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from streamcache.access.signing import Keys, Outcome, verify
from streamcache.cli import main
from streamcache.commands.sign import SignArguments, signed
from streamcache.errors import ConfigError
from streamcache.http.target import resolve

NOW = 1_767_225_600.25
TEXT = b"k1 " + b"5e" * 32 + b"\n"


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "keys"
    path.write_bytes(TEXT)
    return str(path)


def sign(target: str, key_file: str, expires: str = "2h", *, prefix: bool = False) -> str:
    return signed(SignArguments(target, key_file, expires, prefix), NOW)


def outcome(url: str, now: float = NOW) -> tuple[Outcome, str]:
    target = url.removeprefix("http://h:80").removeprefix("https://h")
    found = verify(Keys.parse(TEXT), resolve("GET", target), target, now)
    return found.outcome, found.path


@pytest.mark.parametrize(
    ("target", "begin", "path"),
    [
        ("/a.mp4", "/a.mp4?grant=f.", "/a.mp4"),
        ("/a b%20#?é.mp4", "/a%20b%2520%23%3F%C3%A9.mp4?grant=f.", "/a b%20#?é.mp4"),
        ("/x/../a.mp4", "/a.mp4?grant=f.", "/a.mp4"),
        ("/bad\udcff.mp4", "/bad%FF.mp4?grant=f.", "/bad\udcff.mp4"),
        ("http://h:80/a%20b.mp4", "http://h:80/a%20b.mp4?grant=f.", "/a b.mp4"),
        ("https://h/a.mp4?x=1#t=5", "https://h/a.mp4?x=1&grant=f.", "/a.mp4"),
    ],
)
def test_a_file_s_url(target: str, begin: str, path: str, key_file: str) -> None:
    url = sign(target, key_file)
    assert url.startswith(begin)
    assert outcome(url) == (Outcome.OK, path)
    assert outcome(url, NOW + 7199) == (Outcome.OK, path)
    assert outcome(url, NOW + 7200) == (Outcome.EXPIRED, path)


@pytest.mark.parametrize(
    ("target", "begin", "end"),
    [
        ("http://h:80/f/x/main.m3u8", "http://h:80/grant=2.", "/f/x/main.m3u8"),
        ("http://h:80/f/x/main.m3u8?v=2", "http://h:80/grant=2.", "/f/x/main.m3u8?v=2"),
        ("/f/x/", "/grant=2.", "/f/x/"),
        ("/a.mp4", "/grant=0.", "/a.mp4"),
        ("http://h:80", "http://h:80/grant=0.", "/"),
    ],
)
def test_a_folder_s_url(target: str, begin: str, end: str, key_file: str) -> None:
    url = sign(target, key_file, prefix=True)
    assert url.startswith(begin) and url.endswith(end)
    assert outcome(url)[0] is Outcome.OK
    assert outcome(url.partition("?")[0].rpartition("/")[0] + "/other.ts")[0] is Outcome.OK


@pytest.mark.parametrize(
    ("target", "expires", "problem"),
    [
        ("a.mp4", "2h", "neither a URL"),
        ("ftp://h/a", "2h", "neither a URL"),
        ("/a/", "2h", "names a folder, not a file; with --prefix"),
        ("http://h", "2h", "names a folder, not a file; with --prefix"),
        ("/../a", "2h", "names no file: path leaves the root"),
        ("http://h/a b", "2h", "names no file"),
        ("http://h/a?grant=x", "2h", "is signed already"),
        ("http://h/grant=x/a", "2h", "is signed already"),
        ("/a", "", "--expires"),
        ("/a", "soon", "--expires"),
        ("/a", "-1h", "--expires"),
        ("/a", "0", "--expires"),
        ("/a", "99999999999999999999d", "--expires"),
    ],
)
def test_what_cannot_be_signed(target: str, expires: str, problem: str, key_file: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sign(target, key_file, expires)
    assert problem in str(caught.value)


def test_a_key_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--key-file: .*No such file"):
        sign("/a", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"--key-file: .*Is a directory"):
        sign("/a", str(tmp_path))
    (tmp_path / "keys").write_bytes(b"k1 secret")
    with pytest.raises(ConfigError, match=r"--key-file: .*line 1") as caught:
        sign("/a", str(tmp_path / "keys"))
    assert "secret" not in str(caught.value).removeprefix(str(tmp_path))


def test_scripts_get_the_time_too(key_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", "/a.mp4", "--key-file", key_file, "--expires", "2h", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert f"grant=f.{told['expires']}.k1." in told["url"]
    assert told["expires"] - time.time() == pytest.approx(7200, abs=60)
