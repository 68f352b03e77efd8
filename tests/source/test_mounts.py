"""The kernel's list of mounts, read and understood."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamcache.source import mounts
from streamcache.source.mounts import Mount, mount_of

LIST = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
40 22 0:40 / /mnt rw - tmpfs tmpfs rw
41 40 0:41 / /mnt/films rw - nfs4 server:/export/films rw,vers=4.2
42 40 0:42 /sub /mnt/films rw shared:2 master:1 - fuse.sshfs me@host:/films rw
43 40 0:43 / /mnt/with\040space\011tab\134back rw - nfs server:/a\040b rw
44 40 0:44 / /mnt/filmstrip rw - xfs /dev/vdb rw
"""


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mountinfo"
    path.write_bytes(LIST)
    monkeypatch.setattr(mounts, "_MOUNTINFO", str(path))


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/home", Mount("/", "ext4", "/dev/vda", "/")),
        ("/", Mount("/", "ext4", "/dev/vda", "/")),
        ("/mnt", Mount("/mnt", "tmpfs", "tmpfs", "/")),
        ("/mnt/films/a/b", Mount("/mnt/films", "fuse.sshfs", "me@host:/films", "/sub")),
        ("/mnt/filmstrip", Mount("/mnt/filmstrip", "xfs", "/dev/vdb", "/")),
        ("/mnt/filmsx", Mount("/mnt", "tmpfs", "tmpfs", "/")),
        (
            "/mnt/with space\ttab\\back/x",
            Mount("/mnt/with space\ttab\\back", "nfs", "server:/a b", "/"),
        ),
    ],
)
def test_a_path_lies_on_the_deepest_and_last_mount(path: str, mount: Mount) -> None:
    assert mount_of(path) == mount


def test_without_proc_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_MOUNTINFO", "/nonexistent/mountinfo")
    assert mount_of("/") is None


def test_the_machines_own_list(tmp_path: Path) -> None:
    found = mount_of("/proc/self")
    assert found is not None
    assert (found.point, found.type) == ("/proc", "proc")
    here = mount_of(os.path.realpath(tmp_path))
    assert here is not None
    assert os.path.ismount(here.point)
