"""``streamcache warm``: bring files into the cache before anybody asks for them."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from typing import Any, Final

from streamcache.cache.warmorder import AT_ONCE
from streamcache.commands import output
from streamcache.commands.asking import FOUND, Server, add_server
from streamcache.commands.command import FAILURE, OK, Command
from streamcache.commands.progress import Progress
from streamcache.commands.targets import HELP, add_targets, selections
from streamcache.daemon.announce import say
from streamcache.errors import ConfigError
from streamcache.units import parse_duration, parse_size

_POLL: Final = 0.3  # s
_MANY: Final = 1000  # files that are warmed without a question
_SHOWN: Final = 10  # failures
_MOST_PATHS: Final = 100_000

_ABOUT: Final = """\
Copy files from the source into the cache before anybody asks for them. Whoever watches something
goes before it, and who asks for a file that is being warmed joins its copy.

It makes room as any request does, but brings no more than is free and a tenth of the cache, so that
what people come back to stays; what is left out is told. With --pin what it brings is pinned."""

_MORE: Final = f"""\
{HELP}
Folders and globs are looked for at the source; names that begin with a dot are left out.

{FOUND}

    streamcache warm /premiere/                           all below a folder
    streamcache warm '/**/*.m3u8' --max-bandwidth 20MB    20 MB a second at most
    streamcache warm --from playlist.txt                  a path a line; - is stdin
    streamcache warm / --dry-run                          how much that would be
    streamcache warm /series/ --detach                    begin, print its id, and do not wait
    streamcache warm /news/ --timeout 10m                 from cron: if the source is away, end
    streamcache warm --status ID / --cancel ID            look at one, or end it

The server does the work: Ctrl-C ends the job, and what is copied so far stays. While the source
does not answer the job waits, and says so; with --timeout it ends after so long without a file or
a byte. "timeout -s INT 4h streamcache warm ..." ends it after four hours in any case. On a terminal
it asks before more than {_MANY} files are warmed. Exit codes: 0 all is there, 1 something is not
(it is named), 2 an argument is wrong, 130 ended by Ctrl-C."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_targets(parser, nargs="*")
    parser.add_argument("--from", dest="file", metavar="FILE", help="paths, one a line; - is stdin")
    parser.add_argument(
        "--max-bandwidth",
        metavar="SIZE",
        help="bytes a second that it may read (default: no limit)",
    )
    parser.add_argument(
        "--at-once",
        metavar="N",
        type=int,
        default=AT_ONCE,
        help=f"files that are copied at once (default: {AT_ONCE})",
    )
    parser.add_argument(
        "--timeout",
        metavar="DURATION",
        help="end it when nothing has come for so long, as the source does not answer, say"
        " (default: wait)",
    )
    parser.add_argument("--pin", action="store_true", help="pin what is there in the end")
    parser.add_argument("--dry-run", action="store_true", help="only count")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--detach", action="store_true", help="begin, print the id, do not wait")
    jobs = parser.add_mutually_exclusive_group()
    jobs.add_argument("--status", metavar="ID", help="show a job that was begun")
    jobs.add_argument("--cancel", metavar="ID", help="end a job")
    jobs.add_argument("--list", action="store_true", help="show all jobs")
    add_server(parser)


def run(arguments: argparse.Namespace) -> int:
    """Warm, or look after jobs."""
    looks_after = arguments.list or arguments.status or arguments.cancel
    if looks_after and (arguments.targets or arguments.file is not None):
        raise ConfigError("--list, --status and --cancel are about jobs, and take no TARGET")
    server = Server.of(arguments)
    if looks_after:
        return _look_after(server, arguments)
    orders = _orders(arguments)
    if arguments.dry_run:
        for order in orders:
            code = _wait(server, {**order, "dry_run": True}, arguments)
        return code
    if not (arguments.yes or arguments.json or arguments.detach) and not _agreed(server, orders):
        output.tell("nothing was warmed")
        return FAILURE
    codes = []
    for order in orders:
        if arguments.detach:
            begun = server.post("/api/warm", order)
            say(begun.text if arguments.json else begun.value["id"])
            codes.append(OK)
            continue
        codes.append(_wait(server, order, arguments))
        if codes[-1] not in (OK, FAILURE):
            break
    return max(codes)


