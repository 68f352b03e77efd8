"""``streamcache config``: the effective configuration, and where each value comes from."""

from __future__ import annotations

import argparse
from typing import Final

from streamcache.commands.command import OK, Command
from streamcache.commands.serve import add_settings, settings_of
from streamcache.daemon.announce import say, settings_json, settings_lines
from streamcache.settings import Settings

_ABOUT: Final = """\
Print every setting that "streamcache serve" would have with the same arguments, and where its value
comes from: a flag, the environment, the file, or its default. Nothing is checked on the disk, so it
says what is set, and "streamcache check" whether that works."""

_MORE: Final = """\
    streamcache config --config /etc/streamcache/streamcache.toml
    streamcache config --changed            what is not the default
    streamcache config --changed > my.toml  a file with these settings

Its lines are those of a configuration file. etc/streamcache.toml says what each setting is for."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_settings(parser)
    parser.add_argument("--changed", action="store_true", help="only what is not the default")
    parser.add_argument(
        "--json", action="store_true", help='{"cache.size": {"value": ..., "origin": ...}, ...}'
    )


def run(arguments: argparse.Namespace) -> int:
    """Print. ConfigError."""
    settings = settings_of(arguments)
    names = [
        name
        for name, origin in settings.origins.items()
        if origin != "default" or not arguments.changed
    ]
    if arguments.json:
        say(settings_json(settings, names))
    else:
        say("\n".join(_toml(settings, names)))
    return OK


def _toml(settings: Settings, names: list[str]) -> list[str]:
    return settings_lines(settings, names) or ["# every setting has its default"]


COMMAND: Final = Command(
    "config", "print every setting and where it comes from", _ABOUT, _MORE, add, run
)
