"""The characters of HTTP, and the refusal that a message with other ones gets."""

from __future__ import annotations

import string

from streamcache.errors import StreamCacheError

# ``text.strip(CHARACTERS)`` is empty exactly when every character is one of them: one call in C,
# several times faster than a regular expression on the short strings of a head.
TOKEN = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters  # tchar, RFC 9110 5.6.2
BLANK = " \t"  # OWS, RFC 9110 5.6.3

# What may stand in a field line (RFC 9110 5.5: VCHAR, obs-text, SP, HTAB); deleting these from a
# head must leave nothing but its line ends.
TEXT = bytes(byte for byte in range(256) if byte == 0x09 or (byte >= 0x20 and byte != 0x7F))


class BadRequest(StreamCacheError):
    """A request that is refused where it stands; the connection closes after the answer.

    ``status`` is the status code to answer with, ``reason`` a fixed phrase for the log that never
    holds a byte of the request. ``to_head``: as far as can be told the method was HEAD, so the
    answer has no body (RFC 9110 9.3.2). ``line``: the request line, as far as it was read, in
    latin-1; whatever the client likes may be in it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.to_head = False
        self.line = ""


def is_token(text: str) -> bool:
    """Whether the text is a token (RFC 9110 5.6.2)."""
    return bool(text) and not text.strip(TOKEN)


def is_digits(text: str) -> bool:
    """Whether the text is 1*DIGIT; ``str.isdigit`` alone takes digits of all scripts."""
    return text.isascii() and text.isdigit()
