"""What all connections of one server share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gevent.hub import Hub

from streamcache.config.limits import LimitsConfig
from streamcache.http.request import Limits
from streamcache.server.accesslog import AccessLog
from streamcache.server.admission import Admission
from streamcache.server.clock import Clock
from streamcache.server.fastpath import FastPath
from streamcache.server.handler import Handler
from streamcache.server.notices import Notices
from streamcache.server.pages import PageCache
from streamcache.server.sendturns import SendTurns
from streamcache.server.tags import Tags
from streamcache.server.transport import SocketTransport, Transport
from streamcache.stats import Counters

if TYPE_CHECKING:
    from streamcache.server.connection import Connection


@dataclass(slots=True)
class Service:
    """The parts and limits of a running server, and whether it drains."""

    hub: Hub
    turns: SendTurns
    handler: Handler
    limits: LimitsConfig
    head_limits: Limits
    clock: Clock
    access_log: AccessLog
    counters: Counters
    tags: Tags
    pages: PageCache
    prefetch: Callable[[int, int, int], bool]  # see ``Backend.prefetch``
    fast: FastPath | None  # None: not any more, or not at all
    closed: Callable[[Connection], None]  # called once for each connection, in any greenlet
    introduced: Callable[[Connection], bool]  # its client is known now: may it stay?
    notices: Notices
    # Begin TLS on a connection of which these bytes were read; None: it stays as it is.
    encrypt: Callable[[SocketTransport, bytes], Transport] | None
    admission: Admission | None  # None: everybody may read everything
    draining: bool = False
