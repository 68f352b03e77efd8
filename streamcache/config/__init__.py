"""The one table of tunables: every option with its default, its unit and the reason for it.

A module for each section. Values are frozen and validated at birth, so whoever holds a ``Config``
need not check it again. ``settings.py`` makes one from a TOML file, the environment and the
command line.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final

from streamcache.config.access import AccessConfig
from streamcache.config.cache import CacheConfig
from streamcache.config.copy import CopyConfig
from streamcache.config.limits import LimitsConfig
from streamcache.config.log import LogConfig
from streamcache.config.server import ServerConfig
from streamcache.config.source import SourceConfig
from streamcache.options import Option, options_of


@dataclass(frozen=True, slots=True)
class Config:
    """All options, one section each."""

    source: SourceConfig = field(default_factory=SourceConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    copy: CopyConfig = field(default_factory=CopyConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    log: LogConfig = field(default_factory=LogConfig)


SECTIONS: Final[dict[str, type[Any]]] = {
    "source": SourceConfig,
    "cache": CacheConfig,
    "copy": CopyConfig,
    "server": ServerConfig,
    "access": AccessConfig,
    "limits": LimitsConfig,
    "log": LogConfig,
}

TABLE: Final[dict[str, dict[str, Option]]] = {
    name: options_of(section) for name, section in SECTIONS.items()
}


def default_of(section: str, key: str) -> Any:
    """The default of an option."""
    return getattr(SECTIONS[section](), key)


def changed(config: Config, section: str, **values: Any) -> Config:
    """``config`` with values of one section replaced; ConfigError when one is not allowed."""
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **values)}
    )
