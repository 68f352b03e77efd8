"""Open a path beneath a directory so that no name, link or race leads out of it.

``openat2(2)`` with RESOLVE_BENEATH where the kernel has it (Linux 5.6), else one component at a
time with O_NOFOLLOW (which refuses every symbolic link). Worker-thread functions.
"""

from __future__ import annotations

import ctypes
import errno
import os

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_ATTEMPTS = 8  # EAGAIN: a rename was under way while ".." or a link was resolved

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(root: int, path: str, flags: int) -> int:
    """Open ``path`` relative to the directory descriptor ``root``; a new descriptor.

    Raises OSError; EXDEV and ELOOP mean that the path leads out of the root.
    """
    if "\0" in path:  # the system would take what is before it for the name
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    flags |= os.O_CLOEXEC
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path)
    for _ in range(_ATTEMPTS):
        fd = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(root),
            ctypes.c_char_p(name),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EPERM):  # EPERM: an old container's seccomp filter
            return open_by_components(root, path, flags)
        if code != errno.EAGAIN:
            raise OSError(code, os.strerror(code), path)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def open_by_components(root: int, path: str, flags: int) -> int:
    """The same without openat2: one component per step, no symbolic link at all."""
    *folders, last = path.split("/")
    if ".." in folders or last == "..":
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    at = root
    try:
        for folder in folders:
            step = os.open(
                folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at
            )
            if at != root:
                os.close(at)
            at = step
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        if at != root:
            os.close(at)
