"""``streamcache serve``: the daemon, and ``--check``, which only says what it would do."""

from __future__ import annotations

import argparse
from typing import Final

from streamcache.commands.command import OK, Command
from streamcache.config import TABLE, default_of
from streamcache.options import Kind, Option
from streamcache.settings import Settings, load

_ABOUT: Final = """\
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
one ends at once. SIGHUP reads file and environment again and takes what can change while it runs
(etc/streamcache.toml says "reload" there), SIGUSR1 opens the access log again, SIGUSR2 starts what
is installed by now in its place, with the same sockets. Exit codes: 0 stopped as asked, 2 a
setting must be changed, 1 other failures, 128+n ended by signal n."""


def add(parser: argparse.ArgumentParser) -> None:
    """Every option that has a flag, and those of the command itself."""
    add_settings(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="check all settings, print what would run with the origin of each value, and exit",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """SOURCE, the flags of the options, and --config."""
    for section, options in TABLE.items():
        for key, option in options.items():
            if option.flag:
                _add_option(parser, section, key, option)
    parser.add_argument("--config", metavar="FILE", help="a TOML file with settings")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """What the flags, the environment and the file say together. ConfigError."""
    flags = {name: value for name, value in vars(arguments).items() if "." in name}
    return load(file=arguments.config, flags=flags)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes, or check; ``arguments.parts`` is for tests."""
    if arguments.check:
        return check(arguments, as_json=False)
    settings_of(arguments)
    # Not before the settings are right: gevent takes most of the time until then.
    from streamcache.daemon import serve

    return serve.serve(lambda: settings_of(arguments), arguments.parts)


def check(arguments: argparse.Namespace, *, as_json: bool) -> int:
    """Check everything, and print what would run. ConfigError."""
    settings = settings_of(arguments)
    from streamcache.daemon import logs, serve
    from streamcache.daemon.announce import report, say, settings_json

    with logs.as_words():
        checked = serve.check(settings)
    say(settings_json(checked, checked.origins) if as_json else report(checked))
    return OK


def _add_option(parser: argparse.ArgumentParser, section: str, key: str, option: Option) -> None:
    name = f"{section}.{key}"
    about = option.why.replace("%", "%%")
    if not option.flag.startswith("-"):
        # A nargs of "?" makes argparse set the default; None would hide the file's value.
        parser.add_argument(
            name, nargs="?", default=argparse.SUPPRESS, metavar=option.flag, help=about
        )
        return
    default = option.zero if option.zero and not default_of(section, key) else ""
    default = default or option.word_means or option.format(default_of(section, key)).strip('"')
    allowed = f"; one of {option.allowed}" if option.kind is Kind.CHOICE else ""
    parser.add_argument(
        option.flag,
        dest=name,
        default=argparse.SUPPRESS,
        metavar=option.metavar,
        help=about + allowed + (f" (default: {default})" if default else ""),
    )


COMMAND: Final = Command("serve", "serve the files below a directory", _ABOUT, _MORE, add, run)
