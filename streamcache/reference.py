"""The reference of all options as a TOML file: ``etc/streamcache.toml`` is this text.

After a change of the table: ``python -m streamcache.reference > etc/streamcache.toml``.
"""

from __future__ import annotations

import sys
import textwrap

from streamcache.config import SECTIONS, TABLE, default_of
from streamcache.options import Kind, Option, quoted
from streamcache.settings import variable

HEAD = """\
streamcache: every option, with its default, its unit and the reason for it.

Give this file with --config FILE. Everything below is commented out and shows the default: take
away the "#" in front of an option to change it. An option that is not known is an error.

The environment overrides this file, and flags override both: [cache] size is
STREAMCACHE_CACHE_SIZE in the environment, and --cache-size on the command line.

A change takes effect when the server is told to reload (SIGHUP, systemctl reload) where it says
"reload", and with a restart where it says "restart". An upgrade (SIGUSR2) does for those too, but
not for cache.size and cache.policy: the old server still uses the directory, and both must agree.

Sizes:      4096 (bytes), "500MB" (500 000 000 bytes), "10GiB" or "10G" (10 x 2^30 bytes).
Durations:  2 (seconds), "250ms", "2s", "5m" (minutes), "1h", "1d".
Shares:     0.95, "95%".
Paths:      relative ones start at the working directory; "~/" is your home directory."""


def toml() -> str:
    """The reference, with every option commented out."""
    parts = [_comment(HEAD)]
    for section, options in TABLE.items():
        parts.append(f"# {SECTIONS[section].__doc__}\n[{section}]")
        parts.extend(_entry(section, key, known) for key, known in options.items())
    return "\n\n".join(parts) + "\n"


def _entry(section: str, key: str, known: Option) -> str:
    about = f"{known.why[0].upper()}{known.why[1:]}."
    facts = [known.unit if known.kind is not Kind.CHOICE else f"one of {known.allowed}"]
    if known.zero:
        nothing = "empty" if known.kind in (Kind.PATH, Kind.TEXT) else "0"
        facts.append(f"{nothing}: {known.zero}")
    if known.word:
        facts.append(f'"{known.word}": {known.word_means}')
    facts.append("reload" if known.reload else "restart")
    facts.append(variable(section, key))
    if known.flag:
        facts.append(known.flag)
    # A default that depends on the machine is written as the word for it.
    default = quoted(known.word) if known.word else known.format(default_of(section, key))
    text = "\n".join((*textwrap.wrap(about, 96), *textwrap.wrap(f"({'; '.join(facts)})", 96)))
    return f"{_comment(text)}\n#{key} = {default}"


def _comment(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())


if __name__ == "__main__":
    sys.stdout.write(toml())
