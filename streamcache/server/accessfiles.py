"""What [access] says, with the files that it names: read once, before anything is served."""

from __future__ import annotations

from streamcache.access.authorize import Access
from streamcache.config.access import AccessConfig
from streamcache.server.optionfile import read_option_file


def read_access(config: AccessConfig) -> Access | None:
    """The decisions that are configured; None: everybody may read everything.

    Blocks as long as its files do. Raises ConfigError that begins with the option's name.
    """
    if not config.restricts:
        return None
    keys = read_option_file("access.keys", config.keys) if config.keys else None
    users = read_option_file("access.htpasswd", config.htpasswd) if config.htpasswd else None
    return Access(config.rules(keys=keys, htpasswd=users))
