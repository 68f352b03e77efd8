"""Ordinary requests, recognised quickly; what is not proven to be one is left to ``request``.

Ordinary is a GET of HTTP/1.1 for a file, without body, condition or expectation, on a connection
that stays open: what players and browsers send all day. The functions here never refuse: None
only says that ``request.parse_head`` must look, and then its answer is the one that counts. Where
they give a result, it says the same as the ``Request`` (tests/http/test_ordinary.py holds both
against each other). They are functions of their arguments, so their results can be kept.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from streamcache.http.request import parse_line
from streamcache.http.syntax import BadRequest
from streamcache.http.target import resolve

# "*+" and "++" take all that they can and never give back: quicker, and enough here.
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"  # RFC 9110 5.5
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110 5.6.2

# The whole block between the request line and the empty line, each field line with its CRLF in
# front. No field that could change the answer is among the others, and none that is looked at
# comes twice: (?(1)(?!)) fails if group 1 is set.
_FIELDS = re.compile(
    rb"(?:\r\n(?:"
    rb"(?!(?i:Host|User-Agent|Referer|Connection|Range|If-[!-9;-~]*|Expect|Content-Length"
    rb"|Transfer-Encoding):)" + _TOKEN + rb":" + _TEXT + rb"|"
    rb"(?(1)(?!))(?i:Host): ([0-9A-Za-z.\-]++(?::[0-9]++)?+)|"
    rb"(?(2)(?!))(?i:User-Agent):(" + _TEXT + rb")|"
    rb"(?(3)(?!))(?i:Referer):(" + _TEXT + rb")|"
    rb"(?i:Connection: keep-alive)"
    rb"))*+"
)
_RANGE_LINE = b"\r\nRange: bytes="
_DIGITS = 18  # of a number: more is nobody's offset


class Fields(NamedTuple):
    """What is logged of an ordinary request's fields; "-" when absent."""

    referer: str
    user_agent: str
    host: str


def ordinary_path(line: bytes, max_target: int) -> str | None:
    """The path that a request line asks for (see ``Request.path``), when it is ordinary."""
    try:
        method, target, version = parse_line(line.decode("latin-1"), max_target)
        if method != "GET" or version == (1, 0):
            return None
        path = resolve(method, target)
    except BadRequest:
        return None
    return None if path.endswith("/") else path  # no file has such a name


def ordinary_fields(block: bytes, max_fields: int) -> Fields | None:
    """The field lines, each with its CRLF in front, if each of them and all together are ordinary.

    Fewer than ``max_fields`` of them: a Range line that was cut out is one more.
    """
    match = _FIELDS.fullmatch(block)
    if match is None or block.count(b"\n") >= max_fields:
        return None
    host, agent, referer = match.groups()
    if host is None:
        return None
    return Fields(
        "-" if referer is None else referer.strip(b" \t").decode("latin-1") or "-",
        "-" if agent is None else agent.strip(b" \t").decode("latin-1") or "-",
        host.decode("latin-1"),
    )


def cut_range(head: bytes) -> tuple[bytes, bytes]:
    """Take a ``Range: bytes=`` line out of a head: what is left, and what follows the "=".

    That is empty when there is no such line. Players send a new range in each request and all the
    rest again, so what is left has been seen before.
    """
    start = head.find(_RANGE_LINE)
    if start < 0:
        return head, b""
    stop = head.find(b"\r\n", start + 2)
    if stop < 0:
        return b"", b""  # no whole head
    # An empty range is no range either, but must not look like none.
    return head[:start] + head[stop:], head[start + len(_RANGE_LINE) : stop] or b"-"


def one_range(value: bytes, size: int) -> tuple[int, int] | None:
    """One satisfiable "first-last" or "first-" as [start, stop) of ``size`` bytes, else None."""
    first, dash, last = value.partition(b"-")
    if not (dash and first.isdigit() and len(first) <= _DIGITS):
        return None
    start, stop = int(first), size
    if last:
        if not (last.isdigit() and len(last) <= _DIGITS):
            return None
        stop = min(int(last) + 1, size)
    return (start, stop) if start < stop else None
