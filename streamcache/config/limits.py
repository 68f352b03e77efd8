"""``[limits]``: what one client may take."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamcache.options import SHORTEST, Kind, check_fields, option
from streamcache.units import KiB, MiB


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """What one client may take."""

    connections: int = field(
        default=0,
        metadata=option(
            Kind.COUNT,
            "clients connected at once; one more is answered with 503; divided over the workers,"
            " rounded up",
            zero="as many as each worker may open files for",
            reload=True,
        ),
    )
    per_address: int = field(
        default=0,
        metadata=option(
            Kind.COUNT,
            "connections of one client address (of IPv6: of a /64) at once, over all workers; one"
            " more is answered with 429; a player has up to 6, and a household, a school or a"
            " mobile network may be one address; trusted proxies and Unix sockets are not counted",
            zero="no limit",
            reload=True,
        ),
    )
    head_size: int = field(
        default=32 * KiB,
        metadata=option(
            Kind.SIZE,
            "bytes of a request's first line and fields, as each connection may hold that much"
            " memory",
            minimum=64,
            maximum=16 * MiB,
            reload=True,
        ),
    )
    target_size: int = field(
        default=8 * KiB,
        metadata=option(
            Kind.SIZE,
            "bytes of the path and query in a request",
            minimum=16,
            maximum=16 * MiB,
            reload=True,
        ),
    )
    fields: int = field(
        default=100,
        metadata=option(Kind.COUNT, "header fields of a request", minimum=1, reload=True),
    )
    ranges: int = field(
        default=16,
        metadata=option(
            Kind.COUNT,
            "ranges of one request; more are answered with the whole file",
            minimum=1,
            reload=True,
        ),
    )
    body_size: int = field(
        default=1 * MiB,
        metadata=option(
            Kind.SIZE,
            "bytes of a request body that are read and thrown away to keep the connection; more"
            " close it",
            reload=True,
        ),
    )
    head_timeout: float = field(
        default=10.0,
        metadata=option(
            Kind.DURATION,
            "from the first byte of a request's head to its last: clients that dribble must not"
            " hold connections",
            minimum=SHORTEST,
            reload=True,
        ),
    )
    keepalive_timeout: float = field(
        default=75.0,
        metadata=option(
            Kind.DURATION,
            "how long a connection may be open without a request",
            minimum=SHORTEST,
            reload=True,
        ),
    )
    send_timeout: float = field(
        default=30.0,
        metadata=option(
            Kind.DURATION,
            "how long a client may take not a single byte of a response",
            minimum=SHORTEST,
            reload=True,
        ),
    )
    body_timeout: float = field(
        default=10.0,
        metadata=option(
            Kind.DURATION,
            "how long a client may take to send a request body",
            minimum=SHORTEST,
            reload=True,
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "limits")
