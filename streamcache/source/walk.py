"""What files there are at the source, below a folder: found in pieces. Worker-thread functions.

Each piece looks at a bounded number of names, as each may cost a question to a far server. Folders
are entered by name and never by a symbolic link, so no loop is walked; a link to a file is one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

_NAMES: Final = 200  # looked at in one piece


@dataclass(frozen=True, slots=True)
class Walked:
    """A file of the source, or a folder that could not be read (``error``)."""

    path: str  # "a/b.mp4", relative to the root
    size: int  # bytes
    error: str = ""


def walk(
    open_path: Callable[[str, int], int],
    folder: str,
    *,
    is_meant: Callable[[str], bool],
    may_hold: Callable[[str], bool],
) -> Iterator[list[Walked]]:
    """The files below ``folder`` ("" is the root) that are meant; a piece each time it is asked.

    ``open_path(path, flags)`` opens beneath the root, and raises OSError. ``may_hold`` says of a
    folder ("a/") whether to enter it. Names that begin with a dot are left out: snapshots of file
    servers, files that are being moved there. Raises what opening ``folder`` raises.
    """
    folders = [folder]
    piece: list[Walked] = []
    looked = 0
    while folders:
        inside = folders.pop()
        try:
            fd = open_path(inside or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)
        except OSError as error:
            if inside == folder:
                raise
            piece.append(Walked(inside, 0, error.strerror or str(error)))
            continue
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    looked += 1
                    if not entry.name.startswith("."):
                        path = f"{inside}/{entry.name}" if inside else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            if may_hold(path + "/"):
                                folders.append(path)
                        elif is_meant(path):
                            piece += _look(open_path, path, entry, fd)
                    if looked >= _NAMES:
                        yield piece
                        piece, looked = [], 0
        except OSError as error:
            piece.append(Walked(inside, 0, error.strerror or str(error)))
        finally:
            os.close(fd)
    yield piece


def _look(
    open_path: Callable[[str, int], int], path: str, entry: os.DirEntry[str], folder: int
) -> list[Walked]:
    """The file, if it is one."""
    try:
        if not entry.is_symlink():
            status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
        else:
            fd = open_path(path, os.O_PATH)
            try:
                status = os.fstat(fd)
            finally:
                os.close(fd)
    except OSError:
        return []  # it went, or the link leads out of the root: nobody is served it either
    return [Walked(path, status.st_size)] if stat.S_ISREG(status.st_mode) else []
