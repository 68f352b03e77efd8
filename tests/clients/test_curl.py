"""curl: whole files, ranges, resuming, many at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import Site, digest, run
from tests.content import BLOCK, content, verify, write
from tests.requirements import program

SIZE = 12 * 1024 * 1024 + 345


@pytest.fixture
def curl() -> tuple[str, ...]:
    """The command; it fails on an HTTP error and on a short body."""
    return (program("curl"), "--silent", "--show-error", "--fail", "--max-time", "60")


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, SIZE])
def test_a_whole_file(site: Site, curl, size: int) -> None:
    write(site.slowfs.backing, "film.mp4", size)
    assert run(*curl, site.url("film.mp4")) == content("film.mp4", 0, size)


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("0-99999", 0, 100_000),
        ("9000000-9999999", 9_000_000, 10_000_000),
        (f"{SIZE - 100}-", SIZE - 100, SIZE),
        ("-1000000", SIZE - 1_000_000, SIZE),
        (f"{SIZE - 10}-{SIZE + 10}", SIZE - 10, SIZE),
    ],
)
def test_a_range_of_a_cold_file(site: Site, curl, wanted: str, start: int, stop: int) -> None:
    write(site.slowfs.backing, "film.mp4", SIZE)
    body = run(*curl, "--range", wanted, site.url("film.mp4"))
    assert len(body) == stop - start
    assert verify("film.mp4", start, body) is None


def test_a_download_is_resumed(site: Site, curl, tmp_path: Path) -> None:
    original = write(site.slowfs.backing, "film.mp4", SIZE)
    target = tmp_path / "film.mp4"
    target.write_bytes(run(*curl, "--range", "0-4999999", site.url("film.mp4")))
    run(*curl, "--continue-at", "-", "--output", target, site.url("film.mp4"))
    assert digest(target) == digest(original)
    assert site.read_once("film.mp4")


def test_one_cold_file_is_fetched_many_times_at_once(site: Site, curl, tmp_path: Path) -> None:
    original = write(site.slowfs.backing, "film.mp4", SIZE)
    targets = [tmp_path / str(number) for number in range(8)]
    wanted = [word for t in targets for word in ("--output", t, site.url("film.mp4"))]
    run(*curl, "--parallel", "--parallel-immediate", *wanted)
    assert {digest(target) for target in targets} == {digest(original)}
    assert site.read_once("film.mp4")
    assert site.slowfs.counters("film.mp4").bytes_read == SIZE


def test_many_cold_files_are_fetched_at_once(site: Site, curl, tmp_path: Path) -> None:
    names = [f"reel {number}.mkv" for number in range(8)]
    for name in names:
        write(site.slowfs.backing, name, SIZE // 8)
    wanted = [
        word
        for name in names
        for word in ("--output", tmp_path / name, site.url(name.replace(" ", "%20")))
    ]
    run(*curl, "--parallel", "--parallel-immediate", *wanted)
    for name in names:
        assert digest(tmp_path / name) == digest(site.original(name))
    assert site.read_once(*names)
