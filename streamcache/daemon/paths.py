"""Paths of the daemon: made absolute once at the start, with the default of the cache directory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Final

from streamcache.config import changed
from streamcache.settings import Settings

_ROOT_CACHE: Final = "/var/cache/streamcache"
_UNIX: Final = "unix:"


def resolve(
    settings: Settings, environ: Mapping[str, str] = os.environ, user: int | None = None
) -> Settings:
    """The same settings with absolute paths, and with the default cache directory filled in.

    ``user``: who started the daemon, if that is not who it is now. Symbolic links are kept: the
    paths are shown to people, who know them by these names.
    """
    config = settings.config
    if config.source.path:
        config = changed(config, "source", path=absolute(config.source.path))
    directory = config.cache.dir or default_cache_dir(
        environ, os.geteuid() if user is None else user
    )
    config = changed(config, "cache", dir=absolute(directory))
    for key in ("listen", "admin"):
        address = getattr(config.server, key)
        if socket := address.removeprefix(_UNIX) if address.startswith(_UNIX) else "":
            config = changed(config, "server", **{key: _UNIX + absolute(socket)})
    if config.server.pid_file:
        config = changed(config, "server", pid_file=absolute(config.server.pid_file))
    if config.log.access not in ("-", "off"):
        config = changed(config, "log", access=absolute(config.log.access))
    for key in ("tls_certificate", "tls_key"):
        if path := getattr(config.server, key):
            config = changed(config, "server", **{key: absolute(path)})
    for key in ("keys", "htpasswd"):
        if path := getattr(config.access, key):
            config = changed(config, "access", **{key: absolute(path)})
    return dataclasses.replace(settings, config=config)


def default_cache_dir(environ: Mapping[str, str], user: int) -> str:
    """Where the cache is when nobody says where: systemd's CacheDirectory=, else the XDG Base
    Directory Specification, and for root the FHS.
    """
    given = environ.get("CACHE_DIRECTORY", "")
    if os.path.isabs(given) and ":" not in given:
        return given
    if user == 0:
        return _ROOT_CACHE
    home = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(home):  # the specification: relative ones are to be ignored
        home = os.path.expanduser("~/.cache")
    return os.path.join(home, "streamcache")


def absolute(path: str) -> str:
    """``path`` from the root on; a leading "~/" is the home directory."""
    if path == "~" or path.startswith("~/"):
        path = os.path.expanduser(path)
    return os.path.abspath(path)
