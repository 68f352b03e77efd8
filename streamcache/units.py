"""Sizes and durations as people write them: ``10GiB``, ``500MB``, ``500G``, ``2s``, ``250ms``."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

KiB, MiB, GiB = 1024, 1024**2, 1024**3

SIZE_FORMS: Final = (
    "bytes as a plain number, or with B, kB, MB, GB, TB, PB (powers of 1000) "
    "or KiB, MiB, GiB, TiB, PiB or K, M, G, T, P (powers of 1024), such as 500MB or 10GiB"
)
DURATION_FORMS: Final = (
    "seconds as a plain number, or with ms, s, m (minutes), h or d, such as 250ms, 2s, 5m, 1h or 1d"
)

_SIZES: Final = {"b": 1} | {
    prefix + suffix: base**power
    for suffix, base in (("b", 1000), ("ib", 1024), ("", 1024))
    for power, prefix in enumerate("kmgtp", start=1)
}
_SIZE_NAMES: Final = ("PiB", "TiB", "GiB", "MiB", "KiB", "PB", "TB", "GB", "MB", "kB")
_DURATIONS: Final = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
# Digits are limited: a row of a million of them is a mistake, and int() of it takes seconds.
_NUMBER: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?) ?([a-z]*)", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes from "500MB" (10^6), "10GiB" (2^30), "500G" (2^30), "1.5 GiB" or "4096".

    Case does not matter. A fraction of a byte is cut off. A letter alone is a power of 1024 as in
    nginx, Varnish, rclone, systemd and ``truncate``. Raises ValueError that says what is allowed.
    """
    number, unit = _split(text, "size", SIZE_FORMS)
    if not unit:
        if number != int(number):
            raise ValueError(f"{text!r} is not a whole number of bytes; allowed: {SIZE_FORMS}")
        return int(number)
    factor = _SIZES.get(unit)
    if factor is None:
        raise ValueError(f"{text!r} is no size; allowed: {SIZE_FORMS}")
    return int(number * factor)


def format_size(size: int) -> str:
    """The shortest form that ``parse_size`` reads back as exactly ``size`` bytes."""
    forms = [
        f"{size // factor}{name}"
        for name in _SIZE_NAMES
        if size and size % (factor := _SIZES[name.lower()]) == 0
    ]
    return min(forms, key=len, default=str(size))


def parse_duration(text: str) -> float:
    """Seconds from "250ms", "2s", "5m", "1.5h", "1d" or "2".

    Raises ValueError that says what is allowed.
    """
    number, unit = _split(text, "duration", DURATION_FORMS)
    factor = _DURATIONS.get(unit or "s")
    if factor is None:
        raise ValueError(f"{text!r} is no duration; allowed: {DURATION_FORMS}")
    return float(number * factor)


def format_duration(seconds: float) -> str:
    """The form in the largest unit that is whole; ``parse_duration`` reads it back exactly."""
    exact = Decimal(repr(float(seconds)))
    if not exact:
        return "0s"
    for name in ("d", "h", "m", "s", "ms"):
        count = exact / _DURATIONS[name]
        if count == count.to_integral_value():
            return f"{count.to_integral_value():f}{name}"
    return f"{exact:f}s"


def _split(text: str, noun: str, forms: str) -> tuple[Decimal, str]:
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is None:
        shown = repr(text) if len(text) <= 60 else f"{text[:60]!r}..."
        raise ValueError(f"{shown} is no {noun}; allowed: {forms}")
    return Decimal(match[1]), match[2]
