"""Which files an operation is about: one path, all below a prefix, or a glob. PURE.

Paths are written as in a URL, "/a/b.mp4", and without the first slash within the cache. A glob is
the shell's: ``*``, ``?`` and ``[...]`` stay within one name, ``**`` stands for any number of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self

_MAGIC: Final = re.compile(r"[*?\[]")
_MOST: Final = 4096  # characters, as of a path
_MOST_DEEP: Final = 8  # names that are "**": each may be tried at every depth


@dataclass(frozen=True, slots=True)
class Selection:
    """Exactly one of ``path``, ``prefix`` and ``glob``, without the first slash; "" is all.

    Made by ``of``, which takes them as people write them.
    """

    path: str | None = None
    prefix: str | None = None
    glob: str | None = None
    _pattern: re.Pattern[str] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = [text for text in (self.path, self.prefix, self.glob) if text is not None]
        if len(given) != 1:
            raise ValueError("one of path, prefix and glob is needed, and no more")
        if len(given[0]) > _MOST or "\0" in given[0]:
            raise ValueError(f"{given[0][:80]!r}: no path has more than {_MOST} characters, or NUL")
        if self.path is not None and any(p in ("", ".", "..") for p in self.path.split("/")):
            raise ValueError(f"path {'/' + self.path!r} names no file")
        if self.glob is not None:
            object.__setattr__(self, "_pattern", re.compile(_translated(self.glob), re.DOTALL))

    @classmethod
    def of(
        cls, *, path: str | None = None, prefix: str | None = None, glob: str | None = None
    ) -> Self:
        """From "/a/b.mp4", "/a/" or "/a/*.mp4"; the first slash may be missing. ValueError."""
        return cls(*(None if t is None else t.removeprefix("/") for t in (path, prefix, glob)))

    @classmethod
    def everything(cls) -> Self:
        """All files."""
        return cls(prefix="")

    def __str__(self) -> str:
        if self.path is not None:
            return f"/{self.path}"
        return f"/{self.prefix}*" if self.prefix is not None else f"/{self.glob}"

    @property
    def is_everything(self) -> bool:
        """Whether no file is left out."""
        return self.prefix == ""

    @property
    def literal(self) -> str:
        """With what every path of it begins."""
        if self.glob is None:
            return self.path or self.prefix or ""
        found = _MAGIC.search(self.glob)
        return self.glob if found is None else self.glob[: found.start()]

    @property
    def folder(self) -> str:
        """The deepest folder that has all of them below it; "" is the root."""
        return self.literal.rpartition("/")[0]

    @property
    def deepest(self) -> int | None:
        """How many names a path of it has at most; None: any number."""
        if self.path is not None:
            return self.path.count("/") + 1
        if self.glob is not None and "**" not in self.glob.split("/"):
            return self.glob.count("/") + 1
        return None

    def matches(self, path: str) -> bool:
        """Whether this path (without its first slash) is one of them."""
        if self._pattern is not None:
            return self._pattern.fullmatch(path) is not None
        return path == self.path if self.path is not None else path.startswith(self.prefix or "")


def _translated(glob: str) -> str:
    """A regular expression. ValueError: a bracket is not closed, or too many ``**``."""
    pieces: list[str] = []
    names = glob.split("/")
    if names.count("**") > _MOST_DEEP:
        raise ValueError(f"glob {'/' + glob!r}: at most {_MOST_DEEP} times **")
    for number, name in enumerate(names):
        last = number == len(names) - 1
        if name == "**":
            pieces.append(".+" if last else "(?:[^/]+/)*")
        else:
            pieces.append(_translated_name(name, glob) + ("" if last else "/"))
    return "".join(pieces)


def _translated_name(name: str, glob: str) -> str:
    parts, at = [""], 0
    while at < len(name):
        letter = name[at]
        at += 1
        if letter == "*":
            parts.append("")
        elif letter == "?":
            parts[-1] += "[^/]"
        elif letter == "[":
            end = name.find("]", at + 2 if name[at : at + 1] == "!" else at + 1)
            if end < 0:
                raise ValueError(
                    f"glob {'/' + glob!r}: a [ is not closed; for a [ itself write [[]"
                )
            parts[-1] += _translated_set(name[at:end], glob)
            at = end + 1
        else:
            parts[-1] += re.escape(letter)
    if len(parts) == 1:
        return parts[0]
    # The first place where what follows a star fits is as good as any later one, so nothing is
    # tried again there (as in fnmatch): many stars would take for ever.
    middle = "".join(f"(?>[^/]*?{part})" for part in parts[1:-1] if part)
    return f"{parts[0]}{middle}[^/]*{parts[-1]}"


def _translated_set(letters: str, glob: str) -> str:
    """The inside of a [...]: letters and ranges; ! at the start: any other."""
    no, chosen = ("^", letters[1:]) if letters.startswith("!") else ("", letters)
    pieces, at = [], 0
    while at < len(chosen):
        if at + 2 < len(chosen) and chosen[at + 1] == "-":
            first, last = chosen[at], chosen[at + 2]
            if first > last:
                raise ValueError(f"glob {'/' + glob!r}: [{first}-{last}] has no letters")
            pieces.append(f"{re.escape(first)}-{re.escape(last)}")
            at += 3
        else:
            pieces.append(re.escape(chosen[at]))
            at += 1
    return f"(?!/)[{no}{''.join(pieces)}]"
