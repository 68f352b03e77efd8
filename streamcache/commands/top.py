"""``streamcache top``: a running server, live. Needs rich (the extra ``cli``)."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from streamcache.commands import output
from streamcache.commands.asking import FOUND, NoServer, Server, add_server
from streamcache.commands.command import OK, Command
from streamcache.commands.progress import bar
from streamcache.commands.show import picture
from streamcache.commands.status import disk_trouble, stuck
from streamcache.daemon.announce import say
from streamcache.errors import ConfigError
from streamcache.extras import installing
from streamcache.stats import hits_of

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDE: Final = 40  # characters of the picture of a copy
_NARROW: Final = 10
_BESIDE: Final = 70  # that all else takes, with some of the path

_ABOUT: Final = """\
Show what a running server does, live: the copies that are under way with their blocks and readers,
rates, the hit ratio, how full the cache is. Ctrl-C ends it."""

_MORE: Final = f"""\
{FOUND}

    streamcache top
    streamcache top --once          one picture, for a script or a mail
    streamcache top --once --json   the sessions, as the API has them

In the picture of a copy # is there, + in part, - is not, and > is where somebody reads. The rates
and the hit ratio (as in "streamcache status") of "now" are those since the last picture.
It needs rich: {installing("rich")}"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server said at one moment."""

    time: float  # monotonic s
    status: dict[str, Any]
    sessions: list[dict[str, Any]]

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Requests, hits, bytes sent, bytes from the source."""
        totals = self.status["totals"]
        requests = totals["requests"]
        return (
            sum(requests.values()),
            hits_of(requests),
            sum(totals["bytes"].values()),
            totals["bytes_from_source"],
        )


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=float,
        default=1.0,
        help="seconds between two pictures (default: 1)",
    )
    parser.add_argument("--once", action="store_true", help="print one picture and end")
    add_server(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show until Ctrl-C."""
    if not 0.1 <= arguments.interval <= 3600:
        raise ConfigError(f"--interval {arguments.interval:g} is not in 0.1 to 3600")
    if arguments.json and not arguments.once:
        raise ConfigError("--json goes with --once")
    if not arguments.json and importlib.util.find_spec("rich") is None:
        raise ConfigError(f"streamcache top needs rich: {installing('rich')}")
    server = Server.of(arguments)
    if arguments.json:
        say(server.get("/api/sessions").text)
        return OK
    if arguments.once or not output.is_terminal(sys.stdout):
        first = _sample(server)
        time.sleep(arguments.interval)
        _print(_picture(_sample(server), first))
        return OK
    return _live(server, arguments.interval)


def _live(server: Server, interval: float) -> int:
    from rich.live import Live

    before = _sample(server)
    live = Live(_picture(before, before), screen=True, auto_refresh=False)
    try:
        live.start()  # not "with": Ctrl-C may come before it has begun, and the screen be left so
        while True:
            time.sleep(interval)
            try:
                now = _sample(server)
            except NoServer as error:  # it restarts, perhaps
                live.update(str(error), refresh=True)
                continue
            live.update(_picture(now, before), refresh=True)
            before = now
    except KeyboardInterrupt:
        return OK
    finally:
        live.stop()


def _sample(server: Server) -> Sample:
    status = server.get("/api/status").value
    sessions = server.get("/api/sessions").value
    return Sample(time.monotonic(), status, sessions["sessions"])


def _print(picture: RenderableType) -> None:
    from rich.console import Console

    Console(highlight=False).print(picture)


def _picture(now: Sample, before: Sample) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    return Group(_head(now, before), Text(""), _copies(now.sessions))


def _head(now: Sample, before: Sample) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    status, cache = now.status, now.status["cache"]
    elapsed = max(1e-6, now.time - before.time)
    requests, hits, sent, read = (a - b for a, b in zip(now.counts, before.counts, strict=True))
    workers = status["workers"]
    running = sum(one["state"] == "running" for one in workers)
    draining = "yellow" if status["draining"] else ""
    state = "draining" if status["draining"] else f"up {output.duration(status['uptime'])}"
    answers = status["source"]["answers"]
    source = f"{'answers' if answers else 'DOES NOT ANSWER'}{stuck(status['source'])}"
    trouble = disk_trouble(status)
    usage, limit = cache["usage"], cache["limit"]
    full = f"[{bar(usage / limit if limit else 0.0, 30)}] {output.size(usage)} of"
    sending, reading = output.rate(sent / elapsed), output.rate(read / elapsed)
    rate = f"{requests / elapsed:.1f} requests/s"
    total = output.plural(now.counts[0], "request")
    connections = output.plural(status["totals"]["connections"], "connection")
    rows = [
        ("server", f"{status['url']}  {state}  {running} of {len(workers)} workers", draining),
        ("source", f"{output.path(status['source']['path'])}  {source}", "" if answers else "red"),
        ("cache", f"{full} {output.size(limit)}  {output.plural(cache['objects'], 'file')}", ""),
        *([("disk", trouble, "" if cache["disk"]["normal"] else "red")] if trouble else []),
        ("now", f"{sending} sent  {reading} read  {rate}  {output.share(hits, requests)} hits", ""),
        ("in all", f"{total}  {output.share(*now.counts[1::-1])} hits  {connections}", ""),
    ]
    table = Table.grid(padding=(0, 2))
    for name, text, style in rows:
        table.add_row(Text(name, style="dim"), Text(text, style=style))
    return table


def _copies(sessions: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not sessions:
        return Text("no copy is under way", style="dim")
    table = Table(box=None, padding=(0, 1), header_style="bold", expand=True)
    width = max(_NARROW, min(_WIDE, shutil.get_terminal_size().columns - _BESIDE))
    table.add_column("PATH", no_wrap=True, overflow="ellipsis", ratio=1)
    for name, least in (
        ("", width + 2),
        ("DONE", 7),
        ("SIZE", 7),
        ("RATE", 9),
        ("READERS", 7),
        ("WORKER", 6),
    ):
        justify: Literal["right", "left"] = "left" if name in ("", "WORKER") else "right"
        table.add_column(name, justify=justify, no_wrap=True, min_width=least)
    for one in sorted(sessions, key=lambda one: (-len(one["readers"]), one["path"])):
        offsets = [reader["offset"] for reader in one["readers"]]
        table.add_row(
            Text(output.path(one["path"])),
            Text(picture(one["blocks"], one["size"], offsets, width), style="cyan"),
            output.share(one["present"], one["size"]),
            output.size(one["size"]),
            output.rate(one["rate"]),
            str(len(offsets)),
            one["worker"],
        )
    return table


COMMAND: Final = Command("top", "show a running server, live", _ABOUT, _MORE, add, run)
