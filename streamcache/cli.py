"""The command line: arguments to settings, errors to one line and an exit code.

Exit codes: 0 done or drained, 2 something in the configuration must be changed first, 1 any
other failure, 128 + n ended by signal n.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from streamcache import __version__
from streamcache.access.command import ABOUT, FLAGS, SignArguments, run
from streamcache.config import TABLE, default_of
from streamcache.errors import ConfigError, StreamCacheError
from streamcache.options import Kind
from streamcache.settings import load

if TYPE_CHECKING:
    from streamcache.daemon.parts import Parts

OK: Final = 0
FAILURE: Final = 1
CONFIGURATION: Final = 2

_ABOUT: Final = """\
streamcache puts a fast local disk in front of slow files and serves them over HTTP.

A file is copied to the cache directory when it is first asked for, and served to any number of
clients while it is still being copied; they can seek anywhere in it at once. When the cache is
full, what is worth least is removed."""

_SERVE: Final = """\
Serve every file below SOURCE (a network mount, say) on http://HOST:PORT/, through a cache on a
local disk. Nothing else needs to be set up:

    streamcache serve /mnt/films
    curl http://127.0.0.1:8080/a/b.mp4"""

_MORE: Final = """\
SIZE is bytes, or a number with a unit: 500MB (10^6), 10GiB (2^30).
DURATION is seconds, or a number with a unit: 250ms, 2s, 5m, 1h, 1d.

Each setting comes from its flag, else from the environment (STREAMCACHE_CACHE_SIZE for [cache]
size), else from the file given with --config, else its default. etc/streamcache.toml describes
all of them; "python -m streamcache.reference" prints it.

When it accepts connections, one line is printed to stdout:
    streamcache ready on http://127.0.0.1:8080/ source=/mnt/films cache=/fast size=500000000
Logs go to stderr. SIGTERM or Ctrl-C stops accepting and lets running responses finish; a second
one ends at once. Exit codes: 0 stopped as asked, 2 a setting must be changed, 1 other failures,
128+n ended by signal n."""


_SIGN: Final = """\
A key file is made with:   echo "k1 $(openssl rand -hex 32)" > keys; chmod 600 keys
The server reads it with:  access.keys = "keys" in its configuration, and then lets nobody in
                           without a signed URL (or a password, with access.htpasswd).

One file, for two hours:
    streamcache sign http://films.example/a/b.mp4 --key-file keys --expires 2h
A playlist and the segments beside it, for an evening:
    streamcache sign http://films.example/x/main.m3u8 --key-file keys --expires 6h --prefix

DURATION is seconds, or a number with a unit: 30m, 2h, 7d. The clocks of this machine and the server
must agree. A URL that is out cannot be called back before it expires, but by taking its key out
of the file and starting the server again. Exit codes: 0 printed, 2 an argument or the key file is
wrong."""


def main(argv: Sequence[str] | None = None, *, parts: Parts | None = None) -> int:
    """Run the command that ``argv`` asks for; the exit code. ``parts`` is for tests."""
    arguments = _parser().parse_args(argv)
    try:
        return _sign(arguments) if arguments.command == "sign" else _serve(arguments, parts)
    except ConfigError as error:
        _complain(error)
        return CONFIGURATION
    except (StreamCacheError, OSError) as error:
        _complain(error)
        logging.getLogger(__name__).debug("failed", exc_info=True)
        return FAILURE
    except KeyboardInterrupt:  # before the daemon took over the signals
        return 128 + signal.SIGINT


def _serve(arguments: argparse.Namespace, parts: Parts | None) -> int:
    flags = {name: value for name, value in vars(arguments).items() if "." in name}
    settings = load(file=arguments.config, flags=flags)
    # Not before the settings are right: gevent takes most of the time until then.
    from streamcache.daemon import serve

    if arguments.check:
        serve.check(settings)
    else:
        return serve.serve(settings, parts)
    return OK


def _sign(arguments: argparse.Namespace) -> int:
    return run(
        SignArguments(
            arguments.target, arguments.key_file, arguments.expires, prefix=arguments.prefix
        ),
        out=sys.stdout,
    )


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (see {self.prog} --help)")
        self.exit(CONFIGURATION)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="streamcache",
        description=_ABOUT,
        epilog='See "streamcache serve --help" and "streamcache sign --help" for their options.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"streamcache {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve the files below a directory",
        description=_SERVE,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for section, options in TABLE.items():
        for key, option in options.items():
            if not option.flag:
                continue
            name = f"{section}.{key}"
            about = option.why.replace("%", "%%")
            if not option.flag.startswith("-"):
                # A nargs of "?" makes argparse set the default; None would hide the file's value.
                serve.add_argument(
                    name, nargs="?", default=argparse.SUPPRESS, metavar=option.flag, help=about
                )
                continue
            default = option.zero if option.zero and not default_of(section, key) else ""
            default = default or option.word or option.format(default_of(section, key)).strip('"')
            allowed = f"; one of {option.allowed}" if option.kind is Kind.CHOICE else ""
            serve.add_argument(
                option.flag,
                dest=name,
                default=argparse.SUPPRESS,
                metavar=option.metavar,
                help=about + allowed + (f" (default: {default})" if default else ""),
            )
    serve.add_argument("--config", metavar="FILE", help="a TOML file with settings")
    serve.add_argument(
        "--check",
        action="store_true",
        help="check all settings, print what would run with the origin of each value, and exit",
    )
    sign = commands.add_parser(
        "sign",
        help="print a signed URL that expires",
        description=ABOUT,
        epilog=_SIGN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, metavar, about in FLAGS:
        if not name.startswith("-"):
            sign.add_argument(name, metavar=metavar, help=about)
        elif metavar:
            sign.add_argument(name, metavar=metavar, help=about, required=True)
        else:
            sign.add_argument(name, help=about, action="store_true")
    return parser


def _complain(problem: object) -> None:
    text = " ".join(str(problem).split())
    print(f"streamcache: error: {text}", file=sys.stderr, flush=True)
