"""``[source]``: where bytes come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from streamcache.options import SHORTEST, Kind, check_fields, option

Identity = Literal["mtime", "mtime+ctime", "mtime+inode"]


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
            reload=True,
        ),
    )
    revalidate_wait: float = field(
        default=0.25,
        metadata=option(
            Kind.DURATION,
            "how long a request for a cached file waits for that answer before it gets what is"
            " cached: a slow source must not slow down hits",
            reload=True,
        ),
    )
    stale_if_error: float = field(
        default=3600.0,
        metadata=option(
            Kind.DURATION,
            "how long cached files are still served while the source cannot be reached",
            reload=True,
        ),
    )
    negative_ttl: float = field(
        default=1.0,
        metadata=option(
            Kind.DURATION,
            'how long "no such file" is remembered, so that a crowd on a missing file asks the'
            " source once",
            reload=True,
        ),
    )
    settle: float = field(
        default=10.0,
        metadata=option(
            Kind.DURATION,
            "how long a file must be unchanged before it is cached: a file that is still being"
            " written is served straight from the source",
            reload=True,
        ),
    )
    timeout: float = field(
        default=10.0,
        metadata=option(
            Kind.DURATION,
            "how long a request waits for the source before it fails with 504",
            minimum=SHORTEST,
            reload=True,
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
