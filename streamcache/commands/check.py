"""``streamcache check``: what ``serve`` would do, and whether it could."""

from __future__ import annotations

import argparse
from typing import Final

from streamcache.commands.command import OK, Command
from streamcache.commands.serve import add_settings, settings_of

_ABOUT: Final = """\
Check everything that "streamcache serve" needs with the same arguments: settings, address, source,
cache directory, files that are named. It prints what would run with the origin of each value."""

_MORE: Final = """\
    streamcache check --config /etc/streamcache/streamcache.toml && systemctl reload streamcache

It is the same as "streamcache serve ... --check". An address that is in use is told and is no
error, as it may be the server's that runs. Exit codes: 0 all is well, 2 something must be changed
first, and one line on stderr says what."""


def run(arguments: argparse.Namespace) -> int:
    """Check. ConfigError."""
    settings = settings_of(arguments)
    from streamcache.daemon import serve

    serve.check(settings)
    return OK


COMMAND: Final = Command(
    "check", "check what serve would do, and whether it could", _ABOUT, _MORE, add_settings, run
)
