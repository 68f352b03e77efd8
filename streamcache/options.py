"""What one option is: its kind, its limits, why it exists, and how a value of it is read.

An ``Option`` is the metadata of a field of a section in ``config/``; reading a value from text
(file, environment, flag), checking it and writing it down again all follow from it.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from streamcache.errors import ConfigError
from streamcache.units import (
    DURATION_FORMS,
    SIZE_FORMS,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

Value = str | int | float | bool

SHORTEST: Final = 0.001  # s, of a deadline: one of 0 would fail everything

_MOST_BYTES: Final = 8191 * 1024**5  # some less than the kernel's off_t holds: it can be told
_MOST_SECONDS: Final = 10 * 365 * 86400.0  # timers take no infinity
_MOST: Final = 2**31 - 1
_WORDS: Final = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class Kind(enum.Enum):
    """What a value is, which also says how text is read as one."""

    SIZE = "size"  # int, bytes
    DURATION = "duration"  # float, seconds
    SHARE = "share"  # float, 0 to 1
    COUNT = "count"  # int
    CHOICE = "choice"  # one of a few words
    BOOL = "bool"
    PATH = "path"  # of a file or directory
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Option:
    """One tunable. ``minimum`` and ``maximum`` are inclusive, in the base unit of the kind."""

    kind: Kind
    why: str  # the reason for it, in one sentence
    flag: str = ""  # "--cache-size", or "SOURCE" for the positional argument
    metavar: str = ""  # what stands for the value in the help of the flag
    zero: str = ""  # what 0 (or an empty path) means, when that is out of the ordinary
    minimum: float = 0
    maximum: float = math.inf
    choices: tuple[str, ...] = ()
    form: str = ""  # how a text is written: "HOST:PORT"
    per_second: bool = False  # a size per second
    word: str = ""  # stands for what the machine says: "cores"
    word_means: str = ""
    measured: Callable[[], int] | None = None  # the number that the word stands for
    reload: bool = False  # can change while the server runs

    def __post_init__(self) -> None:
        ceiling = {
            Kind.SIZE: _MOST_BYTES,
            Kind.DURATION: _MOST_SECONDS,
            Kind.SHARE: 1,
            Kind.COUNT: _MOST,
        }.get(self.kind, math.inf)
        object.__setattr__(self, "maximum", min(self.maximum, ceiling))

    @property
    def unit(self) -> str:
        """The unit of a value, in words."""
        if self.kind is Kind.SIZE:
            return "size per second" if self.per_second else "size"
        return str(self.kind.value)

    @property
    def allowed(self) -> str:
        """What a value may be, in words; without a maximum that nobody comes near."""
        return self._allowed(untold=(_MOST_BYTES, _MOST_SECONDS, _MOST))

    def _allowed(self, *, untold: tuple[float, ...] = ()) -> str:
        """``untold``: maxima that are left out."""
        limits = self._limits(untold)
        match self.kind:
            case Kind.SIZE:
                return limits + SIZE_FORMS
            case Kind.DURATION:
                return limits + DURATION_FORMS
            case Kind.SHARE:
                return 'a number from 0 to 1, or a percentage such as "95%"'
            case Kind.COUNT:
                word = f"{quoted(self.word)} ({self.word_means}) or " if self.word else ""
                return word + limits + "a whole number"
            case Kind.CHOICE:
                return ", ".join(self.choices)
            case Kind.BOOL:
                return "true or false"
            case Kind.PATH:
                return "a path"
            case Kind.TEXT:
                return f"text in quotes: {self.form}" if self.form else "text in quotes"

    def parse(self, value: object) -> Value:
        """The value that ``value`` stands for: text in any of its forms, or a value already.

        Raises ValueError that says what is wrong and what is allowed.
        """
        if not isinstance(value, str):
            return self.check(value)
        text = value.strip()
        match self.kind:
            case Kind.SIZE:
                size = parse_size(text.removesuffix("/s") if self.per_second else text)
                return self._within_as(size, value)
            case Kind.DURATION:
                return self._within_as(parse_duration(text), value)
            case Kind.SHARE:
                percent = text.endswith("%")
                try:
                    share = float(text.removesuffix("%")) / (100 if percent else 1)
                except ValueError:
                    raise self._wrong(value) from None
                return self.check(share)
            case Kind.COUNT:
                if self.measured is not None and text == self.word:
                    return self.check(self.measured())
                if not (text.isascii() and text.isdigit() and len(text) < 20):
                    raise self._wrong(value)
                return self.check(int(text))
            case Kind.BOOL:
                if text.lower() not in _WORDS:
                    raise self._wrong(value)
                return _WORDS[text.lower()]
            case Kind.CHOICE:
                return self.check(text)
            case Kind.PATH | Kind.TEXT:
                return self.check(value)  # blanks may belong to a path

    def check(self, value: object) -> Value:
        """``value`` in the type of its kind; ValueError when it is of another or out of range."""
        match self.kind:
            case Kind.BOOL:
                if isinstance(value, bool):
                    return value
            case Kind.CHOICE:
                if isinstance(value, str) and value in self.choices:
                    return value
            case Kind.PATH | Kind.TEXT:
                if isinstance(value, str) and "\0" not in value:
                    return value
            case Kind.SIZE | Kind.COUNT:
                # A float, as TOML has no other way to write 1e9.
                if is_number(value) and self._within(value) and value == int(value):
                    return int(value)
            case Kind.DURATION | Kind.SHARE:
                if is_number(value) and self._within(value):
                    return float(value)
        raise self._wrong(value)

    def format(self, value: Value) -> str:
        """``value`` as TOML: what ``parse`` and a TOML file read back as the same."""
        match self.kind:
            case Kind.SIZE if value:
                return quoted(format_size(int(value)))
            case Kind.DURATION:
                return quoted(format_duration(float(value)))
            case Kind.BOOL:
                return "true" if value else "false"
            case Kind.SIZE | Kind.COUNT | Kind.SHARE:
                return str(value)
            case Kind.CHOICE | Kind.PATH | Kind.TEXT:
                return quoted(str(value))

    def _within(self, value: float) -> bool:
        return self.minimum <= value <= self.maximum or (value == 0 and bool(self.zero))

    def _within_as(self, number: float, written: str) -> Value:
        """The number, or an error that shows it as it was written."""
        if not self._within(number):
            raise self._wrong(written, number)
        return self.check(number)

    def _limits(self, untold: tuple[float, ...]) -> str:
        bounds = [f"at least {self._short(self.minimum)}"] if self.minimum > 0 else []
        if self.maximum not in untold:
            bounds.append(f"at most {self._short(self.maximum)}")
        words = [f"0 ({self.zero})"] if self.zero else []
        if bounds:
            words.append(" and ".join(bounds))
        return " or ".join(words) + ": " if words else ""

    def _short(self, value: float) -> str:
        if self.kind is Kind.SIZE:
            return format_size(int(value))
        return format_duration(value) if self.kind is Kind.DURATION else f"{value:.0f}"

    def _wrong(self, value: object, number: object = None) -> ValueError:
        """``number``: what the value stands for, if that is not itself."""
        number = value if number is None else number
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        too_much = is_number(number) and number > self.maximum
        allowed = self._allowed() if too_much else self.allowed
        return ValueError(f"{shown} is not allowed; allowed: {allowed}")


def option(kind: Kind, why: str, **rest: Any) -> dict[str, Option]:
    """The metadata of a field: ``field(default=2.0, metadata=option(Kind.DURATION, "..."))``."""
    return {"option": Option(kind, why, **rest)}


def options_of(section: Any) -> dict[str, Option]:
    """The options of a section (class or instance) by key, in their order."""
    return {field.name: field.metadata["option"] for field in dataclasses.fields(section)}


def check_fields(section: Any, name: str) -> None:
    """Check every value of a frozen section at its birth and give each the type of its kind.

    Raises ConfigError that names ``name.key``, the value and what is allowed.
    """
    for key, known in options_of(section).items():
        try:
            value = known.check(getattr(section, key))
        except ValueError as error:
            raise ConfigError(f"{name}.{key}: {error}") from None
        object.__setattr__(section, key, value)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether ``value`` is a finite number; True and False are none here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def quoted(text: str) -> str:
    """``text`` as a TOML basic string."""
    escaped = "".join(
        f"\\{character}"
        if character in '"\\'
        else character
        if character.isprintable()
        else f"\\U{ord(character):08x}"
        for character in text
    )
    return f'"{escaped}"'
