"""The time of day as responses and log lines write it, rebuilt once a second."""

from __future__ import annotations

import time

from streamcache.http.dates import format_date

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Clock:
    """``second``: s since the epoch; ``date``: the same as IMF-fixdate (RFC 9110 5.6.7);
    ``stamp``: the same as "10/Oct/2026:13:55:36 +0000", ``instant`` as "2026-10-10T13:55:36Z".

    Read for every response, so they are plain attributes. English names are our own: strftime
    would ask the locale of the embedding program.
    """

    __slots__ = ("date", "instant", "second", "stamp")

    def __init__(self) -> None:
        self.second = -1
        self.date = b""
        self.stamp = self.instant = ""
        self.update(time.time())

    def update(self, now: float) -> None:
        """Rebuild them for ``now`` (s since the epoch) if its second is a new one."""
        second = int(now)
        if second == self.second:
            return
        self.second = second
        self.date = format_date(second).encode("ascii")
        t = time.gmtime(second)
        day = f"{t.tm_mday:02}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year:04}"
        time_of_day = f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
        self.stamp = f"{day}:{time_of_day} +0000"
        self.instant = f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{time_of_day}Z"  # RFC 3339
