"""aria2c: one file over eight connections."""

from __future__ import annotations

from pathlib import Path

from tests.clients.conftest import Site, digest, run
from tests.content import write
from tests.requirements import program


def test_eight_connections_fetch_one_cold_file(site: Site, tmp_path: Path) -> None:
    aria2c = program("aria2c")
    size = 24 * 1024 * 1024 + 7
    original = write(site.slowfs.backing, "film.mkv", size)
    run(
        *(aria2c, "--no-conf", "--quiet", "--file-allocation=none", "--max-tries=1"),
        *("--max-connection-per-server=8", "--split=8", "--min-split-size=1M"),
        *("--dir", tmp_path, "--out", "film.mkv", site.url("film.mkv")),
    )
    assert digest(tmp_path / "film.mkv") == digest(original)
    assert site.slowfs.counters("film.mkv").bytes_read == size
    assert site.read_once("film.mkv")
