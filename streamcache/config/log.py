"""``[log]``: logs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from streamcache.errors import ConfigError
from streamcache.globs import compile_glob
from streamcache.options import Kind, check_fields, option

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["combined", "json"]
Errors = Literal["text", "json"]

# What a line of the access log can have; docs/logs.md says what each is.
FIELDS: Final = (
    *("time", "client", "user", "method", "target", "protocol", "status", "bytes", "referer"),
    *("user_agent", "cache", "seconds", "range", "outcome", "bytes_cache", "bytes_source", "ttfb"),
    *("host", "request_id", "pid", "worker"),
)
_USUAL: Final = ", ".join(FIELDS[:-4])


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Logs."""

    level: Level = field(
        default="info",
        metadata=option(
            Kind.CHOICE,
            "the least serious messages that are written to stderr",
            flag="--log-level",
            metavar="LEVEL",
            choices=get_args(Level),
            reload=True,
        ),
    )
    errors: Errors = field(
        default="text",
        metadata=option(
            Kind.CHOICE,
            "how they are written: a line of text for each, or a JSON object",
            choices=get_args(Errors),
            reload=True,
        ),
    )
    access: str = field(
        default="-",
        metadata=option(
            Kind.PATH,
            'where one line per response goes: a file, "-" for stderr, or "off"',
            reload=True,
        ),
    )
    format: Format = field(
        default="combined",
        metadata=option(
            Kind.CHOICE,
            "how such a line is written: the Combined format, with further fields behind it, or"
            " a JSON object",
            choices=get_args(Format),
            reload=True,
        ),
    )
    fields: str = field(
        default=_USUAL,
        metadata=option(
            Kind.TEXT,
            "what is in a line, in this order, with commas between the names; those of the Combined"
            " format are always in it; others are host, request_id, pid and worker",
            reload=True,
        ),
    )
    ignore_networks: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            "addresses, networks or unix, with commas between them: clients that are never in the"
            " access log, as health checks",
            reload=True,
        ),
    )
    ignore_paths: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            "globs of paths that are never in the access log, with commas between them: * and ?"
            " stay within one name, ** is any number of names, as in /probe.txt, /thumbs/**",
            reload=True,
        ),
    )
    sample: float = field(
        default=1.0,
        metadata=option(
            Kind.SHARE,
            "how much of the access log is written, each response by chance; errors (status 400"
            " and above) and responses that were cut always are",
            reload=True,
        ),
    )
    request_id: bool = field(
        default=False,
        metadata=option(
            Kind.BOOL,
            "give each request an id, that of X-Request-ID if one of access.trusted_proxies sends"
            " it, and send it back: it is in its line of the access log and in those about errors",
            reload=True,
        ),
    )
    server_timing: bool = field(
        default=False,
        metadata=option(
            Kind.BOOL,
            "send Server-Timing with how the cache answered, how long that took, and the request's"
            " id: browsers show it; everybody who asks gets to know it",
            reload=True,
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "log")
        given = _names(self.fields)
        _check_names(given)
        if self.format == "json" and not given:
            raise ConfigError(f"log.fields: '' names nothing; allowed: {', '.join(FIELDS)}")
        if self.ignore_networks:
            from streamcache.access.networks import Network, entries

            try:
                for entry in entries(self.ignore_networks):
                    Network.parse(entry)
            except ValueError as error:
                raise ConfigError(f"log.ignore_networks: {error}") from None
        self.ignored_paths()

    def ignored_paths(self) -> list[re.Pattern[str]]:
        """What fits paths, without their first slash, that are not logged."""
        try:
            return [_compiled(glob) for glob in _names(self.ignore_paths)]
        except ValueError as error:
            raise ConfigError(f"log.ignore_paths: {error}") from None

    @property
    def has_ids(self) -> bool:
        """Whether requests have ids."""
        return self.request_id or self.server_timing or "request_id" in _names(self.fields)

    @property
    def field_names(self) -> tuple[str, ...]:
        """What is in a line: the names in ``fields``, and the id if there is one."""
        given = _names(self.fields)
        return (*given, "request_id") if self.has_ids and "request_id" not in given else given


def _compiled(glob: str) -> re.Pattern[str]:
    if not glob.startswith("/"):
        raise ValueError(f"{glob[:80]!r} fits no path; allowed: globs that begin with /")
    return compile_glob(glob[1:])


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _check_names(names: tuple[str, ...]) -> None:
    for place, name in enumerate(names):
        if name not in FIELDS:
            shown = repr(name) if len(name) < 80 else f"{name[:80]!r}..."
            raise ConfigError(f"log.fields: {shown} is no field; allowed: {', '.join(FIELDS)}")
        if name in names[:place]:
            raise ConfigError(f"log.fields: {name} comes twice; allowed: each field once")
