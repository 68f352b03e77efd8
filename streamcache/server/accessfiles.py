"""What [access] says, with the files that it names: read once, before anything is served."""

from __future__ import annotations

import os
import stat
from typing import Final

from streamcache.access.authorize import Access
from streamcache.config.access import AccessConfig
from streamcache.errors import ConfigError

_MOST: Final = 1 << 20  # bytes of a file of keys or passwords


def read_access(config: AccessConfig) -> Access | None:
    """The decisions that are configured; None: everybody may read everything.

    Blocks as long as its files do. Raises ConfigError that begins with the option's name.
    """
    if not config.restricts:
        return None
    keys = _read("access.keys", config.keys) if config.keys else None
    users = _read("access.htpasswd", config.htpasswd) if config.htpasswd else None
    return Access(config.rules(keys=keys, htpasswd=users))


def _read(option: str, path: str) -> bytes:
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
