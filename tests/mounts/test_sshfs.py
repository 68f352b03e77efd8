"""The sshfs mount of the tests shows the directory behind it, and goes away again."""

from __future__ import annotations

from pathlib import Path

from tests.content import verify, write
from tests.slowfs import mounting


def test_files_and_their_changes_show(sshfs) -> None:
    write(sshfs.backing, "a/film.mp4", 300_000)
    assert verify("a/film.mp4", 0, (sshfs.path / "a/film.mp4").read_bytes()) is None
    write(sshfs.backing, "a/film.mp4", 200_000, content_name="second")
    assert verify("second", 0, (sshfs.path / "a/film.mp4").read_bytes()) is None


def test_it_is_a_network_mount(sshfs) -> None:
    assert mounting.device(str(Path(sshfs.path).resolve())) is not None
