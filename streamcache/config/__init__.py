"""The one table of tunables: every option with its default, its unit and the reason for it.

A module for each section. Values are frozen and validated at birth, so whoever holds a ``Config``
need not check it again. ``settings.py`` makes one from a TOML file, the environment and the
command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
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


@dataclass(frozen=True, slots=True)
class Change:
    """What another configuration means to somebody who runs."""

    config: Config  # that holds from now on
    applied: tuple[str, ...]  # options that changed: "cache.cleanup"
    restart: tuple[str, ...]  # those that stay as they were until a restart


def change(current: Config, wanted: Config, sections: Collection[str] = tuple(SECTIONS)) -> Change:
    """``current`` with what can change while it runs (``Option.reload``) as ``wanted`` has it.

    Raises ConfigError when the two do not go together. Other ``sections`` stay as they were.
    """
    applied, restart = [], []
    for section in sections:
        values = {}
        for key, known in TABLE[section].items():
            value = getattr(getattr(wanted, section), key)
            if value == getattr(getattr(current, section), key):
                continue
            if known.reload:
                values[key] = value
                applied.append(f"{section}.{key}")
            elif value or not known.zero:  # 0 stands for what was found out at the start
                restart.append(f"{section}.{key}")
        current = changed(current, section, **values)
    return Change(current, tuple(applied), tuple(restart))


def as_mapping(config: Config) -> dict[str, dict[str, Any]]:
    """Its values by section and key, all of them text, numbers and truth values."""
    return dataclasses.asdict(config)


def of_mapping(values: Mapping[str, Mapping[str, Any]]) -> Config:
    """The opposite of ``as_mapping``."""
    return Config(**{name: kind(**values[name]) for name, kind in SECTIONS.items()})
