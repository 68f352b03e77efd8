"""``streamcache verify``: is everything in a cache directory what it should be?"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Final

from streamcache.commands import output
from streamcache.commands.command import FAILURE, OK, Command
from streamcache.commands.progress import Progress
from streamcache.errors import ConfigError
from streamcache.settings import Settings, load

if TYPE_CHECKING:
    from streamcache.cache.digests import Digest
    from streamcache.inspection.findings import Finding, Report
    from streamcache.inspection.inspection import Inspection
    from streamcache.source.filesystem import FileSystemSource


_ABOUT: Final = """\
Look through a cache directory: folders, names, sizes, what the catalog counts, partials and trash;
with --source also whether the objects are what the source has now, with --digests whether each
block is what was written. Servers may use the directory meanwhile.

    streamcache verify --cache-dir /fast/cache --source /mnt/films"""

_MORE: Final = """\
One line is printed for each thing that is wrong, and one at the end. With --repair what is
damaged, outdated or not ours is removed (a server copies it anew when it is next asked for; who
reads it goes on), and the catalog is corrected. Foreign folders, and files beside the folders of
the cache, are left alone. Without --repair nothing is written.

Digests are recorded with cache.checksum = "xxh3", and need the extra "checksum". How far it is
is shown on a terminal; else there is a line every 5 s on stderr.

Exit codes: 0 nothing is wrong, 1 something is or was (the last line says whether all of it was
repaired), 2 an argument is wrong or there is no cache, 130 Ctrl-C."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--cache-dir", metavar="DIR", help="the cache directory")
    parser.add_argument(
        "--source", metavar="DIR", help="compare the objects with the files below this directory"
    )
    parser.add_argument("--repair", action="store_true", help="make right what is wrong")
    parser.add_argument(
        "--digests", action="store_true", help="read everything and compare it with its digests"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument(
        "--config", metavar="FILE", help="the server's TOML file: cache.dir, source.id and identity"
    )


def run(arguments: argparse.Namespace) -> int:
    """Look, print what is found, say so with the exit code. ConfigError, CacheError, OSError."""
    settings = _settings(arguments)
    # Not before the settings are right.
    from streamcache.errors import CacheError
    from streamcache.inspection.findings import Report
    from streamcache.inspection.inspection import Inspection

    report, interrupted = Report(), False
    try:
        source = _source(settings) if arguments.source else None
        with contextlib.ExitStack() as stack:
            line = stack.enter_context(Progress("verify"))
            inspection = Inspection(
                settings.config.cache.dir,
                source=source,
                identity=settings.config.source.identity,
                digest=_digest() if arguments.digests else None,
                repair=arguments.repair,
                found=(lambda finding: None) if arguments.json else _print,
                progress=lambda done, total: line.show(
                    done, total, text=f"{done} of {total} objects"
                ),
            )
            report = inspection.report
            try:
                stack.enter_context(inspection)
            except (CacheError, OSError) as error:
                raise ConfigError(f"--cache-dir: {error}") from error
            if source is not None:
                _expect_mount(inspection, source)
            inspection.run()
    except KeyboardInterrupt:
        interrupted = True
    print(_json(settings, report) if arguments.json else _summary(report, arguments), flush=True)
    if interrupted:
        return 128 + signal.SIGINT
    return FAILURE if report.findings else OK


def _settings(arguments: argparse.Namespace) -> Settings:
    flags = {"cache.dir": arguments.cache_dir, "source.path": arguments.source}
    given = {name: os.path.abspath(value) for name, value in flags.items() if value is not None}
    settings = load(file=arguments.config, flags=given)
    if not settings.config.cache.dir:
        raise ConfigError("no --cache-dir given; allowed: a cache directory of streamcache")
    return settings


def _source(settings: Settings) -> FileSystemSource:
    from streamcache.source.filesystem import FileSystemSource

    config = settings.config.source
    if not os.path.isdir(config.path):
        raise ConfigError(f"--source: {config.path!r} is no directory")
    return FileSystemSource(config.path, id=config.id, identity=config.identity)


def _digest() -> Digest:
    from streamcache.cache.digests import digest

    try:
        return digest()
    except ConfigError as error:
        raise ConfigError(f"--digests: {error}") from None


def _expect_mount(inspection: Inspection, source: FileSystemSource) -> None:
    """A source that is not mounted is no reason to take its files for gone (I15)."""
    expected = inspection.expected_mount(source.id, source.mount_point)
    if expected != source.mount_point:
        raise ConfigError(
            f"--source: {source.root!r} is not mounted; it was at {expected!r} when a server saw it"
        )


# -- what is printed


def _print(finding: Finding) -> None:
    where = f" {_shown(finding.shown)}" if finding.shown not in ("", finding.name) else ""
    done = {"none": "", "done": " (repaired)", "left": " (not repaired)"}[finding.repair.value]
    line = f"{finding.kind.value:9} {_shown(finding.name)}{where}: {_shown(finding.text)}{done}"
    print(line, flush=True)


def _shown(text: str) -> str:
    """Names may have any character: none of them makes a line of its own, or colours."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _summary(report: Report, arguments: argparse.Namespace) -> str:
    looked = (
        f"{output.plural(report.objects, 'object')} ({report.bytes} bytes),"
        f" {output.plural(report.partials, 'partial')}"
    )
    parts = [looked if report.finished else f"interrupted after {looked}"]
    if arguments.source:
        parts.append(f"{report.compared} compared with the source")
    if arguments.digests:
        parts.append(f"{report.digested} with their digests, {report.undigested} have none")
    if report.busy:
        parts.append(f"{report.busy} were being worked on")
    found, repaired = len(report.findings), report.repaired
    if not found:
        parts.append("nothing wrong" if report.finished else "nothing wrong so far")
    elif found == repaired:
        parts.append(f"{output.plural(found, 'problem')}, all repaired")
    else:
        parts.append(
            output.plural(found, "problem") + (f", {repaired} repaired" if repaired else "")
        )
    return "; ".join(parts)


def _json(settings: Settings, report: Report) -> str:
    findings = [
        {
            "kind": finding.kind.value,
            "name": finding.name,
            "path": finding.shown,
            "text": finding.text,
            "repair": finding.repair.value,
        }
        for finding in report.findings
    ]
    counts = ("objects", "bytes", "partials", "compared", "digested", "undigested", "busy")
    return json.dumps(
        {
            "cache_dir": settings.config.cache.dir,
            "finished": report.finished,
            **{name: getattr(report, name) for name in counts},
            "repaired": report.repaired,
            "findings": findings,
        }
    )


COMMAND: Final = Command(
    "verify", "check a cache directory, and repair it", _ABOUT, _MORE, add, run
)
