"""Some seconds of viewers against the real daemon on a slow source: every byte is right."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.daemon_process import DaemonProcess
from tests.load.make_files import make
from tests.requirements import missing
from tests.slowfs import SlowFS

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 20
USERS = 24
KINDS = {"play", "seek (piece)", "seek (rest)", "zap", "premiere", "download (part)"}


def run_locust(url: str, *flags: str) -> tuple[int, list[dict], str]:
    """Exit code, rows of the statistics and log of a headless run."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "locust", "-f", "tests/load/locustfile.py"),
            *("--host", url, "--headless", "--users", str(USERS), "--spawn-rate", str(USERS)),
            *("--run-time", f"{SECONDS}s", "--json", "--loglevel", "WARNING", *flags),
        ],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS + 60,
        check=False,
    )
    rows = json.loads(done.stdout) if done.stdout.strip() else []
    return done.returncode, rows, done.stderr


def test_viewers_get_every_byte_and_the_source_gives_each_once(
    slowfs: SlowFS, daemon: Callable[..., DaemonProcess]
) -> None:
    if importlib.util.find_spec("locust") is None:
        missing("no locust in this Python (pip install '.[load]')")
    titles = make(slowfs.backing, films=8, premieres=4, size=6 * 1024 * 1024)
    server = daemon(slowfs.path)
    code, rows, log = run_locust(server.url, "--bitrate", "1.5", "--premiere-every", "3")
    failures = {row["name"]: row["num_failures"] for row in rows if row["num_failures"]}
    assert (code, failures) == (0, {}), log
    assert {row["name"] for row in rows if row["num_requests"]} >= KINDS
    total = sum(title.size for title in titles)
    assert slowfs.counters().bytes_read <= 1.02 * total
    assert [path for path in slowfs.paths_read() if slowfs.repeated(path)] == []
