"""Which file system a path lies on, by the kernel's own list: reading it asks no server."""

from __future__ import annotations

import os
from dataclasses import dataclass

_MOUNTINFO = "/proc/self/mountinfo"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system, as far as it can be told apart from another one."""

    point: str  # absolute path
    type: str  # "ext4", "nfs4", "fuse.sshfs" ...
    device: str  # "server:/export", "/dev/vda" ...
    root: str  # the directory of that file system that is mounted


def mounts() -> list[Mount]:
    """All that is mounted, the later over the earlier; [] where /proc does not tell.

    Touches no file system but /proc (proc_pid_mountinfo(5)).
    """
    try:
        with open(_MOUNTINFO, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        left, _, right = line.partition(b" - ")
        place, device = left.split(b" "), right.split(b" ")
        fields = (place[4], device[0], device[1], place[3])
        found.append(Mount(*map(_unescape, fields)))
    return found


def covering(mounted: list[Mount], path: str) -> Mount | None:
    """The mount that the absolute, resolved ``path`` lies on; None: not in the list."""
    found: Mount | None = None
    for mount in mounted:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def mount_of(path: str) -> Mount | None:
    """The mount that the absolute, resolved ``path`` lies on now; None where /proc does not tell.

    Does not touch ``path`` itself.
    """
    return covering(mounts(), path)


def _unescape(field: bytes) -> str:
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        field = field.replace(code, bytes([int(code[1:], 8)]))
    return os.fsdecode(field)
