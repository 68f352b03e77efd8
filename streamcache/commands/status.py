"""``streamcache status``: a running server at a glance."""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

from streamcache.commands import output
from streamcache.commands.asking import FOUND, Server, add_server
from streamcache.commands.command import OK, Command
from streamcache.daemon.announce import say
from streamcache.stats import hits_of

_ABOUT: Final = """\
Show what a running server does: its workers, how full the cache is, whether the source answers,
and how much came from the cache."""

_MORE: Final = f"""\
{FOUND}

    streamcache status
    streamcache status --json | jq .cache.usage

"hits" are requests that were answered from complete files in the cache, also those while the
source did not answer ("stale"); the share is of all requests since the start.
"cache" counts all that lies in the directory: complete files, unfinished copies and what is being
removed, also of other servers that share it.
"disk" is there while the cache's disk fails, is full or hangs: then nothing new is cached, and what
is not in the cache comes straight from the source, until the disk works again.
Exit codes: 0 it answers, 1 it does not, 2 an argument is wrong."""


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    answer = Server.of(arguments).get("/api/status")
    say(answer.text if arguments.json else shown(answer.value))
    return OK


def shown(status: dict[str, Any]) -> str:
    """For people."""
    cache, source, totals = status["cache"], status["source"], status["totals"]
    workers = status["workers"]
    running = sum(worker["state"] == "running" for worker in workers)
    state, since = "serving", status["uptime"]
    if status["draining"]:
        state = output.coloured("draining", output.YELLOW)
        since = time.time() - status["draining_since"]
    answers = "answers" if source["answers"] else output.coloured("does not answer", output.RED)
    answers += stuck(source)
    requests, sent = sum(totals["requests"].values()), sum(totals["bytes"].values())
    hits, read = hits_of(totals["requests"]), totals["bytes_from_source"]
    rows = [
        ("server", f"{status['url']}  {state} for {output.duration(since)}"),
        ("version", f"{status['version']}, process {status['pid']}"),
        ("workers", _workers(workers, running)),
        ("source", f"{output.path(status['source']['path'])}  {answers}"),
        ("cache", _usage(cache)),
        ("", f"{output.plural(cache['objects'], 'file')} in {output.path(cache['dir'])}"),
        *_disk(status),
        ("requests", f"{output.count(requests)}, {output.share(hits, requests)} hits"),
        ("bytes", f"{output.size(sent)} sent, {output.size(read)} read from the source"),
        ("connections", output.count(totals["connections"])),
        ("copies", f"{output.count(totals['copies'])} under way"),
    ]
    return output.pairs(rows)


def stuck(device: dict[str, Any]) -> str:
    """Behind the state of source or disk: how many threads hang in it; "" when none does."""
    return f", {output.plural(device['stuck'], 'thread')} stuck in it" if device["stuck"] else ""


def disk_trouble(status: dict[str, Any]) -> str:
    """What there is to say of the cache's disk; "" when it is well."""
    disk = status["cache"]["disk"]
    if disk["normal"]:
        return f"answers{stuck(disk)}" if disk["stuck"] else ""
    failing, living = disk["failing"], [one for one in status["workers"] if "pid" in one]
    who = f" by {', '.join(failing)}" if len(failing) < len(living) else ""
    why = f": {output.plain(disk['reason'])}" if disk["reason"] else " (the log says why)"
    return f"nothing new is cached{who}{why}{stuck(disk)}"


def _workers(workers: list[dict[str, Any]], running: int) -> str:
    text = f"{running} of {len(workers)} running"
    others = [one for one in workers if one["state"] != "running"]
    if not others:
        return text
    named = ", ".join(f"{one['name']} {one['state']}" for one in others)
    bad = any(one["state"] != "ended" for one in others)
    return text + output.coloured(f" ({named})", *([output.RED] if bad else []))


def _disk(status: dict[str, Any]) -> list[tuple[str, str]]:
    trouble, normal = disk_trouble(status), status["cache"]["disk"]["normal"]
    if not trouble:
        return []
    return [("disk", trouble if normal else output.coloured(trouble, output.RED))]


def _usage(cache: dict[str, Any]) -> str:
    usage, limit = cache["usage"], cache["limit"]
    text = f"{output.size(usage)} of {output.size(limit)} ({output.share(usage, limit)})"
    if cache["reserved"]:
        text += f", {output.size(cache['reserved'])} of it for copies"
    return text


COMMAND: Final = Command(
    "status", "show what a running server does", _ABOUT, _MORE, add_server, run
)
