"""Small file systems of this machine, as root: in memory, and on a disk that can break down."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.requirements import missing, program

BIND = 4096  # MS_BIND
DETACH = 2  # MNT_DETACH

_libc = ctypes.CDLL(None, use_errno=True)


def mount(device: str, target: Path, kind: str, options: str = "", flags: int = 0) -> None:
    """mount(2), or the test ends as ``missing`` says."""
    if os.geteuid() != 0:
        missing("mounting needs root")
    arguments = (device.encode(), os.fsencode(target), kind.encode(), flags, options.encode())
    if _libc.mount(*arguments):
        missing(f"no {kind or 'bind'} mount here: {os.strerror(ctypes.get_errno())}")


def unmount(target: Path) -> None:
    """At once; open files keep it alive until they are closed."""
    _libc.umount2(os.fsencode(target), DETACH)


@contextlib.contextmanager
def tmpfs(target: Path, options: str) -> Iterator[Path]:
    """``options``: "size=8m,nr_inodes=100". It hides what is at ``target``."""
    target.mkdir(exist_ok=True)
    mount("tmpfs", target, "tmpfs", options)
    try:
        yield target
    finally:
        unmount(target)


@contextlib.contextmanager
def bound(what: Path, target: Path) -> Iterator[None]:
    """A directory is seen at ``target`` as well."""
    mount(str(what), target, "", flags=BIND)
    try:
        yield
    finally:
        unmount(target)


@dataclass(frozen=True, slots=True)
class Disk:
    """A loop device with an ext4 on it."""

    device: str

    def break_down(self) -> None:
        """The file system finds an error, and is read-only from now on."""
        name = os.path.basename(self.device)
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("a test")


@contextlib.contextmanager
def ext4(target: Path, size: int) -> Iterator[Disk]:
    """Of ``size`` bytes."""
    if os.geteuid() != 0:
        missing("mounting needs root")
    target.mkdir()
    image = target.with_suffix(".img")
    with open(image, "wb") as file:
        file.truncate(size)
    subprocess.run([program("mkfs.ext4"), "-q", "-F", str(image)], check=True)
    losetup = program("losetup")
    found = subprocess.run(
        [losetup, "--find", "--show", str(image)], stdout=subprocess.PIPE, text=True, check=False
    )
    device = found.stdout.strip()
    if not device:
        missing("no loop device here")
    try:
        mount(device, target, "ext4", "errors=remount-ro")
        try:
            yield Disk(device)
        finally:
            unmount(target)
    finally:
        subprocess.run([losetup, "--detach", device], check=False)
