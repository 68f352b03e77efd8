"""``streamcache ls``: the files in the cache."""

from __future__ import annotations

import argparse
from typing import Any, Final

from streamcache.commands import output
from streamcache.commands.asking import FOUND, Server, add_server
from streamcache.commands.command import OK, Command
from streamcache.commands.targets import HELP, add_targets, selections
from streamcache.daemon.announce import say
from streamcache.errors import ConfigError

_PAGE: Final = 1000

_ABOUT: Final = """\
List the files that are in the cache, complete. Copies that are under way are in "streamcache top"
and "streamcache show"."""

_MORE: Final = f"""\
{HELP}

{FOUND}

    streamcache ls /series/                     all below a folder
    streamcache ls --sort size --limit 20       the largest
    streamcache ls --sort used --reverse        those that were used longest ago first
    streamcache ls --json --limit 0             all, as JSON: one page of the API a line

DISK is what it takes there, USED when it was asked for last, HITS how often: all requests of a
client for a file within ten minutes are one. PIN says that it is not evicted; "streamcache pin
--list" shows pins of what is not in the cache, too. Where servers of several sources share the
directory, only what this one serves is listed, and how much the others have is told: purge, pin and
show are about this source, too."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_targets(parser, nargs="?")
    parser.add_argument(
        "--sort",
        choices=("path", "size", "used", "hits"),
        default="path",
        help="the largest, last used, most used first; paths in their order (default: path)",
    )
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument(
        "--all-sources",
        action="store_true",
        help="also what other servers that share the cache directory keep there",
    )
    parser.add_argument(
        "--limit", metavar="N", type=int, default=100, help="at most so many; 0: all (default: 100)"
    )
    add_server(parser)


def run(arguments: argparse.Namespace) -> int:
    """List."""
    if arguments.limit < 0:
        raise ConfigError(f"--limit {arguments.limit} is below 0")
    server = Server.of(arguments)
    descending = (arguments.sort != "path") is not arguments.reverse
    query: dict[str, object] = {
        "sort": arguments.sort,
        "order": "desc" if descending else "asc",
        "sources": "all" if arguments.all_sources else "own",
        **next(iter(selections(arguments)), {}),
    }
    if "path" in query:  # of one file, which the listing has no word for
        query["glob"] = _literal(str(query.pop("path")))
    rows: list[dict[str, Any]] = []
    after, count = "", 0
    while True:
        left = arguments.limit - len(rows) if arguments.limit else _PAGE
        answer = server.get("/api/entries", {**query, "limit": min(_PAGE, left), "after": after})
        page = answer.value
        rows += page["entries"]
        after, count, others = page["next"] or "", page["count"], page["others"]
        if arguments.json:
            say(answer.text)
        if not after or (arguments.limit and len(rows) >= arguments.limit):
            break
    if not arguments.json:
        _show(rows, count)
        if others["count"]:
            files, size = output.plural(others["count"], "file"), output.size(others["bytes"])
            output.tell(f"{files} of other sources not shown, {size} on disk (--all-sources)")
    return OK


def _show(rows: list[dict[str, Any]], count: int) -> None:
    if rows:
        cells = [
            (
                output.size(row["size"]),
                output.size(row["blocks"]),  # on_disk, which a server of 0.2.0 does not say
                output.ago(row["used"]),
                output.count(row["hits"]),
                "pin" if row["pinned"] else "",
                output.path(row["path"]) + ("" if row["ours"] else " (not of this source)"),
            )
            for row in rows
        ]
        head = ("SIZE", "DISK", "USED", "HITS", "PIN", "PATH")
        say(output.table(cells, head=head, right="rrrr"))
    if count > len(rows):
        output.tell(f"{output.count(count - len(rows))} more; --limit 0 lists all")
    elif not rows:
        output.tell("nothing that is meant is in the cache")


def _literal(path: str) -> str:
    """A glob that stands for this path and no other."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


COMMAND: Final = Command("ls", "list the files in the cache", _ABOUT, _MORE, add, run)
