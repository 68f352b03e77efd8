"""Whose a folder of the cache is: ours alone, or it is not used. Worker-thread functions.

Whoever may write there could put a file of their own under the name of an object, which is then
served as if it were the source's, and whoever may read there reads past all access control.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import Final

from streamcache.errors import CacheError

log = logging.getLogger(__name__)

_OTHERS: Final = 0o077  # rights of the group and of everybody


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
                "other users had rights to the cache directory %s; they are taken away old=%o",
                *(path, mode),
            )
        return status
    finally:
        os.close(fd)
