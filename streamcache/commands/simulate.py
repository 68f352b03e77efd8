"""``streamcache simulate``: how big a cache would have to be, from an access log."""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import itertools
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any, BinaryIO, Final

from streamcache.commands import output
from streamcache.commands.command import OK, Command
from streamcache.commands.progress import Progress
from streamcache.daemon.announce import say
from streamcache.errors import ConfigError
from streamcache.extras import installing
from streamcache.simulation.loglines import read_line
from streamcache.simulation.replay import ALL, Outcome, SimulatedPolicy, replay
from streamcache.simulation.trace import Reading, Trace
from streamcache.units import parse_size

_LINES: Final = 10_000  # between two words of how far it is
_GZIP: Final = b"\x1f\x8b"

_ABOUT: Final = """\
Answer "how big a cache do I need?": read access logs and replay them over caches of these sizes.
The object hit ratio is the part of all uses whose file would have been there; the byte hit ratio
weighs each use with the size of its file, and is what the source would have been spared."""

_MORE: Final = f"""\
    streamcache simulate access.log
    streamcache simulate access.log.2.gz access.log.1 --size 100GB,500GB,1TB --policy s3fifo
    streamcache simulate access.log --source /mnt/films --plot hits.png

It reads our access log (combined or JSON) and those of nginx and Apache; .gz too, - is stdin. Logs
are put in the order of their first lines. All requests of a client for a file within ten minutes
are one use, as the cache counts them. Sizes are what the log shows: of a file that nobody read to
its end, nginx's logs say too little, and so may ours; --source looks at the files themselves. Each
miss copies its file whole, and room is made at once, so a real cache is a little worse. sieve is
there to compare with: the cache has s3fifo and lru. The plot needs matplotlib:
    {installing("matplotlib")}"""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument(
        "logs", metavar="ACCESS_LOG", nargs="+", help="in any order; - is stdin, the newest"
    )
    parser.add_argument(
        "--size",
        metavar="SIZE,...",
        help="sizes of the cache (default: eight, up to that of all files together)",
    )
    parser.add_argument(
        "--policy",
        metavar="NAME,...",
        default="lru,s3fifo,sieve",
        help="orders of eviction: lru, s3fifo, sieve (default: all)",
    )
    parser.add_argument("--source", metavar="DIR", help="take the sizes of the files from here")
    parser.add_argument("--plot", metavar="FILE", help="write a picture, as PNG")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Read, replay, print. ConfigError, OSError."""
    policies = _policies(arguments.policy)
    sizes = _sizes(arguments.size)
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f"--plot needs matplotlib: {installing('matplotlib')}")
    if arguments.plot:
        _check_plot(arguments.plot)
    trace = _read(_in_order(arguments.logs), arguments.source)
    if not trace.uses:
        raise ConfigError(
            f"{', '.join(arguments.logs)}: {output.plural(trace.lines, 'line')}, and no answer with"
            " bytes of a file in them; allowed: access logs of streamcache, nginx or Apache"
        )
    sizes = sizes or [max(1, trace.footprint * part // 100) for part in (1, 2, 5, 10, 20, 40, 70)]
    if not arguments.size:
        sizes = sorted({*sizes, trace.footprint})
    outcomes = _replay_all(trace, policies, sizes)
    if arguments.json:
        say(json.dumps(_as_json(trace, outcomes), indent=2))
    else:
        _show(trace, outcomes)
    if arguments.plot:
        _draw(trace, outcomes, arguments.plot)
    return OK


def _policies(text: str) -> list[SimulatedPolicy]:
    known: dict[str, SimulatedPolicy] = {name: name for name in ALL}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError(f"--policy: {name!r} is not known; allowed: {', '.join(ALL)}")
    return [known[name] for name in dict.fromkeys(names)]


def _sizes(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        sizes = sorted({parse_size(each.strip()) for each in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"--size: {error}") from None
    if not sizes[0]:
        raise ConfigError("--size: 0 is no size of a cache; allowed: 1B and more")
    return sizes


def _check_plot(file: str) -> None:
    """That it can be written, before the work is done for it. ConfigError."""
    folder = os.path.dirname(file) or "."
    if os.path.isdir(file):
        raise ConfigError(f"--plot: {file!r} is a directory; allowed: a file")
    if not os.path.isdir(folder):
        raise ConfigError(f"--plot: {file!r}: there is no directory {folder!r}")
    if not os.access(file if os.path.exists(file) else folder, os.W_OK):
        raise ConfigError(f"--plot: {file!r} cannot be written")


def _in_order(logs: list[str]) -> list[str]:
    """Those that begin first come first, in the order given where that is not known."""
    return sorted(logs, key=_begin) if len(logs) > 1 else logs


def _begin(name: str) -> float:
    """When the first use in a log was, in s since the epoch; infinity: not known."""
    if name == "-" or not os.path.isfile(name):  # read once only
        return math.inf
    with ExitStack() as stack:
        for line in next(_batches(name, _open(name, stack)[1]), []):
            with suppress(ValueError):
                if (use := read_line(line)) is not None:
                    return use.time
    return math.inf


def _read(logs: list[str], source: str | None) -> Trace:
    reading = Reading()
    lengths = {name: os.path.getsize(name) for name in logs if os.path.isfile(name)}
    whole, before = sum(lengths.values()), 0
    with Progress("reading") as line:
        for name in logs:
            with ExitStack() as stack:
                raw, text = _open(name, stack)
                for batch in _batches(name, text):
                    reading.feed(batch)
                    at = before + (raw.tell() if name in lengths else 0)
                    line.show(at, whole, text=output.plural(reading.trace.lines, "line"))
            before += lengths.get(name, 0)
    trace = reading.end()
    if source is not None:
        trace.guessed = _measure(trace, reading.paths, source)
    return trace


def _open(name: str, stack: ExitStack) -> tuple[BinaryIO, io.TextIOWrapper]:
    """The file as it is, to see how far it is read, and its lines. ConfigError."""
    raw: BinaryIO = sys.stdin.buffer
    if name != "-":
        try:
            raw = stack.enter_context(io.BufferedReader(io.FileIO(name)))
        except OSError as error:
            raise ConfigError(f"{name!r}: {error.strerror}") from None
    head = raw.peek(2)[:2] if isinstance(raw, io.BufferedReader) else b""
    data = gzip.GzipFile(fileobj=raw) if head == _GZIP else raw
    text = io.TextIOWrapper(data, encoding="utf-8", errors="surrogateescape", newline="\n")
    stack.callback(text.detach)  # stdin is not ours to close
    return raw, text


def _batches(name: str, text: io.TextIOWrapper) -> Iterator[list[str]]:
    try:
        while batch := list(itertools.islice(text, _LINES)):
            yield batch
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{name!r}: {error}") from None


def _measure(trace: Trace, paths: dict[str, int], source: str) -> int:
    """Take the sizes of the files that are there; how many are not."""
    if not os.path.isdir(source):
        raise ConfigError(f"--source: {source!r}: a directory is needed")
    missing = 0
    with Progress("measuring") as line:
        for done, (path, number) in enumerate(paths.items()):
            line.show(done, len(paths))
            try:
                trace.sizes[number] = os.stat(os.path.join(source, path.lstrip("/"))).st_size
            except (OSError, ValueError):
                missing += 1
    return missing


def _replay_all(trace: Trace, policies: list[SimulatedPolicy], sizes: list[int]) -> list[Outcome]:
    runs = [(policy, size) for size in sizes for policy in policies]
    outcomes = []
    with Progress("replaying") as line:
        for number, (policy, size) in enumerate(runs):
            label = f"{policy} with {output.size(size)}"

            def show(done: int, number: int = number, label: str = label) -> None:
                whole = len(trace.uses)
                line.show(number * whole + done, len(runs) * whole, text=label)

            outcomes.append(replay(trace, policy, size, show))
    return outcomes


def _show(trace: Trace, outcomes: list[Outcome]) -> None:
    span = output.duration(trace.last - trace.first)
    say(
        f"{output.plural(trace.requests, 'request')} in {span}:"
        f" {output.plural(len(trace.uses), 'use')} of {output.plural(len(trace.sizes), 'file')},"
        f" {output.size(trace.footprint)} together\n"
    )
    rows = [
        (
            output.size(one.size),
            output.share(one.size, trace.footprint),
            one.policy,
            f"{100 * one.byte_hit_ratio:.1f} %",
            f"{100 * one.hit_ratio:.1f} %",
            output.size(one.bytes - one.bytes_hit),
            output.count(one.evictions),
        )
        for one in outcomes
    ]
    head = ("SIZE", "OF ALL", "POLICY", "BYTE HITS", "OBJECT HITS", "FROM SOURCE", "EVICTED")
    say(output.table(rows, head=head, right="rrlrrrr"))
    if trace.guessed:
        output.tell(
            f"of {output.plural(trace.guessed, 'file')} the size is a guess, at least what was read"
            " (--source DIR looks at the files)"
        )
    if trace.unread:
        output.tell(f"{output.plural(trace.unread, 'line')} passed over: not of an access log")


def _as_json(trace: Trace, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "requests": trace.requests,
        "uses": len(trace.uses),
        "files": len(trace.sizes),
        "footprint": trace.footprint,
        "guessed": trace.guessed,
        "unread": trace.unread,
        "first": trace.first,
        "last": trace.last,
        "outcomes": [
            {**asdict(one), "hit_ratio": one.hit_ratio, "byte_hit_ratio": one.byte_hit_ratio}
            for one in outcomes
        ],
    }


def _draw(trace: Trace, outcomes: list[Outcome], file: str) -> None:
    from streamcache.simulation.plot import plot

    plot(outcomes, trace.footprint, file)
    output.tell(f"{file} written")


COMMAND: Final = Command(
    "simulate", "say how big a cache has to be, from access logs", _ABOUT, _MORE, add, run
)
