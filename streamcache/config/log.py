"""``[log]``: logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from streamcache.errors import ConfigError
from streamcache.options import Kind, check_fields, option

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["combined", "json"]

# What a line of the access log can have; docs/logs.md says what each is.
FIELDS: Final = (
    *("time", "client", "user", "method", "target", "protocol", "status", "bytes", "referer"),
    *("user_agent", "cache", "seconds", "range", "outcome", "bytes_cache", "bytes_source", "ttfb"),
    *("host", "pid", "worker"),
)
_USUAL: Final = ", ".join(FIELDS[:-3])


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
        ),
    )
    access: str = field(
        default="-",
        metadata=option(
            Kind.PATH, 'where one line per response goes: a file, "-" for stderr, or "off"'
        ),
    )
    format: Format = field(
        default="combined",
        metadata=option(
            Kind.CHOICE,
            "how such a line is written: the Combined format, with further fields behind it, or"
            " a JSON object",
            choices=get_args(Format),
        ),
    )
    fields: str = field(
        default=_USUAL,
        metadata=option(
            Kind.TEXT,
            "what is in a line, in this order, with commas between the names; those of the Combined"
            " format are always in it; host, pid and worker are others that there are",
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "log")
        _check_names(self.field_names)
        if self.format == "json" and not self.field_names:
            raise ConfigError(f"log.fields: '' names nothing; allowed: {', '.join(FIELDS)}")

    @property
    def field_names(self) -> tuple[str, ...]:
        """The names in ``fields``."""
        return tuple(filter(None, (name.strip() for name in self.fields.split(","))))


def _check_names(names: tuple[str, ...]) -> None:
    for place, name in enumerate(names):
        if name not in FIELDS:
            shown = repr(name) if len(name) < 80 else f"{name[:80]!r}..."
            raise ConfigError(f"log.fields: {shown} is no field; allowed: {', '.join(FIELDS)}")
        if name in names[:place]:
            raise ConfigError(f"log.fields: {name} comes twice; allowed: each field once")
