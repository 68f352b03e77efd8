"""What the daemon tells on stdout: the ready line, and the report of ``--check``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable

from streamcache.config import TABLE
from streamcache.settings import Settings


def ready_line(url: str, *, source: str, cache: str, size: int) -> str:
    """The line other programs wait for; ``shlex.split`` takes it apart."""
    where = shlex.quote(url) if url.startswith("unix:") else url
    return (
        f"streamcache ready on {where} source={shlex.quote(source)} cache={shlex.quote(cache)}"
        f" size={size}"
    )


def report(settings: Settings) -> str:
    """Every setting as TOML with where it came from, for ``--check``."""
    config = settings.config
    workers = config.server.workers
    title = (
        f"# streamcache would serve {config.source.path} on {config.server.listen}"
        f" with {workers} worker{'s' * (workers > 1)}, cached in {config.cache.dir}"
    )
    return "\n".join((title, *settings_lines(settings, settings.origins)))


def settings_lines(settings: Settings, names: Iterable[str]) -> list[str]:
    """Lines of TOML with the origin of each value, for settings of these names ("cache.size")."""
    rows = []
    for name in names:
        section, _, key = name.partition(".")
        option, value = TABLE[section][key], getattr(getattr(settings.config, section), key)
        meaning = f" ({option.zero})" if option.zero and not value else ""
        rows.append((f"{name} = {option.format(value)}", settings.origins[name] + meaning))
    width = min(48, max((len(left) for left, _ in rows), default=0))
    return [f"{left:{width}}  # {origin}" for left, origin in rows]


def settings_json(settings: Settings, names: Iterable[str]) -> str:
    """The same as JSON: {"cache.size": {"value": ..., "origin": ...}, ...}."""
    found = {}
    for name in names:
        section, _, key = name.partition(".")
        value = getattr(getattr(settings.config, section), key)
        found[name] = {"value": value, "origin": settings.origins[name]}
    return json.dumps(found, indent=2)


def say(text: str) -> None:
    """Print to stdout and flush. A path may be no UTF-8, so it goes out as the bytes that it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(text) + b"\n")
    sys.stdout.buffer.flush()
