"""The Range field (RFC 9110 14.1, 14.2) over a file of known size."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from streamcache.http.syntax import BLANK, is_digits

_MAX_DIGITS = 18  # longer numbers lie beyond every file; int() of thousands of digits is slow
_BEYOND = 10**_MAX_DIGITS


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes ``start`` to ``stop`` of a file, half-open and never empty."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"no bytes from {self.start} to {self.stop}")

    @property
    def length(self) -> int:
        """Bytes in it."""
        return self.stop - self.start


class RangeError(enum.Enum):
    """Why a well-formed Range has no bytes."""

    UNSATISFIABLE = enum.auto()


UNSATISFIABLE = RangeError.UNSATISFIABLE
Unsatisfiable = Literal[RangeError.UNSATISFIABLE]


def parse_range(
    value: str, size: int, max_ranges: int
) -> tuple[ByteRange, ...] | Unsatisfiable | None:
    """Read a Range field's value for a file of ``size`` bytes.

    The ranges come in the order asked for, those that begin beyond the end left out (RFC 9110
    15.3.7.2). UNSATISFIABLE when all do. None when the field is ignored and the whole file is the
    answer: another unit, a malformed set, more than ``max_ranges``, an empty file, or ranges that
    overlap so much that they add up to more than the file (RFC 9110 14.2, 17.15).
    """
    unit, equals, ranges = value.partition("=")
    if not equals or unit.lower() != "bytes" or not size:
        return None
    members = ranges.split(",")
    specs = [spec for member in members if (spec := member.strip(BLANK))]
    # blanks stand before a comma, so also before that of an empty first member, but not before a
    # first member that is there (RFC 9110 5.6.1.2)
    if members[0].startswith((" ", "\t")) and members[0].strip(BLANK):
        return None
    if not specs or len(specs) > max_ranges:
        return None
    found: list[ByteRange] = []
    for spec in specs:
        one = _parse_spec(spec, size)
        if one is None:
            return None
        if one is not UNSATISFIABLE:
            found.append(one)
    if not found:
        return UNSATISFIABLE
    if len(found) > 1 and sum(one.length for one in found) > size:
        return None
    return tuple(found)


def _parse_spec(spec: str, size: int) -> ByteRange | Unsatisfiable | None:
    first, dash, last = spec.partition("-")
    if not dash or not (first or last):
        return None
    if (first and not is_digits(first)) or (last and not is_digits(last)):
        return None
    if not first:
        count = min(_number(last), size)
        return ByteRange(size - count, size) if count else UNSATISFIABLE
    start = _number(first)
    stop = _number(last) + 1 if last else max(size, start + 1)
    if stop <= start:
        return None  # an invalid int-range makes the whole set invalid (RFC 9110 14.1.1)
    return ByteRange(start, min(stop, size)) if start < size else UNSATISFIABLE


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return _BEYOND if len(digits) > _MAX_DIGITS else int(digits or "0")
