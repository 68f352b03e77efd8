"""``[log]``: logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from streamcache.options import Kind, check_fields, option

Level = Literal["debug", "info", "warning", "error"]


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
    access: str = field(
        default="-",
        metadata=option(
            Kind.PATH,
            'where one line per response goes: a file, "-" for stderr, or "off"',
            reload=True,
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "log")
