"""The file ``format``: that a directory is a cache of ours, and of which format. Worker threads.

In a new directory it comes right behind ``lock``, and is durable before anything else is made:
where there is anything else and no such file, the directory is somebody's.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from streamcache.cache.names import sync_directory
from streamcache.cache.partial import FORMAT
from streamcache.errors import CacheForeign

MARK: Final = f"streamcache {FORMAT}\n"
_NAME: Final = "format"
_OURS: Final = "streamcache "  # how the mark of any version begins
_NO_FILE: Final = "?"


def read_mark(root: str) -> str | None:
    """What the file says; "" when a crash came before that was written, None: there is none.

    Raises CacheForeign for a cache of another format, OSError. Any other text is not ours.
    """
    path = os.path.join(root, _NAME)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        text = os.read(fd, 200).decode("ascii", "replace") if regular else _NO_FILE
    finally:
        os.close(fd)
    if text.startswith(_OURS) and text != MARK:
        raise CacheForeign(
            f"cache directory {root!r} is of another format ({text.strip()!r}, not"
            f" {MARK.strip()!r}); allowed: another directory, or this one once it is empty"
        )
    return text


def write_mark(root: str) -> None:
    """The directory is ours from now on, also after a power cut. Raises OSError."""
    with open(os.path.join(root, _NAME), "w", encoding="ascii") as file:
        file.write(MARK)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(root)
