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


def mount_of(path: str) -> Mount | None:
    """The mount that the absolute, resolved ``path`` lies on; None where /proc does not tell.

    Does not touch ``path`` itself (proc_pid_mountinfo(5)).
    """
    try:
        with open(_MOUNTINFO, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    found: Mount | None = None
    for line in lines:
        left, _, right = line.partition(b" - ")
        fields, device = left.split(b" "), right.split(b" ")
        point = _unescape(fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # Later lines lie over earlier ones, so an equal length replaces.
        if inside and (found is None or len(point) >= len(found.point)):
            found = Mount(point, _unescape(device[0]), _unescape(device[1]), _unescape(fields[3]))
    return found


def _unescape(field: bytes) -> str:
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        field = field.replace(code, bytes([int(code[1:], 8)]))
    return os.fsdecode(field)
