"""Which files an operation is about: one path, all below a prefix, or a glob. PURE.

Paths are written as in a URL, "/a/b.mp4", and without the first slash within the cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self

from streamcache.globs import compile_glob

_MAGIC: Final = re.compile(r"[*?\[]")
_MOST: Final = 4096  # characters, as of a path


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
            object.__setattr__(self, "_pattern", compile_glob(self.glob))

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
        if self.prefix is None:
            return f"/{self.glob}"
        folder = not self.prefix or self.prefix.endswith("/")
        return f"/{self.prefix}" if folder else f"/{self.prefix}..."

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