def _orders(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What the API is asked for: all paths in one job, each folder and glob in its own."""
    meant: list[dict[str, Any]] = list(selections(arguments))
    paths = [each.pop("path") for each in meant if "path" in each]
    if arguments.file is not None:
        paths += _read_paths(arguments.file)
    if paths:
        meant.insert(0, {"paths": list(dict.fromkeys(paths))})
    orders = [each for each in meant if each]
    if not orders:
        raise ConfigError("name what is to be warmed: a TARGET, or --from FILE")
    common: dict[str, Any] = {"at_once": arguments.at_once}
    if arguments.max_bandwidth is not None:
        try:
            common["max_bandwidth"] = parse_size(arguments.max_bandwidth)
        except ValueError as error:
            raise ConfigError(f"--max-bandwidth: {error}") from None
    if arguments.timeout is not None:
        common["timeout"] = _whole_seconds(arguments.timeout)
    if arguments.pin:
        common["pin"] = True
    return [{**order, **common} for order in orders]


def _whole_seconds(text: str) -> int:
    try:
        return math.ceil(parse_duration(text))
    except ValueError as error:
        raise ConfigError(f"--timeout: {error}") from None


def _read_paths(name: str) -> list[str]:
    try:
        if name == "-":
            raw = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:
                raw = file.read()
    except OSError as error:
        raise ConfigError(f"--from: {name!r}: {error.strerror}") from None
    lines = raw.decode("utf-8", "surrogateescape").splitlines()
    paths = [line for line in lines if line.strip() and not line.startswith("#")]
    if len(paths) > _MOST_PATHS:
        raise ConfigError(f"--from: {name!r} has {len(paths)} paths; allowed: {_MOST_PATHS}")
    return [path if path.startswith("/") else f"/{path}" for path in paths]


def _agreed(server: Server, orders: list[dict[str, Any]]) -> bool:
    """Whether it is to be done, asked where somebody can answer and much would be read."""
    if not output.can_ask():
        return True
    found = [_job(server, {**order, "dry_run": True}, "counting") for order in orders]
    files, size = (sum(one[name] for one in found) for name in ("files", "bytes"))
    return files <= _MANY or output.confirm(
        f"Warm {output.plural(files, 'file')} ({output.size(size)})?"
    )


def _wait(server: Server, order: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Begin, show how far it is until it ends; Ctrl-C ends it."""
    try:
        job = _job(server, order, "warm" if not order.get("dry_run") else "counting")
    except _Interrupted as interrupted:
        job = interrupted.job
        if not arguments.json:
            output.tell("ended by Ctrl-C; what is copied so far stays")
    if arguments.json:
        say(server.get(f"/api/warm/{job['id']}").text)
    else:
        say(_shown(job))
        _tell_failures(job)
    if job["state"] == "cancelled":
        return 128 + signal.SIGINT
    fine = job["state"] == "done" or (job["state"] == "full" and job["dry_run"])
    return OK if fine and not job["failed"] else FAILURE


class _Interrupted(Exception):
    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()
        self.job = job


def _job(server: Server, order: dict[str, Any], what: str) -> dict[str, Any]:
    """Begin one and wait for its end. _Interrupted by Ctrl-C, which has ended it."""
    id = server.post("/api/warm", order).value["id"]
    try:
        with Progress(what) as line:
            while True:
                job: dict[str, Any] = server.get(f"/api/warm/{id}").value
                if job["state"] != "running":
                    return job
                files = (
                    f"{output.count(job['files_done'])} of {output.plural(job['files'], 'file')}"
                )
                if why := job["waiting"]:
                    files += f"; waiting: {why}"
                line.show(
                    job["bytes_done"],
                    job["bytes"],
                    text=files,
                    rate=job["rate"],
                    remaining=job["remaining"],
                )
                time.sleep(_POLL)
    except KeyboardInterrupt:
        server.delete(f"/api/warm/{id}")
        raise _Interrupted(server.get(f"/api/warm/{id}").value) from None


def _shown(job: dict[str, Any]) -> str:
    done, files = output.count(job["files_done"]), output.plural(job["files"], "file")
    if job["dry_run"]:
        text = f"{files}, {output.size(job['bytes'])}, {done} of them there already"
    else:
        size = f"{output.size(job['bytes_done'])} of {output.size(job['bytes'])}"
        text = f"{done} of {files} in the cache, {size}"
    if left := job["left_out"]:
        would = "would be " if job["dry_run"] else ""
        text += (
            f"; {output.plural(left, 'file')} {would}left out, as"
            f" {'it' if left == 1 else 'they'} would push out others"
        )
    return text


def _tell_failures(job: dict[str, Any]) -> None:
    failed = job["failed"]
    for one in failed[:_SHOWN]:
        output.tell(f"not warmed: {output.path(one['path'])}: {one['error']}")
    number = job["failures"]
    if number > _SHOWN:
        output.tell(f"and {output.count(number - _SHOWN)} more")


def _look_after(server: Server, arguments: argparse.Namespace) -> int:
    if arguments.cancel:
        before = server.get(f"/api/warm/{arguments.cancel}").value["state"]
        answer = server.delete(f"/api/warm/{arguments.cancel}")
        told = "ended" if before == "running" else f"had ended already: {before}"
        say(answer.text if arguments.json else f"{arguments.cancel} {told}")
        return OK
    if arguments.status:
        answer = server.get(f"/api/warm/{arguments.status}")
        say(answer.text if arguments.json else f"{_state(answer.value)}: {_shown(answer.value)}")
        if not arguments.json:
            _tell_failures(answer.value)
        return OK
    answer = server.get("/api/warm")
    if arguments.json:
        say(answer.text)
        return OK
    jobs = answer.value["jobs"]
    rows = [(job["id"], _state(job), output.plain(job["what"]), _shown(job)) for job in jobs]
    if rows:
        say(output.table(rows, head=("ID", "STATE", "FILES", "DONE")))
    else:
        output.tell("there is no job")
    return OK


def _state(job: dict[str, Any]) -> str:
    """For the list: a dry run has brought nothing, and one that waits says for what."""
    words = [job["state"]]
    if job["dry_run"]:
        words.append("dry run")
    if job["waiting"]:
        words.append(f"waiting: {job['waiting']}")
    return ", ".join(words)


COMMAND: Final = Command(
    "warm", "bring files into the cache before anybody asks", _ABOUT, _MORE, add, run
)
