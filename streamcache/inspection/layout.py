"""The layout of a cache directory: are its folders there, and is there nothing else?"""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import Final

from streamcache.inspection.directory import CacheDirectory
from streamcache.inspection.findings import Finding, Kind

_OURS: Final = frozenset(
    {"format", "lock", "evictor", "mounts", "mounts.new", "probe", "catalog.lock"}
)
_FOLDERS: Final = ("objects", "partial", "trash", "pins")


def inspect_layout(directory: CacheDirectory) -> bool:
    """Whether there is more to look at. Raises OSError."""
    whole = True
    for folder in _FOLDERS:
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
        if file not in _OURS and file not in _FOLDERS and not file.startswith("catalog"):
            directory.tell_foreign(file)
    return whole


def _make(path: str) -> bool:
    os.mkdir(path, 0o700)
    return True
