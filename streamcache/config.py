"""The one table of tunables: every option with its default, its unit and the reason for it.

Values are frozen and validated at birth, so whoever holds a ``Config`` need not check it again.
``settings.py`` makes one from a TOML file, the environment and the command line.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from streamcache.errors import ConfigError
from streamcache.options import Kind, Option, check_fields, option, options_of

if TYPE_CHECKING:
    from streamcache.access.authorize import AccessRules

KiB, MiB, GiB = 1024, 1024**2, 1024**3
_MOST_WORKERS: Final = 1024
_MS = 0.001  # the shortest deadline: one of 0 would fail everything

Identity = Literal["mtime", "mtime+ctime", "mtime+inode"]
Policy = Literal["s3fifo", "lru"]
WhenIdle = Literal["finish", "stop"]
Level = Literal["debug", "info", "warning", "error"]


def usable_cores() -> int:
    """How many cores this process may use (taskset, cpuset); a quota of CPU time is not seen."""
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where bytes come from, and how far it is trusted."""

    path: str = field(
        default="", metadata=option(Kind.PATH, "the directory that is served", flag="SOURCE")
    )
    id: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            "names the source in the cache, so that what was cached survives a move of the mount"
            " point; empty: the real path of the source",
        ),
    )
    revalidate: float = field(
        default=2.0,
        metadata=option(
            Kind.DURATION,
            "how long a file counts as unchanged before the source is asked again: longer spares"
            " the source, shorter shows changes sooner",
            flag="--revalidate",
            metavar="DURATION",
            zero="every request asks",
        ),
    )
    revalidate_wait: float = field(
        default=0.25,
        metadata=option(
            Kind.DURATION,
            "how long a request for a cached file waits for that answer before it gets what is"
            " cached: a slow source must not slow down hits",
        ),
    )
    stale_if_error: float = field(
        default=3600.0,
        metadata=option(
            Kind.DURATION,
            "how long cached files are still served while the source cannot be reached",
        ),
    )
    negative_ttl: float = field(
        default=1.0,
        metadata=option(
            Kind.DURATION,
            'how long "no such file" is remembered, so that a crowd on a missing file asks the'
            " source once",
        ),
    )
    settle: float = field(
        default=10.0,
        metadata=option(
            Kind.DURATION,
            "how long a file must be unchanged before it is cached: a file that is still being"
            " written is served straight from the source",
        ),
    )
    timeout: float = field(
        default=10.0,
        metadata=option(
            Kind.DURATION,
            "how long a request waits for the source before it fails with 504",
            minimum=_MS,
        ),
    )
    identity: Identity = field(
        default="mtime",
        metadata=option(
            Kind.CHOICE,
            "what beside the size tells two versions of a file apart: add ctime or inode when"
            " files are replaced with their old times, but not where backups by hard links"
            " change ctime",
            choices=get_args(Identity),
        ),
    )
    workers: int = field(
        default=16,
        metadata=option(
            Kind.COUNT,
            "threads that read the source: as many reads can wait for it at once; divided over"
            " the workers, at least 4 each",
            minimum=1,
            maximum=1024,
        ),
    )
    meta_workers: int = field(
        default=8,
        metadata=option(
            Kind.COUNT,
            "threads that open and stat files of the source, so that these never wait behind reads;"
            " divided over the workers, at least 4 each",
            minimum=1,
            maximum=1024,
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "source")


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
        ),
    )
    low_watermark: float = field(
        default=0.85,
        metadata=option(
            Kind.SHARE,
            "the share of the size at which eviction stops; below the high watermark, so that it"
            " runs seldom",
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
        ),
    )
    max_file_size: int = field(
        default=0,
        metadata=option(
            Kind.SIZE,
            "larger files are served straight from the source, so that one of them does not push"
            " out everything else",
            zero="no limit but the size of the cache",
        ),
    )
    evict_interval: float = field(
        default=1.0,
        metadata=option(
            Kind.DURATION, "how often usage is compared with the watermarks", minimum=_MS
        ),
    )
    touch_interval: float = field(
        default=600.0,
        metadata=option(
            Kind.DURATION,
            "one client's requests for one file within this time count as one use: a player that"
            " asks for a hundred ranges has watched one film",
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
        if not 0 < self.low_watermark < self.high_watermark:
            raise ConfigError(
                f"cache.low_watermark: {self.low_watermark} is not allowed; allowed: more than 0"
                f" and less than cache.high_watermark, which is {self.high_watermark}"
            )


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
        ),
    )
    max_idle: int = field(
        default=2,
        metadata=option(
            Kind.COUNT,
            "copies without a client that run at once; the others pause, so that people who zap"
            " through titles do not load the source; divided over the workers, rounded up",
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
        ),
    )
    claim_timeout: float = field(
        default=2.0,
        metadata=option(
            Kind.DURATION,
            "how long a reader waits for a block that another process is copying, before it reads"
            " the source itself: that process may be stopped",
            minimum=0.01,
        ),
    )
    step_time: float = field(
        default=0.015,
        metadata=option(
            Kind.DURATION,
            "how much of the source's time one read of a copy takes: a client that seeks waits at"
            " most for the reads already started",
            minimum=_MS,
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "copy")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The listener."""

    listen: str = field(
        default="127.0.0.1:8080",
        metadata=option(
            Kind.TEXT,
            "where clients connect: HOST:PORT, [IPv6]:PORT or unix:PATH; port 0 takes a free one,"
            " 0.0.0.0 or [::] let other machines in",
            flag="--listen",
            metavar="HOST:PORT",
        ),
    )
    workers: int = field(
        default_factory=usable_cores,
        metadata=option(
            Kind.COUNT,
            "processes that serve, as one uses one core: a crash of one of several ends its own"
            " responses only, and it is started again; a single one has no supervisor, and its"
            " crash ends the daemon",
            flag="--workers",
            metavar="N",
            minimum=1,
            maximum=_MOST_WORKERS,
            word="cores",
            word_means="one for each core that the daemon may use",
            measured=usable_cores,
        ),
    )
    backlog: int = field(
        default=4096,
        metadata=option(
            Kind.COUNT,
            "connections that the kernel holds until they are accepted; it lowers this to"
            " net.core.somaxconn",
            minimum=1,
        ),
    )
    drain_timeout: float = field(
        default=300.0,
        metadata=option(
            Kind.DURATION,
            "how long running responses may take to finish after the first SIGTERM or SIGINT",
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "server")


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Who may read what."""

    networks: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            "who may connect: allow or deny, and all, an address, a network or unix, with commas"
            " between them; the first that fits decides; empty: everybody",
        ),
    )
    trusted_proxies: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            "addresses, networks or unix, with commas between them: the proxies whose"
            " X-Forwarded-For says who the client is; nobody else's is believed",
        ),
    )
    proxy_protocol: bool = field(
        default=False,
        metadata=option(
            Kind.BOOL,
            "every connection begins with a PROXY header (version 1 or 2) and comes from one of"
            " trusted_proxies; others are closed",
        ),
    )
    keys: str = field(
        default="",
        metadata=option(
            Kind.PATH,
            "a file of keys, lines of an id and hexadecimal digits: then a signed URL is needed"
            ' (see "streamcache sign --help"), or a password; empty: none',
        ),
    )
    htpasswd: str = field(
        default="",
        metadata=option(
            Kind.PATH,
            "a file of users and bcrypt hashes (htpasswd -B): then a password is needed, or a"
            ' signed URL; empty: none; needs pip install "streamcache[auth]"',
        ),
    )
    realm: str = field(
        default="streamcache",
        metadata=option(Kind.TEXT, "what a browser calls the place that it asks a password for"),
    )

    def __post_init__(self) -> None:
        check_fields(self, "access")
        if self.restricts:
            from streamcache.access.authorize import Access

            Access(self.rules())  # raises ConfigError

    @property
    def restricts(self) -> bool:
        """Whether anything is configured."""
        return any(getattr(self, each.name) != each.default for each in dataclasses.fields(self))

    def rules(self, *, keys: bytes | None = None, htpasswd: bytes | None = None) -> AccessRules:
        """What is configured, with the bytes of its files."""
        from streamcache.access.authorize import AccessRules
        from streamcache.access.networks import entries

        return AccessRules(
            networks=entries(self.networks),
            trusted_proxies=entries(self.trusted_proxies),
            proxy_protocol=self.proxy_protocol,
            keys=keys,
            htpasswd=htpasswd,
            realm=self.realm,
        )


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
        ),
    )
    target_size: int = field(
        default=8 * KiB,
        metadata=option(
            Kind.SIZE, "bytes of the path and query in a request", minimum=16, maximum=16 * MiB
        ),
    )
    fields: int = field(
        default=100, metadata=option(Kind.COUNT, "header fields of a request", minimum=1)
    )
    ranges: int = field(
        default=16,
        metadata=option(
            Kind.COUNT, "ranges of one request; more are answered with the whole file", minimum=1
        ),
    )
    body_size: int = field(
        default=1 * MiB,
        metadata=option(
            Kind.SIZE,
            "bytes of a request body that are read and thrown away to keep the connection; more"
            " close it",
        ),
    )
    head_timeout: float = field(
        default=10.0,
        metadata=option(
            Kind.DURATION,
            "from the first byte of a request's head to its last: clients that dribble must not"
            " hold connections",
            minimum=_MS,
        ),
    )
    keepalive_timeout: float = field(
        default=75.0,
        metadata=option(
            Kind.DURATION, "how long a connection may be open without a request", minimum=_MS
        ),
    )
    send_timeout: float = field(
        default=30.0,
        metadata=option(
            Kind.DURATION, "how long a client may take not a single byte of a response", minimum=_MS
        ),
    )
    body_timeout: float = field(
        default=10.0,
        metadata=option(
            Kind.DURATION, "how long a client may take to send a request body", minimum=_MS
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "limits")


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

    def __post_init__(self) -> None:
        check_fields(self, "log")


@dataclass(frozen=True, slots=True)
class Config:
    """All options, one section each."""

    source: SourceConfig = field(default_factory=SourceConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    copy: CopyConfig = field(default_factory=CopyConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    log: LogConfig = field(default_factory=LogConfig)


SECTIONS: Final[dict[str, type[Any]]] = {
    "source": SourceConfig,
    "cache": CacheConfig,
    "copy": CopyConfig,
    "server": ServerConfig,
    "access": AccessConfig,
    "limits": LimitsConfig,
    "log": LogConfig,
}

TABLE: Final[dict[str, dict[str, Option]]] = {
    name: options_of(section) for name, section in SECTIONS.items()
}


def default_of(section: str, key: str) -> Any:
    """The default of an option."""
    return getattr(SECTIONS[section](), key)


def changed(config: Config, section: str, **values: Any) -> Config:
    """``config`` with values of one section replaced; ConfigError when one is not allowed."""
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **values)}
    )
