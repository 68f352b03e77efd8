"""The daemon on a real network file system: sshfs."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.clients.conftest import run
from tests.content import verify, write
from tests.daemon_process import DaemonProcess
from tests.requirements import program

SIZE = 5 * 1024 * 1024 + 1


def test_files_on_sshfs_are_served_and_their_changes_seen(
    sshfs, daemon: Callable[..., DaemonProcess]
) -> None:
    curl = (program("curl"), "--silent", "--show-error", "--fail", "--max-time", "60")
    write(sshfs.backing, "a/film.mp4", SIZE)
    server = daemon(sshfs.path, "--revalidate", "100ms")
    url = server.url + "a/film.mp4"
    assert verify("a/film.mp4", 3_000_000, run(*curl, "--range", "3000000-3999999", url)) is None
    body = run(*curl, url)
    assert len(body) == SIZE
    assert verify("a/film.mp4", 0, body) is None
    write(sshfs.backing, "a/film.mp4", SIZE - 1000, content_name="second", age=1800)
    deadline = time.monotonic() + 10  # the change is seen when the version is asked for again
    while len(body) == SIZE and time.monotonic() < deadline:
        body = run(*curl, url)
    assert len(body) == SIZE - 1000
    assert verify("second", 0, body) is None
