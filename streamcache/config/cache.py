"""``[cache]``: the fast disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from streamcache.errors import ConfigError
from streamcache.options import SHORTEST, Kind, check_fields, option
from streamcache.units import KiB

Policy = Literal["s3fifo", "lru"]
Checksum = Literal["off", "xxh3"]


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The fast disk."""

    dir: str = field(
        default="",
        metadata=option(
            Kind.PATH,
            "the directory on the fast disk, which servers with the same cache.size and"
            " cache.policy may share; empty: streamcache in your cache home"
            " (/var/cache/streamcache for root)",
            flag="--cache-dir",
            metavar="DIR",
        ),
    )
    size: int = field(
        default=0,
        metadata=option(
            Kind.SIZE,
            "the most disk space that the cache ever takes, copies in progress included",
            flag="--cache-size",
            metavar="SIZE",
            zero="half of the free space and what the cache already uses",
            minimum=64 * KiB,
        ),
    )
    high_watermark: float = field(
        default=0.95,
        metadata=option(
            Kind.SHARE,
            "the share of the size at which eviction starts, so that there is room before it is"
            " needed",
            reload=True,
        ),
    )
    low_watermark: float = field(
        default=0.85,
        metadata=option(
            Kind.SHARE,
            "the share of the size at which eviction stops; below the high watermark, so that it"
            " runs seldom",
            reload=True,
        ),
    )
    policy: Policy = field(
        default="s3fifo",
        metadata=option(
            Kind.CHOICE,
            "what is evicted first: s3fifo keeps what is asked for again and lets go of what was"
            " seen once, lru lets go of what was not asked for the longest",
            choices=get_args(Policy),
        ),
    )
    cleanup: bool = field(
        default=True,
        metadata=option(
            Kind.BOOL,
            "when false, nothing is evicted, and once the cache is full new files are served"
            " straight from the source",
            reload=True,
        ),
    )
    max_file_size: int = field(
        default=0,
        metadata=option(
            Kind.SIZE,
            "larger files are served straight from the source, so that one of them does not push"
            " out everything else",
            zero="no limit but the size of the cache",
            reload=True,
        ),
    )
    evict_interval: float = field(
        default=1.0,
        metadata=option(
            Kind.DURATION,
            "how often usage is compared with the watermarks",
            minimum=SHORTEST,
            reload=True,
        ),
    )
    touch_interval: float = field(
        default=600.0,
        metadata=option(
            Kind.DURATION,
            "one client's requests for one file within this time count as one use: a player that"
            " asks for a hundred ranges has watched one film",
            reload=True,
        ),
    )
    checksum: Checksum = field(
        default="off",
        metadata=option(
            Kind.CHOICE,
            "xxh3: a digest of each block of 64 KiB is recorded when it is copied, for"
            ' "streamcache verify --digests"; needs the extra "checksum"',
            choices=get_args(Checksum),
        ),
    )
    checksum_on_read: bool = field(
        default=False,
        metadata=option(
            Kind.BOOL,
            "when true, what is in the cache is compared with its digests before it is read for the"
            " first time after a start; what is not as it was written is copied anew",
        ),
    )
    workers: int = field(
        default=8,
        metadata=option(
            Kind.COUNT,
            "threads that read and write the cache directory; divided over the workers, at least 4"
            " each",
            minimum=1,
            maximum=1024,
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "cache")
        if self.checksum_on_read and self.checksum == "off":
            raise ConfigError(
                "cache.checksum_on_read: true is not allowed without digests; allowed: with"
                ' cache.checksum = "xxh3"'
            )
        if not 0 < self.low_watermark < self.high_watermark:
            raise ConfigError(
                f"cache.low_watermark: {self.low_watermark} is not allowed; allowed: more than 0"
                f" and less than cache.high_watermark, which is {self.high_watermark}"
            )
