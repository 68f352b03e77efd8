"""What the answer to a request is about: one version of a file, as HTTP sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamcache.http.dates import MIN_DATE, format_date

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')  # RFC 9110 8.8.3, without obs-text
_CONTENT_TYPE = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")


@dataclass(frozen=True, slots=True)
class Entity:
    """``size`` in bytes, the quoted entity tag, ``mtime`` in whole seconds, the media type.

    Raises ValueError for values that no field may carry.
    """

    size: int
    etag: str
    mtime: int
    content_type: str

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size {self.size}")
        if not _ETAG.fullmatch(self.etag):
            raise ValueError(f"not an entity tag: {self.etag!r}")
        if not _CONTENT_TYPE.fullmatch(self.content_type):
            raise ValueError(f"not a media type: {self.content_type!r}")

    def last_modified(self, now: int) -> str | None:
        """The value of Last-Modified in an answer of the second ``now``.

        A time in the future becomes ``now``, as RFC 9110 8.8.2.1 asks; None for a time that no
        HTTP date can express.
        """
        seconds = min(self.mtime, now)
        return format_date(seconds) if seconds >= MIN_DATE else None
