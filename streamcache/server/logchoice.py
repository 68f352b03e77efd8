"""Which responses the access log has: not those of some clients, and of the others a share. Hub."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from streamcache.access.networks import UNKNOWN, Host, Network, entries, read_host
from streamcache.config.log import LogConfig
from streamcache.server.logline import Served


class Choice:
    """Says of each response whether it is logged.

    A client or path that is ignored never is. Of what is left, errors (400 and above) and
    responses that were cut always are, and all others with the probability ``log.sample``.
    """

    def __init__(self, config: LogConfig, random: Random | None = None) -> None:
        self._networks = tuple(map(Network.parse, entries(config.ignore_networks)))
        self._paths = config.ignored_paths()
        self._share = config.sample
        self._random = (random or Random()).random
        self._is_ignored = lru_cache(4096)(self._look_up)  # by the name of a client
        self.everything = not self._networks and not self._paths and self._share == 1.0

    def takes(self, served: Served) -> bool:
        """Whether this one is logged; asked once for each."""
        if self._networks and self._is_ignored(served.client):
            return False
        path = served.path  # decoded; "" of OPTIONS * and CONNECT, "-" of what could not be read
        if path.startswith("/") and any(each.fullmatch(path, 1) for each in self._paths):
            return False
        if self._share == 1.0 or served.status >= 400 or not served.whole:
            return True
        return self._random() < self._share

    def _look_up(self, client: str) -> bool:
        try:
            host: Host = read_host(client)
        except ValueError:  # "unknown"
            host = UNKNOWN
        return any(host in network for network in self._networks)
