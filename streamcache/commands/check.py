"""``streamcache check``: what ``serve`` would do, and whether it could."""

from __future__ import annotations

import argparse
from typing import Final

from streamcache.commands.command import Command
from streamcache.commands.serve import add_settings, check

_ABOUT: Final = """\
Check everything that "streamcache serve" needs with the same arguments: settings, address, source,
cache directory, files that are named. It prints what would run with the origin of each value."""

_MORE: Final = """\
    streamcache check --config /etc/streamcache/streamcache.toml && systemctl reload streamcache

It is the same as "streamcache serve ... --check". An address that is in use is told and is no
error, as it may be the server's that runs. Exit codes: 0 all is well, 2 something must be changed
first, and stderr says what: one line, or a line for each option that cannot be read."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_settings(parser)
    parser.add_argument(
        "--json", action="store_true", help='{"cache.size": {"value": ..., "origin": ...}, ...}'
    )


def run(arguments: argparse.Namespace) -> int:
    """Check. ConfigError."""
    return check(arguments, as_json=arguments.json)


COMMAND: Final = Command(
    "check", "check what serve would do, and whether it could", _ABOUT, _MORE, add, run
)
