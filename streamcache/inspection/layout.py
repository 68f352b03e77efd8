"""The layout of a cache directory: are its folders there, and is there nothing else?"""

from __future__ import annotations

import os
import stat
from functools import partial

from streamcache.cache.names import FOLDERS, LOST, is_file_of_ours
from streamcache.inspection.directory import CacheDirectory
from streamcache.inspection.findings import Finding, Kind


def inspect_layout(directory: CacheDirectory) -> bool:
    """Whether there is more to look at. Raises OSError."""
    whole = True
    for folder in FOLDERS:
        path = directory.path(folder)
        try:
            kind = os.lstat(path).st_mode
        except FileNotFoundError:
            if folder != "pins":  # came with a later version
                directory.tell(Finding(Kind.LAYOUT, folder, "missing"), partial(_make, path))
                whole = whole and os.path.isdir(path)
            continue
        if not stat.S_ISDIR(kind):
            directory.tell(Finding(Kind.LAYOUT, folder, "no directory"))
            whole = False
    for file in sorted(os.listdir(directory.path())):
        if file not in FOLDERS and not (is_file_of_ours(file) or _is_lost(directory.path(file))):
            directory.tell_foreign(file)
    return whole


def _is_lost(path: str) -> bool:
    """Whether this is the folder that a file system keeps at its top for what it finds again."""
    return os.path.basename(path) == LOST and stat.S_ISDIR(os.lstat(path).st_mode)


def _make(path: str) -> bool:
    os.mkdir(path, 0o700)
    return True
