"""What to answer: a request and a file become a head and the pieces of a body (RFC 9110)."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from streamcache.http.conditional import Verdict, evaluate
from streamcache.http.entity import Entity
from streamcache.http.multipart import byteranges, content_range
from streamcache.http.ranges import UNSATISFIABLE, parse_range
from streamcache.http.ranges import ByteRange as FileRange
from streamcache.http.request import Request
from streamcache.http.status import REASONS
from streamcache.http.syntax import TEXT, BadRequest, is_token

__all__ = [
    "ALLOW",
    "CONTINUE",
    "SERVER",
    "Entity",
    "FileRange",
    "ResponsePlan",
    "first_offset",
    "head_bytes",
    "plan",
    "plan_error",
    "plan_refusal",
    "plan_without_file",
]

Fields = tuple[tuple[str, str], ...]

_is_field_name = functools.lru_cache(maxsize=64)(is_token)  # our own, so they are few

ALLOW = "GET, HEAD, OPTIONS"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"  # RFC 9110 10.1.1, for Request.expect_continue
SERVER = "streamcache"

# Methods that we know and no file supports: 405. Any other is 501 (RFC 9110 9.1).
_NOT_ALLOWED = frozenset(("POST", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE"))


_CONDITIONS = frozenset(("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"))
_UNKNOWN_SIZE = 2**60  # bytes: larger than any file
_GUESSED_RANGES = 16


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """One answer, complete but for Date, Server, Connection and what the server adds.

    ``pieces`` is the body as sent: literal bytes, and ranges of the file exactly when bytes of it
    are due; nothing for HEAD, 204 and 304. ``content_length`` is the value of that field (of the
    body a GET would get, for HEAD), None when there is none. ``close``: the connection ends after
    this answer; a server that decides so later replaces it. ``http10``: staying open must be said.
    """

    status: int
    reason: str
    headers: Fields
    pieces: tuple[bytes | FileRange, ...]
    content_length: int | None
    close: bool
    http10: bool = False

    @property
    def needs_file(self) -> bool:
        """Whether bytes of the file are due."""
        return any(isinstance(piece, FileRange) for piece in self.pieces)


def first_offset(request: Request) -> int | None:
    """Where the body will begin, guessed before the file is known; None: no body, or no telling."""
    if request.method != "GET" or not _CONDITIONS.isdisjoint(request.headers):
        return None
    value = request.headers.get("range")
    ranges = None if value is None else parse_range(value, _UNKNOWN_SIZE, _GUESSED_RANGES)
    if not isinstance(ranges, tuple):
        return 0
    start = ranges[0].start
    return start if start < _UNKNOWN_SIZE // 2 else None  # counted from the end


def plan_without_file(request: Request) -> ResponsePlan | None:
    """The answer to a request that needs no look at a file: OPTIONS, 405, 417, 501; else None.

    It never depends on the path, so it comes before the file is looked for.
    """
    # RFC 9110 10.1.1; HTTP/1.0 knows no expectations
    expected = request.headers.members("expect") if request.version != (1, 0) else ()
    if any(member != "100-continue" for member in expected):
        return _early_error(request, 417)
    if request.method in ("GET", "HEAD"):
        return None
    if request.method == "OPTIONS":
        return _answer(request, 204, (("Allow", ALLOW),), (), None)
    if request.method in _NOT_ALLOWED:
        return _early_error(request, 405, (("Allow", ALLOW),))
    return _early_error(request, 501)


def plan(request: Request, entity: Entity, *, max_ranges: int, now: int) -> ResponsePlan:
    """Decide the answer about a file that exists (RFC 9110 13.2.2, 14.2).

    ``now`` is the time in seconds that the answer's Date will say. ``max_ranges`` as in
    ``parse_range``.
    """
    early = plan_without_file(request)
    if early is not None:
        return early
    verdict = evaluate(request.headers, entity, now)
    if verdict is Verdict.FAILED:
        return plan_error(request, 412)
    modified = entity.last_modified(now)
    validators: Fields = (("ETag", entity.etag),)
    if modified is not None:
        validators += (("Last-Modified", modified),)
    if verdict is Verdict.NOT_MODIFIED:
        # RFC 9110 15.4.5: what else there is would only guide a cache that has no entity tag
        return _answer(request, 304, validators[:1], (), None)
    if verdict is Verdict.PROCEED and request.method == "GET":
        ranges = request.headers.all("range")
        if len(ranges) == 1:  # two fields are no valid set, whatever they say (RFC 9110 5.3)
            partial = _partial(request, entity, ranges[0], max_ranges, validators)
            if partial is not None:
                return partial
    fields = (("Content-Type", entity.content_type), ("Accept-Ranges", "bytes"), *validators)
    body = (FileRange(0, entity.size),) if entity.size else ()
    return _answer(request, 200, fields, body, entity.size)


def _partial(
    request: Request, entity: Entity, value: str, max_ranges: int, validators: Fields
) -> ResponsePlan | None:
    """The answer to a Range; None when it is ignored."""
    ranges = parse_range(value, entity.size, max_ranges)
    if ranges is None:
        return None
    if ranges is UNSATISFIABLE:
        beyond = (("Content-Range", f"bytes */{entity.size}"), ("Accept-Ranges", "bytes"))
        return plan_error(request, 416, headers=beyond)
    if "if-range" in request.headers:
        # RFC 9110 15.3.7: the client has the rest of the fields; of those that it need not get,
        # Content-Type stays, as nothing in between should have to guess at it (RFC 9110 8.3)
        validators = validators[:1]
    pieces: tuple[bytes | FileRange, ...] = ranges
    if len(ranges) == 1:
        content_type = entity.content_type
        place: Fields = (("Content-Range", content_range(ranges[0], entity.size)),)
    else:
        content_type, pieces = byteranges(entity, ranges)
        place = ()  # RFC 9110 15.3.7.2: only in the parts
    fields = (("Content-Type", content_type), *place, ("Accept-Ranges", "bytes"), *validators)
    length = sum(len(p) if isinstance(p, bytes) else p.length for p in pieces)
    return _answer(request, 206, fields, pieces, length)


def plan_error(
    request: Request | None, status: int, *, headers: Fields = (), close: bool = False
) -> ResponsePlan:
    """An error's answer: its status in a line of text, and nothing of the request.

    ``request`` is None when there is none to speak of (too slow, too many); the connection closes
    then.
    """
    body = f"{status} {REASONS[status]}\n".encode("ascii")
    fields = (("Content-Type", "text/plain"), *headers)
    return _answer(request, status, fields, (body,), len(body), close=close)


def plan_refusal(refusal: BadRequest) -> ResponsePlan:
    """The answer to a head or body that was refused; the connection closes after it."""
    answer = plan_error(None, refusal.status)
    return replace(answer, pieces=()) if refusal.to_head else answer


def _early_error(request: Request, status: int, headers: Fields = ()) -> ResponsePlan:
    # A client that waits for 100 may or may not send its body after this answer, and what follows
    # CONNECT may be meant for the tunnel: in both cases nothing more can be read safely.
    ends = request.expect_continue or request.method == "CONNECT"
    return plan_error(request, status, headers=headers, close=ends)


def _answer(
    request: Request | None,
    status: int,
    headers: Fields,
    pieces: tuple[bytes | FileRange, ...],
    content_length: int | None,
    *,
    close: bool = False,
) -> ResponsePlan:
    return ResponsePlan(
        status=status,
        reason=REASONS[status],
        headers=headers,
        pieces=() if request is not None and request.method == "HEAD" else pieces,
        content_length=content_length,
        close=close or request is None or not request.keep_alive,
        http10=request is not None and request.version == (1, 0),
    )


def head_bytes(plan: ResponsePlan, *, date: bytes, extra: Fields = ()) -> bytes:
    """The bytes of the answer's head (RFC 9112 4, 5).

    ``date`` is the value of Date, of the second that ``plan`` was given as ``now``; ``extra`` are
    further fields. Raises ValueError for a field that would not be one.
    """
    lines = [f"HTTP/1.1 {plan.status} {plan.reason}", f"Date: {date.decode('ascii')}"]
    lines.append(f"Server: {SERVER}")
    if plan.content_length is not None:
        lines.append(f"Content-Length: {plan.content_length}")
    if plan.close:
        lines.append("Connection: close")
    elif plan.http10:
        lines.append("Connection: keep-alive")  # RFC 9112 9.3
    for name, value in (*plan.headers, *extra):
        if not _is_field_name(name):
            raise ValueError(f"not a field name: {name!r}")
        lines.append(f"{name}: {value}")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    if head.translate(None, TEXT) != b"\r\n" * (len(lines) + 1):
        raise ValueError("control byte in a field value")
    return head
