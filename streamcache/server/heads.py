"""What is read of ordinary request heads, and kept: players send the same one again and again.

Runs in the hub; nothing here switches. A head is kept without its Range, with what it means, once
it came a second time; a request line with the answers of its file.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Generic, NamedTuple, TypeVar

from streamcache.http.ordinary import Parts, ordinary_head, ordinary_path
from streamcache.http.request import Limits
from streamcache.server.logline import NOTHING, usual_behind

A = TypeVar("A")

LONGEST: Final = 4096  # bytes of a request's head
HEADS: Final = 512  # heads kept: 4 MB at worst, whatever strangers send
LINES: Final = 1024  # request lines kept, each with the answers of its file: 12 MB at worst
ONCE: Final = 4096  # digests of heads that came once; a power of two

_RANGE_ROOM: Final = 64  # bytes that a Range line which is cut out may have


class Line(Generic[A]):
    """A request line: the path that it names, its text, the answers of its file."""

    __slots__ = ("answers", "path", "text")

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.answers: A | None = None


class Fields(NamedTuple):
    """What is logged of a request's fields; "-" when absent."""

    referer: str
    user_agent: str
    host: str


class Head(Generic[A]):
    """An ordinary head without its Range, as far as it matters."""

    __slots__ = ("_parts", "behind", "line")

    def __init__(self, line: Line[A], parts: Parts, cache: str) -> None:
        self.line = line
        self._parts = parts
        # The count of bytes in the log.
        self.behind = usual_behind(cache, parts[3], parts[2])

    @property
    def fields(self) -> Fields:
        """What is logged of them."""
        _, host, agent, referer = self._parts
        return Fields(_text(referer), _text(agent), _text(host))


def _text(value: bytes | None) -> str:
    """A field's value as it is logged."""
    return NOTHING if value is None else value.strip(b" \t").decode("latin-1") or NOTHING


class Heads(Generic[A]):
    """The heads of one server's requests; ``kept`` by their bytes, and always the same dict."""

    def __init__(self, limits: Limits, cache: str) -> None:
        """``cache``: how the cache answers them, as the log says it."""
        self.kept: dict[bytes, Head[A]] = {}
        self._limits = limits
        self._cache = cache
        self._longest = min(LONGEST, limits.head_size - _RANGE_ROOM)
        self._once = [0] * ONCE
        self._line = lru_cache(LINES)(self._read_line)

    def read(self, key: bytes) -> Head[A] | None:
        """Read a head without its Range; one that comes again is kept. None: it is not ordinary."""
        if len(key) > self._longest:
            return None
        parts = ordinary_head(key, self._limits.fields)
        if parts is None:
            return None
        line = self._line(parts[0])
        if line is None:
            return None
        head: Head[A] = Head(line, parts, self._cache)
        # Clients that never send the same twice must not turn the others out. A digest that meets
        # another one in its place only has a head be read once more.
        digest = hash(key)
        place = digest & (ONCE - 1)
        if self._once[place] != digest:
            self._once[place] = digest
            return head
        if len(self.kept) >= HEADS:
            self.kept.clear()
        self.kept[key] = head
        return head

    def _read_line(self, line: bytes) -> Line[A] | None:
        path = ordinary_path(line, self._limits.target_size)
        return None if path is None else Line(path, line.decode("latin-1"))
