"""Mounting and unmounting a FUSE file system: mount(2) as root, fusermount3 for others."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MNT_DETACH = 2
PR_SET_TIMERSLACK = 29
MAX_READ = 1024 * 1024  # bytes of one READ at most: rsize=1M

_libc = ctypes.CDLL(None, use_errno=True)


def unsupported() -> str | None:
    """Why FUSE cannot be mounted here, or None when it can."""
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse (kernel module fuse, or a container without it)"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "mounting FUSE needs root, or fusermount3 (apt package fuse3)"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    return None


def mount(target: str, *, writable: bool = False) -> int:
    """Mount a FUSE file system on ``target``; the descriptor that serves it."""
    return (_mount_as_root if os.geteuid() == 0 else _mount_as_user)(target, writable)


def _mount_as_root(target: str, writable: bool) -> int:
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={MAX_READ}"
    flags = MS_NOSUID | MS_NODEV | (0 if writable else MS_RDONLY)
    if _libc.mount(b"slowfs", os.fsencode(target), b"fuse.slowfs", flags, options.encode()) != 0:
        error = ctypes.get_errno()
        os.close(fd)
        raise OSError(error, f"mount: {os.strerror(error)}", target)
    return fd


def _mount_as_user(target: str, writable: bool) -> int:
    mode = "rw" if writable else "ro"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            [
                "fusermount3",
                "-o",
                f"{mode},nosuid,nodev,fsname=slowfs,subtype=slowfs,max_read={MAX_READ}",
                "--",
                target,
            ],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            check=True,
        )
        _data, fds, _flags, _address = socket.recv_fds(ours, 1, 1)
    os.set_inheritable(fds[0], False)
    return fds[0]


def unmount(target: str) -> None:
    """Take the mount off the tree at once; open files keep it alive until they are closed."""
    if os.geteuid() == 0:
        _libc.umount2(os.fsencode(target), MNT_DETACH)
    else:
        with contextlib.suppress(OSError):
            subprocess.run(["fusermount3", "-u", "-z", "-q", "--", target], check=False)


def exact_timers() -> None:
    """Have this process's sleeps end when they should, not within 50 us after it."""
    _libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


def device(target: str) -> str | None:
    """ "major:minor" of what is mounted on ``target``, without asking that file system."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        found = [fields[2] for fields in map(str.split, lines) if _unescape(fields[4]) == target]
    return found[-1] if found else None


def set_read_ahead(target: str, size: int) -> int | None:
    """Set the kernel's read-ahead for the mount; bytes it has now, None when unknown.

    FUSE starts with 128 KiB whatever the file system asks for; raising it needs root.
    """
    path = f"/sys/class/bdi/{device(target)}/read_ahead_kb"
    with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
        file.write(str(size // 1024))
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read()) * 1024
    except OSError:
        return None


def _unescape(field: str) -> str:
    """mountinfo writes blanks, tabs, newlines and backslashes as octal."""
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        field = field.replace("\\" + code, character)
    return field
