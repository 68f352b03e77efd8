"""The access log: Combined format and four fields of our own, one line per response.

    ADDRESS - USER [TIME] "REQUEST LINE" STATUS BODY-BYTES "REFERER" "USER-AGENT"
        CACHE SECONDS "RANGE" END

USER is who gave a right password, else "-". CACHE is hit, stale, collapsed, miss, bypass or "-"
(the cache was not asked); END is "done", or "cut" for a response that did not leave whole, with the
bytes that really left. A slow disk never holds the hub (``linewriter.py``).
"""

from __future__ import annotations

import re
from typing import Final

from streamcache.server.linewriter import LineWriter

OFF: Final = "off"
MOST_LOGGED: Final = 1024  # characters of a field; strangers choose what is in it

# Whatever could end a field or a line, or change the terminal that shows it.
_UNSAFE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")


class _Escapes(dict[int, str]):
    """What each character becomes; filled as they come."""

    def __missing__(self, code: int) -> str:
        text = chr(code)
        if _UNSAFE.match(text) is not None:
            byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # was no UTF-8 (PEP 383)
            text = f"\\x{byte:02x}" if byte < 256 else f"\\u{{{byte:x}}}"
        if len(self) < 4096:
            self[code] = text
        return text


_ESCAPES = _Escapes()


def escape(text: str) -> str:
    r"""``text`` for a quoted field: quotes, backslashes, controls and non-ASCII as ``\xHH``.

    What is longer than ``MOST_LOGGED`` ends with "...".
    """
    if len(text) <= MOST_LOGGED and _UNSAFE.search(text) is None:
        return text
    escaped = text[: MOST_LOGGED + 1].translate(_ESCAPES)
    return escaped if len(escaped) <= MOST_LOGGED else f"{escaped[:MOST_LOGGED]}..."


def log_line(
    client: str,
    stamp: str,
    request_line: str,
    status: int,
    body_bytes: int,
    referer: str,
    user_agent: str,
    cache: str,
    seconds: str,
    range_: str,
    end: str,
    user: str = "-",
) -> str:
    """One line, with its end; what clients wrote has been through ``escape``.

    ``request_line`` is "-" when it could not be read, ``body_bytes`` what the kernel took from us,
    ``seconds`` has three decimals.
    """
    return (
        f'{client} - {user} [{stamp}] "{request_line}" {status} {body_bytes} "{referer}"'
        f' "{user_agent}" {cache} {seconds} "{range_}" {end}\n'
    )


class AccessLog:
    """Where the lines go: "-" is stderr, "off" nowhere, else a file (see ``LineWriter``)."""

    def __init__(self, target: str) -> None:
        """Raises OSError."""
        self._writer = None if target == OFF else LineWriter(target)
        self.enabled: Final = self._writer is not None  # whether anything is written at all

    def __repr__(self) -> str:
        return f"<AccessLog {self._writer or OFF}>"

    def add(self, line: str) -> None:
        """Take one line, with its end."""
        if self._writer is not None:
            self._writer.add(line)

    def flush(self) -> None:
        """Have written what is held. Does not switch."""
        if self._writer is not None:
            self._writer.flush()

    def reopen(self) -> None:
        """Go on in the file that has the name now: the old one was renamed. Does not switch."""
        if self._writer is not None:
            self._writer.reopen()

    def close(self) -> None:
        """Write what is held; idempotent. Switches, for 2 s at most."""
        if self._writer is not None:
            self._writer.close()
