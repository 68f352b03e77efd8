"""``[copy]``: how a file is copied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from streamcache.options import SHORTEST, Kind, check_fields, option
from streamcache.units import KiB

WhenIdle = Literal["finish", "stop"]


@dataclass(frozen=True, slots=True)
class CopyConfig:
    """How a file is copied."""

    when_idle: WhenIdle = field(
        default="finish",
        metadata=option(
            Kind.CHOICE,
            "what a copy does when its last client has left: finish it for the next one, or stop"
            " and keep what there is",
            choices=get_args(WhenIdle),
            reload=True,
        ),
    )
    max_idle: int = field(
        default=2,
        metadata=option(
            Kind.COUNT,
            "copies without a client that run at once; the others pause, so that people who zap"
            " through titles do not load the source; divided over the workers, rounded up",
            reload=True,
        ),
    )
    max_bandwidth: int = field(
        default=0,
        metadata=option(
            Kind.SIZE,
            "what copying ahead of the clients may take from the source; what a client waits for"
            " is never held back; divided over the workers, so one that copies alone gets its part",
            zero="no limit",
            per_second=True,
            minimum=64 * KiB,
            reload=True,
        ),
    )
    in_flight: int = field(
        default=3,
        metadata=option(
            Kind.COUNT,
            "reads that copying keeps waiting at the source at once, so that its latency does not"
            " bound the speed; divided over the workers, at least 2 each",
            minimum=1,
            maximum=256,
            reload=True,
        ),
    )
    claim_timeout: float = field(
        default=2.0,
        metadata=option(
            Kind.DURATION,
            "how long a reader waits for a block that another process is copying, before it reads"
            " the source itself: that process may be stopped",
            minimum=0.01,
            reload=True,
        ),
    )
    step_time: float = field(
        default=0.015,
        metadata=option(
            Kind.DURATION,
            "how much of the source's time one read of a copy takes: a client that seeks waits at"
            " most for the reads already started",
            minimum=SHORTEST,
            reload=True,
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "copy")
