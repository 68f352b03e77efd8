"""The files at the source: what each of them is, and what each version of them was."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from streamcache.source.base import Version
from tests.content import SETTLED, write


@dataclass(frozen=True, slots=True)
class Content:
    """One version of a title: every byte follows from ``text``."""

    title: str
    text: str
    size: int


class Titles:
    """Files of ``backing`` that are replaced and taken away; every version that ever was is known.

    Each change is one rename or unlink, so that a moment has one version and not half of one. What
    is not replaced but written to is the subject of tests/system/test_changing_source.py.
    """

    def __init__(
        self, backing: Path, sizes: Sequence[int], random: Random, count: int = 24
    ) -> None:
        """``count`` files, each version of one of these ``sizes`` in bytes."""
        self.names = [f"film{number}.mp4" for number in range(count)]
        self.changes = 0
        self._backing = backing
        self._sizes = sizes
        self._random = random
        self._versions: dict[str, Content] = {}
        self._now: dict[str, str] = {}  # by name: the version; absent names are not in it
        self._since: dict[str, float] = {}  # by name: the last change, monotonic s
        self._over: dict[str, float] = {}  # by version: when it was replaced, monotonic s
        self._numbers = itertools.count(1)
        for name in self.names:
            self._replace(name, SETTLED)

    def change(self) -> None:
        """One file is replaced, mostly by a newer one, or is gone; or one that was gone is back.

        Does not switch.
        """
        self.changes += 1
        gone = [name for name in self.names if name not in self._now]
        name, kind = self._random.choice(gone or self.names), self._random.random()
        if kind < 0.1 and not gone:
            os.unlink(self._backing / name)
            self._end(name)
        else:
            # ``cp -p`` of a backup makes a file older.
            self._replace(name, SETTLED if kind < 0.7 else 2 * SETTLED + self._random.random())

    def restore(self) -> None:
        """All of them are there."""
        for name in self.names:
            if name not in self._now:
                self._replace(name, SETTLED)

    def version(self, version: str) -> Content | None:
        """What the version of this id is; None: there never was one."""
        return self._versions.get(version)

    def current(self, name: str) -> Content | None:
        """What is at this name now; None: nothing."""
        version = self._now.get(name)
        return None if version is None else self._versions[version]

    def is_settled(self, name: str, asked: float, slack: float) -> bool:
        """Whether nothing became of this name since ``slack`` s before a request at ``asked``."""
        return self._since[name] < asked - slack

    def is_over(self, version: str, asked: float, slack: float) -> bool:
        """Whether a version had been replaced ``slack`` s before a request at ``asked``."""
        return self._over.get(version, asked) < asked - slack

    def _replace(self, name: str, age: float) -> None:
        text, size = f"{name}-{next(self._numbers)}", self._random.choice(self._sizes)
        path = write(self._backing, name, size, content_name=text, age=age)
        version = Version.of(path.stat()).id
        assert version not in self._versions, "two contents of one version"
        self._end(name)
        self._versions[version] = Content(name, text, size)
        self._now[name] = version

    def _end(self, name: str) -> None:
        self._since[name] = time.monotonic()
        before = self._now.pop(name, None)
        if before is not None:
            self._over[before] = self._since[name]
