"""``[server]``: the listener and its processes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Final

from streamcache.errors import ConfigError
from streamcache.options import Kind, check_fields, option

_MOST_WORKERS: Final = 1024
_UMASK: Final = re.compile(r"0*[0-7]{1,3}")


def usable_cores() -> int:
    """How many cores this process may use (taskset, cpuset); a quota of CPU time is not seen."""
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)))


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
            form="HOST:PORT, [IPv6]:PORT or unix:PATH",
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
    admin: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            "where operators connect, for health, metrics and control: HOST:PORT, [IPv6]:PORT,"
            ' unix:PATH or "off"; it asks for no password, so a port is for loopback or a network'
            " of operators",
            flag="--admin",
            metavar="ADDRESS",
            form="HOST:PORT, [IPv6]:PORT, unix:PATH or off",
            zero="a Unix socket for this user only, in $RUNTIME_DIRECTORY, else in the user's"
            " runtime directory",
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
            reload=True,
        ),
    )

    worker_timeout: float = field(
        default=60.0,
        metadata=option(
            Kind.DURATION,
            "one of several workers whose event loop has not turned for this long serves nobody: it"
            " is killed and started again",
            zero="never",
            minimum=2.0,
            reload=True,
        ),
    )
    user: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            "the user, by name or number, that a server started as root becomes once it has its"
            " socket; the cache directory must be that user's; empty: it stays who it is",
            flag="--user",
            metavar="NAME",
            form="a name or number",
        ),
    )
    group: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            "the group, by name or number; empty: the user's own",
            flag="--group",
            metavar="NAME",
            form="a name or number",
        ),
    )
    pid_file: str = field(
        default="",
        metadata=option(
            Kind.PATH,
            "a file that has the number of the main process as long as that lives; a second server"
            " with the same one does not start; empty: none",
            flag="--pid-file",
            metavar="FILE",
        ),
    )
    umask: str = field(
        default="",
        metadata=option(
            Kind.TEXT,
            'octal, as in umask(1): which rights new log files and Unix sockets do not get, "0027"'
            " say; the cache directory is always the user's alone; empty: as it was started",
            form="octal digits",
        ),
    )

    tls_certificate: str = field(
        default="",
        metadata=option(
            Kind.PATH,
            "a PEM file with the server's certificate, then those that lead to a known authority;"
            " with it all connections are TLS, 1.2 or 1.3, and no byte leaves by sendfile",
            zero="no TLS",
        ),
    )
    tls_key: str = field(
        default="",
        metadata=option(
            Kind.PATH,
            "a PEM file with the private key of server.tls_certificate, without a password; keep"
            " it from other users",
            zero="it is in the certificate's file",
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self, "server")
        if self.umask and not _UMASK.fullmatch(self.umask):
            raise ConfigError(
                f"server.umask: {self.umask!r} is not allowed; allowed: octal digits from 0 to 0777"
            )
        if self.tls_key and not self.tls_certificate:
            raise ConfigError(
                f"server.tls_key: {self.tls_key} is the key of no certificate; name that in"
                " server.tls_certificate, or leave both out"
            )

    @property
    def scheme(self) -> str:
        """Of the URLs that are served."""
        return "https" if self.tls_certificate else "http"
