"""``streamcache pin``: keep files in the cache, or let them be evicted again."""

from __future__ import annotations

import argparse
from typing import Final

from streamcache.commands import output
from streamcache.commands.asking import FOUND, Server, add_server
from streamcache.commands.command import OK, Command
from streamcache.commands.targets import HELP, add_targets, selections
from streamcache.daemon.announce import say

_ABOUT: Final = """\
Pin files: they are not evicted, whatever else is asked for, until they are unpinned with --remove.
A pin is of the path: it outlives restarts, purges and new versions of the file, and a file can be
pinned before it is in the cache. Of a folder or glob those files are pinned that are there now."""

_MORE: Final = f"""\
{HELP}

{FOUND}

    streamcache pin /premiere/film.mp4
    streamcache warm /premiere/film.mp4 --pin   the same, and bring it
    streamcache pin / --remove                  nothing is pinned any more

So much must be left unpinned that there is something to evict: no more than cache.low_watermark of
the cache can be pinned. "streamcache ls" shows what is."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_targets(parser)
    parser.add_argument("--remove", action="store_true", help="let them be evicted again")
    add_server(parser)


def run(arguments: argparse.Namespace) -> int:
    """Pin or unpin each target."""
    server = Server.of(arguments)
    for order in selections(arguments):
        answer = server.post("/api/unpin" if arguments.remove else "/api/pin", order)
        if arguments.json:
            say(answer.text)
            continue
        matched = answer.value["matched"]
        text = f"{output.plural(matched, 'file')} {'unpinned' if arguments.remove else 'pinned'}"
        if not matched and "path" in order and not arguments.remove:
            text = f"{output.path(order['path'])} is pinned, and not in the cache yet"
        say(text)
    return OK


COMMAND: Final = Command("pin", "keep files in the cache", _ABOUT, _MORE, add, run)
