"""Which files a command is about, as its arguments name them."""

from __future__ import annotations

import argparse
from typing import Final

from streamcache.errors import ConfigError

HELP: Final = """\
TARGET is a path as in a URL, /a/b.mp4; all below a folder or prefix if it ends in / (/a/); or a
glob if it has *, ? or [ in it: * and ? stay within one name, ** stands for any number of folders
('/a/**/*.mp4'; in quotes, so that the shell leaves it alone). With --exact it is taken as it is."""

_WILD: Final = frozenset("*?[")


def add_targets(parser: argparse.ArgumentParser, *, nargs: str = "+") -> None:
    """TARGET ..., --exact."""
    parser.add_argument("targets", metavar="TARGET", nargs=nargs, help="a path, folder/ or glob")
    parser.add_argument(
        "--exact", action="store_true", help="TARGET is a path, whatever characters it has"
    )


def selections(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """What the API has for each: {"path": ...}, {"prefix": ...} or {"glob": ...}."""
    targets = arguments.targets
    given = targets if isinstance(targets, list) else [targets]
    return [selection(target, exact=arguments.exact) for target in given if target is not None]


def selection(target: str, *, exact: bool = False) -> dict[str, str]:
    """Of one TARGET. ConfigError."""
    if not target:
        raise ConfigError('TARGET "" names nothing; / stands for all files')
    whole = target if target.startswith("/") else f"/{target}"
    if exact:
        return {"path": whole}
    if whole.endswith("/"):
        return {"prefix": whole}
    return {"glob": whole} if _WILD.intersection(whole) else {"path": whole}
