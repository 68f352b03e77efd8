"""Settings that are read again while the daemon runs: what they change, and whether they may.

In the main process; blocks on the files of the configuration, and never on the source, which may
hang just then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from streamcache.config import change
from streamcache.daemon import checks
from streamcache.settings import Settings


@dataclass(frozen=True, slots=True)
class Reload:
    """What a reload does."""

    settings: Settings  # that hold from now on
    applied: tuple[str, ...]  # options that change
    restart: tuple[str, ...]  # options that differ, and stay as they were until a restart

    @classmethod
    def of(cls, current: Settings, read: Callable[[], Settings]) -> Self:
        """Read all settings again and check them. Raises ConfigError: then nothing changes."""
        wanted = read()
        new = change(current.config, wanted.config)
        origins = {
            name: origin if name not in new.restart else current.origins[name]
            for name, origin in wanted.origins.items()
        }
        settings = replace(wanted, config=new.config, origins=origins)
        checks.check_access_log(settings)
        checks.check_access(settings)
        checks.check_certificate(settings)
        return cls(settings, new.applied, new.restart)

    @property
    def told(self) -> dict[str, str]:
        """What is said of it, by name."""
        told = {"changed": ",".join(self.applied) or "nothing"}
        if self.restart:
            told["needs_restart"] = ",".join(self.restart)
        if files := self._files:
            told["read_again"] = ",".join(files)
        return told

    def __str__(self) -> str:
        """The line of the service manager."""
        return " ".join(f"{name}={value}" for name, value in self.told.items())

    @property
    def _files(self) -> list[str]:
        """What options name and every reload reads, whether or not it changed."""
        config = self.settings.config
        access, server = config.access, config.server
        files = (access.keys, access.htpasswd, server.tls_certificate, server.tls_key)
        return [path for path in files if path]
