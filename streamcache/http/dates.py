"""HTTP dates (RFC 9110 5.6.7) as whole seconds since the epoch."""

from __future__ import annotations

import datetime
import functools
import re

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_EPOCH = datetime.date(1970, 1, 1).toordinal()

MIN_DATE = (1 - _EPOCH) * 86400  # 0001-01-01
MAX_DATE = (datetime.date.max.toordinal() - _EPOCH + 1) * 86400 - 1  # the last second of 9999

_CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
# The names of days and months are case-sensitive. Whether the day of the week fits is not
# checked: the date is clear without it.
_IMF = rf"(?:{'|'.join(_DAYS)}), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT"
_RFC850 = (
    rf"(?:{'|'.join(_LONG_DAYS)}), "
    rf"(?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT"
)
_ASCTIME = (
    rf"(?:{'|'.join(_DAYS)}) {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_CLOCK} (?P<year>[0-9]{{4}})"
)
_FORMS = tuple(map(re.compile, (_IMF, _RFC850, _ASCTIME)))


@functools.lru_cache(maxsize=4096)
def format_date(seconds: int) -> str:
    """Write an IMF-fixdate.

    Raises ValueError outside of ``MIN_DATE`` to ``MAX_DATE``, the years that it can express.
    """
    if not MIN_DATE <= seconds <= MAX_DATE:
        raise ValueError(f"no HTTP date for {seconds} s")
    days, clock = divmod(seconds, 86400)
    date = datetime.date.fromordinal(days + _EPOCH)
    hour, rest = divmod(clock, 3600)
    minute, second = divmod(rest, 60)
    return (
        f"{_DAYS[date.weekday()]}, {date.day:02} {_MONTHS[date.month - 1]} {date.year:04}"
        f" {hour:02}:{minute:02}:{second:02} GMT"
    )


def parse_date(text: str, now: int) -> int | None:
    """Read an HTTP date in any of its three forms; None when it is not one.

    ``now`` (seconds) decides the century of the two-digit years of RFC 850: never more than 50
    years in the future.
    """
    match = next(filter(None, (form.fullmatch(text) for form in _FORMS)), None)
    if match is None:
        return None
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
    if hour > 23 or minute > 59 or second > 60:  # 60: the grammar has room for a leap second
        return None
    month, day = _MONTHS.index(match["month"]) + 1, int(match["day"])
    clock = hour * 3600 + minute * 60 + second
    if len(match["year"]) == 4:
        return _seconds(int(match["year"]), month, day, clock)
    # the last year of those two digits that is not more than 50 years ahead
    today = datetime.date.fromordinal(now // 86400 + _EPOCH)
    year = today.year + 50 - (today.year + 50 - int(match["year"])) % 100
    if year == today.year + 50 and (month, day, clock) > (today.month, today.day, now % 86400):
        year -= 100
    return _seconds(year, month, day, clock)


def _seconds(year: int, month: int, day: int, clock: int) -> int | None:
    try:
        date = datetime.date(year, month, day)
    except ValueError:
        return None
    return (date.toordinal() - _EPOCH) * 86400 + clock
