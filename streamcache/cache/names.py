"""The names of files in a cache directory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import Final

FOLDERS: Final = ("objects", "partial", "trash", "pins")
LOST: Final = "lost+found"  # made by mkfs.ext4 where the directory is a mount point

_FILES: Final = frozenset({"format", "lock", "evictor", "mounts", "mounts.new", "probe"})
_HEX = frozenset("0123456789abcdef")
_DIGITS: Final = 32  # of a key, and of a version


def is_file_of_ours(name: str) -> bool:
    """Whether we give a file beside the folders this name: one of a few, or of the catalog."""
    return name in _FILES or name.startswith("catalog")


def is_key(text: str) -> bool:
    """Whether this is 32 hexadecimal digits, as a key is, and a version."""
    return len(text) == _DIGITS and _HEX.issuperset(text)


def is_name(text: str) -> bool:
    """Whether this is "<key>.<version>"."""
    key, dot, version = text.partition(".")
    return bool(dot) and is_key(key) and is_key(version)


def name_of(key: str, version: str) -> str:
    """The name of that version's object and partial: "<key>.<version>"."""
    return f"{key}.{version}"


def key_of(name: str) -> str:
    """The key in a name."""
    return name[:_DIGITS]


def version_of(name: str) -> str:
    """The version in a name."""
    return name[_DIGITS + 1 :]


def key_for(source: str, identity: str, path: str) -> str:
    """The key of a path ("a/b.mp4") at the source of this id, with ``source.identity``."""
    digest = hashlib.blake2b(digest_size=16, person=b"key")
    digest.update(encoded(source) + b"\0")
    if identity != "mtime":  # its versions are others: who shares the directory keeps its own
        digest.update(identity.encode("ascii") + b"\0")
    digest.update(encoded(path))
    return digest.hexdigest()


def encoded(path: str) -> bytes:
    """A path at the source as it is written down: the very bytes that it has there."""
    return path.encode("utf-8", "surrogateescape")


def decoded(octets: bytes) -> str:
    """The inverse of ``encoded``."""
    return octets.decode("utf-8", "surrogateescape")


def bytes_on_disk(path: str) -> int:
    """Bytes on disk of a file; 0: it is not there. Worker thread."""
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def sync_directory(path: str) -> None:
    """Make the names in it durable. Worker thread. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(fd)


def remove_foreign(path: str) -> None:
    """Unlink a file that is not ours; a foreign folder is left alone. Worker thread."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        os.unlink(path)
