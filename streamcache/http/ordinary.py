"""Ordinary requests, recognised quickly; what is not proven to be one is left to ``request``.

Ordinary is a GET of HTTP/1.1 for a file, without body, condition or expectation, on a connection
that stays open: what players and browsers send all day. The functions here never refuse: None
only says that ``request.parse_head`` must look, and then its answer is the one that counts. Where
they give a result, it says the same as the ``Request`` (tests/http/test_ordinary.py holds both
against each other). They are functions of their arguments, so their results can be kept.
"""

from __future__ import annotations

import re

from streamcache.http.request import parse_line
from streamcache.http.syntax import BadRequest
from streamcache.http.target import resolve

# "*+" and "++" take all that they can and never give back: quicker, and enough here.
_TEXT = rb"[\t\x20-\x7e\x80-\xff]"  # RFC 9110 5.5
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110 5.6.2

# A whole head: the request line, the fields, the empty line. The order is by cost: what most fields
# are comes first, which is a name that begins with none of the letters that a name of ours begins
# with. No field that could change the answer is among the others, and none that is looked at comes
# twice: (?(2)(?!)) fails if group 2 is set.
#
# The repeat of fields is not possessive, as that of a group like this matches nothing in Python
# 3.11.2, which is Debian 12's. So no line fits two of them: what is given back in vain costs no
# more than it did, where else each line would double it.
_HEAD = re.compile(
    rb"([^\r\n]*+)"
    rb"(?:\r\n(?:"
    rb"[!#$%&'*+\-.^_`|~0-9ABDFGJ-QSV-Zabdfgj-qsv-z]" + _TOKEN + rb"*+:" + _TEXT + rb"*+|"
    rb"(?(2)(?!))(?i:Host): ([0-9A-Za-z.\-]++(?::[0-9]++)?)|"
    rb"(?(3)(?!))(?i:User-Agent):(" + _TEXT + rb"*+)|"
    rb"(?i:Connection: keep-alive)|"
    rb"(?(4)(?!))(?i:Referer):(" + _TEXT + rb"*+)|"
    rb"(?!(?i:Host|User-Agent|Referer|Connection|Range|If-[!-9;-~]*|Expect|Content-Length"
    rb"|Transfer-Encoding):)[CEHIRTUcehirtu]" + _TOKEN + rb"*+:" + _TEXT + rb"*+"
    rb"))*"
    rb"\r\n\r\n"
)
_SHORTEST_FIELD = 4  # bytes, with CRLF
_RANGE_LINE = b"\r\nRange: bytes="
_LONGEST_RANGE = 37  # bytes: two numbers of 18 digits; more is nobody's offset


# The request line, and the values of Host, User-Agent and Referer as they came; None for one that
# there is not. A bare tuple: one with names takes as long to make as half of what is looked for.
Parts = tuple[bytes, bytes, bytes | None, bytes | None]


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


def ordinary_head(head: bytes, max_fields: int) -> Parts | None:
    """What matters of one whole head, if each of its fields and all together are ordinary.

    Fewer than ``max_fields`` of them: a Range line that was cut out is one more. The request line
    is for ``ordinary_path`` to judge.
    """
    match = _HEAD.fullmatch(head)
    if match is None:
        return None
    line, host, agent, referer = match.groups()
    if host is None:
        return None
    # Lines: that of the request, the fields, the empty one.
    if len(head) > _SHORTEST_FIELD * max_fields and head.count(b"\n") > max_fields + 1:
        return None
    return line, host, agent, referer


def cut_range(head: bytes) -> tuple[bytes, bytes]:
    """Take a ``Range: bytes=`` line out of a head: what is left, and what follows the "=".

    That is b"" when there is no such line. Players send a new range in each request and all the
    rest again, so what is left has been seen before.
    """
    before, found, behind = head.partition(_RANGE_LINE)
    if not found:
        return head, b""
    value, end, rest = behind.partition(b"\r\n")
    if not rest:  # no whole head, or the line stands behind the end of one
        return b"", b""
    # An empty range is no range either, but must not look like none.
    return before + end + rest, value or b"-"


def one_range(value: bytes, size: int) -> tuple[int, int] | None:
    """One satisfiable "first-last" or "first-" as [start, stop) of ``size`` bytes, else None."""
    first, dash, last = value.partition(b"-")
    if not (dash and first.isdigit() and len(value) <= _LONGEST_RANGE):
        return None
    start, stop = int(first), size
    if last:
        if not last.isdigit():
            return None
        end = int(last) + 1
        if end < size:
            stop = end
    return (start, stop) if start < stop else None
