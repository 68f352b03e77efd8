"""A request and the cache become an answer; errors become statuses in one table.

Runs in the connection's greenlet. It knows no socket: the exchange sends what it returns.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from streamcache.cache.delegate import CacheStatus, Delegate
from streamcache.errors import (
    AccessDenied,
    Closed,
    NotFound,
    SourceBusy,
    SourceChanged,
    SourceError,
    SourceTimeout,
)
from streamcache.http.entity import Entity
from streamcache.http.mime import content_type
from streamcache.http.plan import (
    ResponsePlan,
    first_offset,
    plan,
    plan_error,
    plan_refusal,
    plan_without_file,
)
from streamcache.http.request import BadRequest, Request
from streamcache.server.backend import Backend, Found
from streamcache.server.clock import Clock
from streamcache.source.base import Version

log = logging.getLogger(__name__)

NANOSECONDS: Final = 1_000_000_000

# Error -> status and seconds of Retry-After (0: none). The first that fits counts, so what is
# derived stands before its base. Anything else is a fault of ours: 500.
FAILURES: Final[tuple[tuple[type[Exception], int, int], ...]] = (
    (NotFound, 404, 0),
    (AccessDenied, 403, 0),
    (SourceTimeout, 504, 0),
    (SourceBusy, 503, 1),
    (SourceError, 503, 5),  # SourceUnavailable, and errors that say nothing about the file
    (SourceChanged, 503, 1),  # before the first byte: a new request gets the new version
    (Closed, 503, 5),
)
OVERLOADED_RETRY: Final = 1  # s
REPEATS: Final = 2  # when the file changes just then

# RFC 9211 2: the cache's name, then whether it is a hit or why the request went forward.
_NAME = "streamcache"
_MISS = f"{_NAME}; fwd=miss"
_STATUSES = {
    CacheStatus.HIT: f"{_NAME}; hit",
    CacheStatus.STALE: f"{_NAME}; fwd=stale; detail=source-unreachable",
    CacheStatus.COLLAPSED: f"{_NAME}; fwd=miss; collapsed",
    CacheStatus.MISS: f"{_NAME}; fwd=miss; stored",
    CacheStatus.BYPASS: f"{_NAME}; fwd=bypass",
}


@dataclass(frozen=True, slots=True)
class Response:
    """An answer before it is sent; whoever has it closes ``delegate``."""

    plan: ResponsePlan
    cache_status: str  # value of Cache-Status (RFC 9211)
    cache: str  # the same as one word of the access log; "-": the cache was not asked
    delegate: Delegate | None = None

    def close(self) -> None:
        """Give the lease back; idempotent."""
        if self.delegate is not None:
            self.delegate.close()


class Handler:
    """Answers requests from a cache."""

    def __init__(self, cache: Backend, clock: Clock, max_ranges: int) -> None:
        self._cache = cache
        self._clock = clock
        self._max_ranges = max_ranges

    def early(self, request: Request) -> Response | None:
        """The answer to a request that needs no look at a file, else None. Never switches."""
        answer = plan_without_file(request)
        return None if answer is None else _uncached(answer)

    def respond(self, request: Request, client: str, request_id: str) -> Response:
        """SWITCHES; the answer to a GET or HEAD. Never raises an ``Exception``.

        HEAD, 304, 412 and 416 start no copy. Only an answer with bytes of the file opens it.
        ``request_id`` is for the log.
        """
        if request.path.endswith("/"):
            return _uncached(plan_error(request, 404))  # no file has such a name
        try:
            for _ in range(REPEATS):
                # Replaced between find and open: what the plan promised is not what is there.
                with (
                    suppress(SourceChanged),
                    self._cache.find(request.path, ahead=first_offset(request)) as found,
                ):
                    return self._answer(request, found, client)
            with self._cache.find(request.path) as found:
                return self._answer(request, found, client)
        except Exception as error:
            return self.failure(request, error, request_id)

    def failure(self, request: Request, error: Exception, request_id: str) -> Response:
        """The answer when finding, opening or first reading the file failed."""
        status, retry = next(
            (found for kind, *found in FAILURES if isinstance(error, kind)), (500, 0)
        )
        if status == 500:
            form = "request failed path=%r request_id=%s"
            log.error(form, request.path, request_id, exc_info=error)
        elif status > 500:
            form = "request failed path=%r status=%d request_id=%s error=%s"
            log.warning(form, request.path, status, request_id, error)
        fields = (("Retry-After", str(retry)),) if retry else ()
        return Response(plan_error(request, status, headers=fields), _MISS, "miss")

    def refusal(self, refused: BadRequest) -> Response:
        """The answer to what is no request that we read; the connection ends with it."""
        return _uncached(plan_refusal(refused))

    def forbidden(
        self, request: Request, status: int, fields: tuple[tuple[str, str], ...]
    ) -> Response:
        """The answer to who may not read that; a body that follows is not read."""
        ends = request.has_body or request.method == "CONNECT"
        return _uncached(plan_error(request, status, headers=fields, close=ends))

    def overloaded(self) -> Response:
        """The answer to a connection above the limit."""
        fields = (("Retry-After", str(OVERLOADED_RETRY)),)
        return _uncached(plan_error(None, 503, headers=fields))

    def crowded(self) -> Response:
        """The answer to a connection above the limit of its address (RFC 6585 4).

        Not 503: to a load balancer that would say that all clients should go elsewhere.
        """
        fields = (("Retry-After", str(OVERLOADED_RETRY)),)
        return _uncached(plan_error(None, 429, headers=fields))

    def _answer(self, request: Request, found: Found, client: str) -> Response:
        entity = entity_of(request.path, found.version)
        answer = plan(request, entity, max_ranges=self._max_ranges, now=self._clock.second)
        if answer.needs_file:
            delegate = found.open(client)
            return Response(answer, *cache_fields(delegate.status), delegate)
        status = found.status
        header, cache = cache_fields(status)
        # The whole of a file, and no bytes: it is empty.
        stored = answer.status == 200 and request.method == "GET" and found.keep(client)
        if status is CacheStatus.MISS and not stored:
            header = _MISS  # only looked up
        return Response(answer, header, cache)


def entity_of(path: str, version: Version) -> Entity:
    """A version of the file at ``path`` as HTTP sees it."""
    return Entity(
        size=version.size,
        etag=f'"{version.id}"',
        mtime=version.mtime_ns // NANOSECONDS,
        content_type=content_type(path),
    )


def cache_fields(status: CacheStatus) -> tuple[str, str]:
    """The value of Cache-Status, and the word of the access log."""
    return _STATUSES[status], status.value


def _uncached(answer: ResponsePlan) -> Response:
    return Response(answer, _NAME, "-")
