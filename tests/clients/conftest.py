"""A daemon with a cold cache on the slow file system, and media to ask it for."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon_process import DaemonProcess
from tests.media import Media
from tests.slowfs import SlowFS

TIMEOUT = 120.0  # s a client may take


@dataclass(frozen=True, slots=True)
class Site:
    """What the client tests work with."""

    slowfs: SlowFS
    server: DaemonProcess

    def url(self, name: str) -> str:
        """Where a file is."""
        return self.server.url + name

    def original(self, name: str) -> Path:
        """The file behind the slow mount."""
        return self.slowfs.backing / name

    def read_once(self, *names: str) -> bool:
        """Whether no byte of these files was read twice at the source, and some were read."""
        return all(
            self.slowfs.counters(name).bytes_read > 0 and self.slowfs.repeated(name) == 0
            for name in names
        )


@pytest.fixture
def site(slowfs: SlowFS, daemon: Callable[..., DaemonProcess]) -> Site:
    """A daemon on the slow file system, both empty."""
    return Site(slowfs, daemon(slowfs.path))


@pytest.fixture
def theatre(site: Site, media: Media) -> Site:
    """The same with the media files."""
    shutil.copytree(media.root, site.slowfs.backing, dirs_exist_ok=True)  # keeps their times
    return site


def run(*command: str | Path, cwd: Path | None = None) -> bytes:
    """The standard output of a program that must succeed."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
