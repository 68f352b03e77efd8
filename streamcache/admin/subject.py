"""What the admin listener is about: a worker that serves, and through the board all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from streamcache.admin.board import Board
from streamcache.cache.operations import Operations
from streamcache.config import Config
from streamcache.stats import Statistics

if TYPE_CHECKING:
    from streamcache.admin.peers import Peers
    from streamcache.admin.publishing import Publishing


class Cache(Protocol):
    """What is asked of a cache."""

    @property
    def config(self) -> Config:
        """The configuration, with the real size."""
        ...

    @property
    def operations(self) -> Operations:
        """What can be looked at and done."""
        ...

    def statistics(self) -> Statistics:
        """What this process counted."""
        ...


class Server(Protocol):
    """What is asked of a server."""

    @property
    def url(self) -> str:
        """Where it really listens."""
        ...

    @property
    def connections(self) -> int:
        """How many are open."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """One worker, as those see it who answer questions about the server."""

    name: str  # "w1"
    cache: Cache
    server: Server
    board: Board
    publishing: Publishing
    peers: Peers
    draining_since: Callable[[], float | None]  # s since the epoch; None: it does not drain
    drain: Callable[[], object]  # the whole server, as SIGTERM does
