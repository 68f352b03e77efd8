"""``streamcache purge``: take files out of the cache, or have them checked."""

from __future__ import annotations

import argparse
from typing import Any, Final

from streamcache.commands import output
from streamcache.commands.asking import FOUND, Server, add_server
from streamcache.commands.command import FAILURE, OK, Command
from streamcache.commands.targets import HELP, add_targets, selections
from streamcache.daemon.announce import say

_MANY: Final = 100  # files that are purged without a question

_ABOUT: Final = """\
Take files out of the cache. Who is reading one reads on, with the version that it had; the next
request copies it from the source again. With --soft nothing is removed: the source is asked whether
the files have changed before they are used again."""

_MORE: Final = f"""\
{HELP}

{FOUND}

    streamcache purge /a/b.mp4               one file
    streamcache purge /series/ --dry-run     what would go
    streamcache purge '/**/*.vtt' --soft     check all subtitles
    streamcache purge / --yes                everything of this server's source

On a terminal it asks before more than {_MANY} files go; elsewhere it does not. A pinned path stays
pinned: its next copy is kept. Exit codes: 0 done, 1 the server cannot be asked or did not remove
all, 2 an argument is wrong."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_targets(parser)
    parser.add_argument(
        "--soft", action="store_true", help="keep them, and ask the source before the next use"
    )
    parser.add_argument("--dry-run", action="store_true", help="only count")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_server(parser)


def run(arguments: argparse.Namespace) -> int:
    """Purge each target."""
    server = Server.of(arguments)
    mode = "soft" if arguments.soft else "hard"
    orders = [{**each, "mode": mode, "dry_run": False} for each in selections(arguments)]
    if not (arguments.yes or arguments.soft or arguments.dry_run) and not _agreed(server, orders):
        output.tell("nothing was purged")
        return FAILURE
    left = 0
    for order in orders:
        answer = server.post("/api/purge", {**order, "dry_run": arguments.dry_run})
        say(answer.text if arguments.json else _shown(answer.value, mode))
        left += answer.value["matched"] - answer.value["removed"]
    return FAILURE if left and mode == "hard" else OK


def _agreed(server: Server, orders: list[dict[str, Any]]) -> bool:
    """Whether it is to be done, asked where somebody can answer and much would go."""
    if not output.can_ask():
        return True
    would = [server.post("/api/purge", {**order, "dry_run": True}).value for order in orders]
    files, size = (sum(one[name] for one in would) for name in ("removed", "bytes"))
    return files <= _MANY or output.confirm(
        f"Purge {output.plural(files, 'file')} ({output.size(size)})?"
    )


def _shown(purged: dict[str, Any], mode: str) -> str:
    matched, removed = purged["matched"], purged["removed"]
    if mode == "soft":
        verb = "would be" if purged["dry_run"] else "will be"
        return f"{output.plural(matched, 'file')} {verb} checked before the next use"
    size = output.size(purged["bytes"])
    if purged["dry_run"]:
        return f"{output.plural(removed, 'file')} would go, {size}"
    late = f"; {output.plural(matched - removed, 'file')} could not be" if matched > removed else ""
    return f"{output.plural(removed, 'file')} purged, {size}{late}"


COMMAND: Final = Command(
    "purge", "take files out of the cache, or have them checked", _ABOUT, _MORE, add, run
)
