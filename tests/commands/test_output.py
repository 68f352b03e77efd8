"""Sizes, times, paths and tables for people."""

from __future__ import annotations

import io
import re
import time

import pytest

from streamcache.commands import output, progress
from streamcache.commands.progress import Progress
from streamcache.commands.show import picture
from streamcache.commands.targets import selection
from streamcache.errors import ConfigError


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_949, "1.00 MB"),
        (9_994_000, "9.99 MB"),
        (9_996_000, "10.0 MB"),
        (99_960_000, "100 MB"),
        (123_456_789_012, "123 GB"),
        (5e15, "5.00 PB"),
        (5e19, "50000 PB"),
    ],
)
def test_sizes_have_three_digits(count: float, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (86400 * 5 + 3600 * 3, "5 d 3 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


def test_a_path_does_nothing_to_the_terminal() -> None:
    assert output.path("a/\x1b[2J\u202eb\n\x9b") == "/a/\\x1b[2J\\x202eb\\x0a\\x9b"
    assert output.path("/a/\u00fc") == "/a/\u00fc"
    assert output.path("") == "(path not known)"


def test_columns_stand_under_each_other() -> None:
    text = output.table([("1", "a"), ("100", "long")], head=("N", "NAME"), right="r")
    assert text == "  N  NAME\n  1  a\n100  long"


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.coloured("x", output.RED, stream=Screen()) == "\x1b[31mx\x1b[0m"
    assert output.coloured("x", output.RED, stream=io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.coloured("x", output.RED, stream=Screen()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert output.coloured("x", output.RED, stream=Screen()) == "x"


def test_progress_is_a_bar_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    with Progress("warm", stream=screen) as line:
        line.show(25, 100, text="1 of 4 files [x]", rate=2e6, remaining=75)
        time.sleep(0.3)  # rich shows ten pictures a second
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"warm .* 25% 1 of 4 files \[x\]  2\.00 MB/s  1 min 15 s left", shown)
    assert screen.getvalue().endswith("\x1b[2K")


def test_without_a_terminal_or_rich_progress_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for stream in (io.StringIO(), Screen()):
        if stream.isatty():
            monkeypatch.setattr(progress.importlib.util, "find_spec", lambda _: None)
        with Progress("warm", stream=stream) as line:
            line.show(1, 4)  # it has only begun
            now[0] += 6
            line.show(2, 4, text="1 of 2 files", rate=2e6, remaining=75)
            line.show(3, 4)
        assert stream.getvalue() == (
            "streamcache: warm: 50.0 % (1 of 2 files, 2.00 MB/s, 1 min 15 s left)\n"
        )


@pytest.mark.parametrize(
    ("blocks", "readers", "shown"),
    [
        ([[1, 10]], [], "[##########]"),
        ([[0, 10]], [], "[----------]"),
        ([[1, 5], [0, 5]], [], "[#####-----]"),
        ([[1, 1], [0, 3], [1, 1]], [], "[##------##]"),
        ([[1, 1]], [], "[##########]"),
        ([[1, 50], [0, 100], [1, 50]], [], "[##+----+##]"),
        ([[1, 10]], [0, 99, 500, 1000], "[>####>###>]"),
        ([], [0], "[>---------]"),
    ],
)
def test_the_picture_of_a_copy(blocks: list[list[int]], readers: list[int], shown: str) -> None:
    assert picture(blocks, 1000, readers, 10) == shown


@pytest.mark.parametrize(
    ("target", "exact", "meant"),
    [
        ("/a/b.mp4", False, {"path": "/a/b.mp4"}),
        ("a/b.mp4", False, {"path": "/a/b.mp4"}),
        ("/a/", False, {"prefix": "/a/"}),
        ("/", False, {"prefix": "/"}),
        ("/a/*.mp4", False, {"glob": "/a/*.mp4"}),
        ("/a[1].mp4", True, {"path": "/a[1].mp4"}),
    ],
)
def test_what_a_target_means(target: str, exact: bool, meant: dict[str, str]) -> None:
    assert selection(target, exact=exact) == meant


def test_an_empty_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="stands for all files"):
        selection("")
