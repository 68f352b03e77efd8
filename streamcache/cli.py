"""The command line: arguments to a command, errors to one line and an exit code.

Exit codes: 0 done or drained, 2 something in the configuration must be changed first, 1 any
other failure, 128 + n ended by signal n.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from streamcache import __version__
from streamcache.commands import (
    check,
    completion,
    config,
    ls,
    pin,
    purge,
    serve,
    show,
    sign,
    simulate,
    status,
    top,
    verify,
    warm,
)
from streamcache.commands.command import CONFIGURATION, FAILURE, Command
from streamcache.errors import ConfigError, StreamCacheError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from streamcache.daemon.parts import Parts

COMMANDS: Final = (
    serve.COMMAND,
    check.COMMAND,
    config.COMMAND,
    status.COMMAND,
    top.COMMAND,
    ls.COMMAND,
    show.COMMAND,
    warm.COMMAND,
    purge.COMMAND,
    pin.COMMAND,
    verify.COMMAND,
    sign.COMMAND,
    simulate.COMMAND,
    completion.COMMAND,
)

_ABOUT: Final = """\
streamcache puts a fast local disk in front of slow files and serves them over HTTP.

A file is copied to the cache directory when it is first asked for, and served to any number of
clients while it is still being copied; they can seek anywhere in it at once. When the cache is
full, what is worth least is removed."""


def main(argv: Sequence[str] | None = None, *, parts: Parts | None = None) -> int:
    """Run the command that ``argv`` asks for; the exit code. ``parts`` is for tests."""
    try:
        arguments = _parser().parse_args(argv)
        arguments.parts = parts
        command: Command = arguments.command
        return command.run(arguments)
    except ConfigError as error:
        for problem in error.args:
            _complain(problem)
        return CONFIGURATION
    except BrokenPipeError:  # who reads has enough: "| head"
        _forget_output()
        return 128 + signal.SIGPIPE
    except (StreamCacheError, OSError) as error:
        _complain(error)
        _forget_output()
        logging.getLogger(__name__).debug("failed", exc_info=True)
        return FAILURE
    except KeyboardInterrupt:  # before the daemon took over the signals
        return 128 + signal.SIGINT


class _Parser(argparse.ArgumentParser):
    """Complains in one line, and does not hide that its help could not be written."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if message:
            (file or sys.stderr).write(message)
            if sys.stdout is not None:
                sys.stdout.flush()

    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (see {self.prog} --help)")
        self.exit(CONFIGURATION)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="streamcache",
        description=_ABOUT,
        epilog='"streamcache COMMAND --help" tells more of each.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"streamcache {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        its = commands.add_parser(
            command.name,
            help=command.help,
            description=command.about,
            epilog=command.more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add(its)
        its.set_defaults(command=command, parser=parser)
    return parser


def _forget_output() -> None:
    """What stdout did not take: else the interpreter tries again at its end, with a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(problem: object) -> None:
    text = " ".join(str(problem).split())
    print(f"streamcache: error: {text}", file=sys.stderr, flush=True)
