"""Heads as bytes, and what the parser makes of them however they are cut."""

from __future__ import annotations

from collections.abc import Iterable

from streamcache.http.body import BodyReader
from streamcache.http.request import BadRequest, Limits, Request, RequestParser

LIMITS = Limits(head_size=2048, target_size=256, fields=20)
BODY_LIMIT = 1000


def head(
    target: str = "/a.mp4",
    *fields: str,
    method: str = "GET",
    version: str = "HTTP/1.1",
    host: str | None = "Host: h",
) -> bytes:
    """The bytes of one request head."""
    lines = [f"{method} {target} {version}", *([host] if host is not None else []), *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def single_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def read_pieces(
    pieces: Iterable[bytes], limits: Limits = LIMITS
) -> tuple[list[Request], BadRequest | None, RequestParser]:
    """The requests in these pieces, bodies drained, and the refusal that ended them, if any."""
    parser = RequestParser(limits)
    requests: list[Request] = []
    body: BodyReader | None = None
    try:
        for piece in pieces:
            parser.feed(piece)
            while True:
                if body is not None:
                    parser.feed_body(body)
                    if not body.done:
                        break
                    body = None
                request = parser.next()
                if request is None:
                    break
                requests.append(request)
                body = BodyReader(request, BODY_LIMIT)
    except BadRequest as refusal:
        return requests, refusal, parser
    return requests, None, parser


def read(data: bytes, limits: Limits = LIMITS) -> tuple[list[Request], int | None]:
    """The requests in the bytes and the status of the refusal; the same whole and byte by byte."""
    whole, refusal, parser = read_pieces([data], limits)
    by_byte, late_refusal, late_parser = read_pieces(single_bytes(data), limits)
    assert whole == by_byte
    assert (refusal and refusal.status) == (late_refusal and late_refusal.status)
    if refusal is None:
        assert parser.in_head == late_parser.in_head
    return whole, refusal.status if refusal else None


def request_of(data: bytes, limits: Limits = LIMITS) -> Request:
    """The one request that the bytes are."""
    requests, status = read(data, limits)
    assert status is None
    assert len(requests) == 1
    return requests[0]


def status_of(data: bytes, limits: Limits = LIMITS) -> int | None:
    """The status of the refusal; None when one or more requests were read."""
    requests, status = read(data, limits)
    assert (status is None) == bool(requests)
    return status
