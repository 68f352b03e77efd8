"""What a test needs from the machine: without it the test is skipped, and in CI it fails."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

from tests.bench.programs import PACKAGES as BENCH_PACKAGES

PACKAGES = {  # program -> apt package
    "aria2c": "aria2",
    "caddy": "caddy",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "curl": "curl",
    "bash": "bash",
    "ffmpeg": "ffmpeg",
    "ffprobe": "ffmpeg",
    "fish": "fish",
    "fusermount3": "fuse3",
    "promtool": "prometheus",
    "haproxy": "haproxy",
    "openssl": "openssl",
    "logrotate": "logrotate",
    "sftp-server": "openssh-sftp-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "losetup": "mount",
    "setpriv": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "sshfs": "sshfs",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "systemd-tmpfiles": "systemd",
    "zsh": "zsh",
    **BENCH_PACKAGES,
}
_ELSEWHERE = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/lib/openssh")


def missing(reason: str) -> NoReturn:
    """Skip the test because of ``reason``; with CI=true in the environment that is a failure."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"CI skips nothing, but: {reason}", pytrace=False)
    pytest.skip(reason)


def program(name: str) -> str:
    """The path of a program, or the test ends as ``missing`` says."""
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(_ELSEWHERE))
    if path is None:
        missing(f"no {name} on this machine (apt package {PACKAGES.get(name, name)})")
    return path
