"""How a request's body is delimited (RFC 9112 6.3) and what becomes of the connection (9.3)."""

from __future__ import annotations

from dataclasses import dataclass

from streamcache.http.headers import Headers
from streamcache.http.syntax import BLANK, BadRequest, is_digits

MAX_LENGTH_DIGITS = 18  # an int64 holds every number of so many digits


@dataclass(frozen=True, slots=True)
class Framing:
    """A body of ``content_length`` bytes (0: none), or a chunked one; whether it waits for 100."""

    content_length: int
    chunked: bool
    expect_continue: bool


_NO_BODY = Framing(content_length=0, chunked=False, expect_continue=False)


def request_framing(headers: Headers, version: tuple[int, int]) -> Framing:
    """Decide the framing of a request's body (RFC 9112 6.3).

    Raises BadRequest: 400 for whatever two recipients could read differently, 413 for a length
    beyond all files, 501 for a transfer coding that we do not know.
    """
    lengths = headers.all("content-length")
    chunked = "transfer-encoding" in headers
    if not lengths and not chunked:
        return _NO_BODY
    if chunked:
        # RFC 9112 6.1 lets a server refuse these two, as an attempt to smuggle
        if lengths:
            raise BadRequest(400, "both Transfer-Encoding and Content-Length")
        if version == (1, 0):
            raise BadRequest(400, "Transfer-Encoding in HTTP/1.0")
        _check_coding(headers.get("transfer-encoding") or "")
    length = _content_length(lengths) if lengths else 0
    # RFC 9110 10.1.1: an expectation in HTTP/1.0 is ignored; without a body nothing waits
    waits = version != (1, 0) and (chunked or length > 0)
    return Framing(
        content_length=length,
        chunked=chunked,
        expect_continue=waits and "100-continue" in headers.members("expect"),
    )


def keeps_alive(headers: Headers, version: tuple[int, int]) -> bool:
    """Whether the client lets the connection stay open (RFC 9112 9.3)."""
    if "connection" not in headers:
        return version != (1, 0)
    options = headers.members("connection")
    return "close" not in options and (version != (1, 0) or "keep-alive" in options)


def _content_length(values: list[str]) -> int:
    # RFC 9112 6.3 would allow equal repetitions; another recipient may not see them as equal
    if len(values) != 1 or not is_digits(values[0]):
        raise BadRequest(400, "invalid Content-Length")
    digits = values[0].lstrip("0")
    if len(digits) > MAX_LENGTH_DIGITS:
        raise BadRequest(413, "Content-Length too large")
    return int(digits or "0")


def _check_coding(value: str) -> None:
    codings = [coding.strip(BLANK).lower() for coding in value.split(",")]
    if codings == ["chunked"]:
        return
    # RFC 9112 6.3: without chunked at the end the length is unknown, a MUST for 400; 7.1: chunked
    # once, and without parameters
    if codings[-1] != "chunked" or codings.count("chunked") > 1 or not all(codings):
        raise BadRequest(400, "transfer codings do not end in one chunked")
    raise BadRequest(501, "unknown transfer coding")
