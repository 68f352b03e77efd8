"""``streamcache pin``: keep files in the cache, or let them be evicted again."""

from __future__ import annotations

import argparse
from typing import Final

from streamcache.commands import output
from streamcache.commands.asking import FOUND, Server, add_server
from streamcache.commands.command import OK, Command
from streamcache.commands.targets import HELP, add_targets, selections
from streamcache.daemon.announce import say
from streamcache.errors import ConfigError

_ABOUT: Final = """\
Pin files: they are not evicted, whatever else is asked for, until they are unpinned with --remove.
A pin is of the path: it outlives restarts, purges and new versions of the file, and a file can be
pinned before it is in the cache. Of a folder or glob those files are pinned that are there now."""

_MORE: Final = f"""\
{HELP}

{FOUND}

    streamcache pin /premiere/film.mp4
    streamcache warm /premiere/film.mp4 --pin   the same, and bring it
    streamcache pin --list                      what is pinned, in the cache or not
    streamcache pin / --remove                  nothing is pinned any more

So much must be left unpinned that there is something to evict: no more than cache.low_watermark of
the cache can be pinned."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_targets(parser, nargs="*")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--remove", action="store_true", help="let them be evicted again")
    instead.add_argument(
        "--list", action="store_true", help="show the pinned paths, also those not in the cache"
    )
    add_server(parser)


def run(arguments: argparse.Namespace) -> int:
    """Pin or unpin each target, or list the pins."""
    if arguments.list and arguments.targets:
        raise ConfigError(f"--list shows all pins, and takes no TARGET: {arguments.targets[0]!r}")
    if not arguments.list and not arguments.targets:
        raise ConfigError("name what is to be pinned: a TARGET, or --list for what is")
    server = Server.of(arguments)
    if arguments.list:
        _list(server, arguments)
        return OK
    for order in selections(arguments):
        answer = server.post("/api/unpin" if arguments.remove else "/api/pin", order)
        if arguments.json:
            say(answer.text)
            continue
        matched, paths = answer.value["matched"], answer.value["paths"]
        text = f"{output.plural(paths, 'file')} {'unpinned' if arguments.remove else 'pinned'}"
        if not matched and "path" in order and not arguments.remove:
            text = f"{output.path(order['path'])} is pinned, and not in the cache yet"
        say(text)
    return OK


def _list(server: Server, arguments: argparse.Namespace) -> None:
    answer = server.get("/api/pins")
    if arguments.json:
        say(answer.text)
    elif paths := answer.value["paths"]:
        say("\n".join(map(output.path, paths)))
    else:
        output.tell("nothing is pinned")


COMMAND: Final = Command("pin", "keep files in the cache", _ABOUT, _MORE, add, run)
