"""Whose a directory of the cache is: ours alone, or it is not used. Worker-thread functions.

Whoever may write there could put a file of their own under the name of an object, which is then
served as if it were the source's, and whoever may read there reads past all access control. So
rights of others are taken away, but not before it is certain that the directory is a cache: a
mistyped name must not cost anybody theirs.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import Final

from streamcache.cache.marker import MARK, read_mark
from streamcache.cache.names import FOLDERS, LOST, is_file_of_ours
from streamcache.errors import CacheError, CacheForeign

log = logging.getLogger(__name__)

_OTHERS: Final = 0o077  # rights of the group and of everybody
ALLOWED: Final = "allowed: a new or an empty directory"


def expect_cache(root: str) -> None:
    """Look whether this directory may be a cache: it is not there, or empty, or is one already.

    Changes nothing. Raises CacheForeign that names what is not ours, OSError.
    """
    try:
        # Before the mark: who starts beside us makes that before the rest.
        names = sorted(os.listdir(root))
    except (FileNotFoundError, NotADirectoryError):
        return
    mark = read_mark(root)
    if mark == MARK:
        for name in ("lock", *FOLDERS):
            _expect_kind(root, name)
        return
    owner = os.stat(root).st_uid
    for name in names:
        if mark or not _is_left(root, name, owner, marked=mark is not None):
            raise CacheForeign(
                f"cache directory {root!r} is not empty and not a cache of streamcache (it has"
                f" {name!r}); {ALLOWED}"
            )


def _expect_kind(root: str, name: str) -> None:
    wanted, kind = (stat.S_ISREG, "file") if name == "lock" else (stat.S_ISDIR, "directory")
    path = os.path.join(root, name)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return  # it is made again
    if not wanted(mode):
        raise CacheForeign(
            f"cache directory {root!r}: {path!r} is in the way, where a {kind} is needed, and no"
            f" link; {ALLOWED}"
        )


def _is_left(root: str, name: str, owner: int, *, marked: bool) -> bool:
    """Whether this is of a start of ours that was cut short, or of the file system.

    ``marked``: the mark is there, without its text.
    """
    path = os.path.join(root, name)
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            empty = stat.S_ISREG(status.st_mode) and not status.st_size
            return is_file_of_ours(name) and (marked or empty)
        if name == LOST:
            return True
        return name in FOLDERS and status.st_uid == owner and (marked or not os.listdir(path))
    except FileNotFoundError:
        return True  # gone meanwhile


def make_ours(path: str) -> os.stat_result:
    """Make sure that this directory is ours, and only ours; what it is.

    Raises CacheError when it belongs to somebody else (to root it must belong too: its owner could
    have root write elsewhere) or is a symbolic link, OSError. Rights of others are taken away.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            raise CacheError(
                f"cache directory {path!r} belongs to another user (uid {status.st_uid}, and this"
                f" is uid {os.geteuid()}); run as that user, or name another directory"
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & _OTHERS:
            os.fchmod(fd, mode & ~_OTHERS)
            log.warning(
                "other users had rights to the cache directory, they are taken away dir=%r old=%s",
                *(path, f"{mode:o}"),
            )
        return status
    finally:
        os.close(fd)
