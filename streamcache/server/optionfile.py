"""A file that an option names: read whole, once, before anything is served."""

from __future__ import annotations

import os
import stat
from typing import Final

from streamcache.errors import ConfigError

_MOST: Final = 1 << 20  # bytes; they are lists of keys, users, certificates


def read_option_file(option: str, path: str) -> bytes:
    """Its bytes. Blocks as long as the file does. ConfigError that begins with ``option``."""
    text = b""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            while regular and len(text) <= _MOST and (more := os.read(fd, _MOST)):
                text += more
        finally:
            os.close(fd)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"{option}: {path} cannot be read: {reason}; allowed: a file that can be read"
        ) from None
    if not regular:
        raise ConfigError(f"{option}: {path} is no regular file; allowed: a regular file")
    if len(text) > _MOST:
        raise ConfigError(f"{option}: {path} is too large; allowed: 1 MiB")
    return text
