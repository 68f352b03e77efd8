"""What ties a response to its lines in the logs: the request's id, and Server-Timing. Hub.

Ids are made only if an option asks for them. A proxy that is trusted may have one already, in
X-Request-ID; anybody else's is not looked at, as whoever chooses ids can point at others.
"""

from __future__ import annotations

import itertools
import re
import secrets
from typing import Final

from streamcache.config.log import LogConfig
from streamcache.http.headers import Headers

Fields = tuple[tuple[str, str], ...]

NO_ID: Final = "-"
# Stands for an id of ours where heads are made before their request is known.
HOLE: Final = "@" * 24
_HARMLESS: Final = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}")  # in a field, a line, a shell


class Tags:
    """What is added to the head of each response; one per server, made in its process."""

    def __init__(self, config: LogConfig) -> None:
        self.enabled: Final = config.has_ids  # whether requests have ids
        self.timing: Final = config.server_timing
        self._says_id = config.request_id
        self._prefix = secrets.token_hex(6)  # of this process
        self._numbers = itertools.count(1)

    def make(self) -> str:
        """An id of its own, as long as ``HOLE``."""
        return f"{self._prefix}{next(self._numbers):012x}"

    def of(self, headers: Headers | None) -> str:
        """The id of a request: that of its trusted proxy, whose fields these are, or a new one."""
        if not self.enabled:
            return NO_ID
        given = [] if headers is None else headers.all("x-request-id")
        if len(given) == 1 and _HARMLESS.fullmatch(given[0]):
            return given[0]
        return self.make()

    def fields(
        self, cache_status: str, cache: str, request_id: str, waited: float, passed: float
    ) -> Fields:
        """The fields of a head that say how the answer came about.

        ``cache_status`` and ``cache`` as in ``Response``; ``waited`` for the file's first bytes,
        ``passed`` since the head of the request was whole, both in seconds.
        """
        fields: Fields = (("Cache-Status", cache_status),)
        if self._says_id:
            fields += (("X-Request-ID", request_id),)
        if self.timing:  # W3C Server Timing; ms
            status = "" if cache == "-" else f"cache;desc={cache}, "
            times = f"source;dur={waited * 1000:.1f}, ttfb;dur={passed * 1000:.1f}"
            fields += (("Server-Timing", f'{status}{times}, request;desc="{request_id}"'),)
        return fields
