"""Readers that join."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from streamcache.source.base import Fingerprint, SourceFile, Version
from streamcache.source.feed import Piece
from streamcache.source.scheduler import Scheduler
from streamcache.stats import Counters
from tests.system.site import eventually

NOW = Fingerprint(1, 2, 3, 4, 5, 6)


class FakePool:
    """Runs calls at once."""

    size = 16
    pending = 0

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        gevent.sleep(0)
        return function(*args)


class FakeSource:
    """As quick as nothing."""

    def read_into(self, file: object, buffer: memoryview, offset: int) -> int:
        return len(buffer)

    def fingerprint(self, file: object) -> Fingerprint:
        return NOW


class FakeFeed:
    """Wants more as long as the race goes on."""

    file = SourceFile(-1, Version("0", 1 << 30, 0), NOW)
    sink = None

    def __init__(self, race: list[FakeFeed], steps: int, on_step: Callable[[], None]) -> None:
        self.seen = NOW
        self.got = 0
        self._race = race
        self._steps = steps
        self._on_step = on_step

    def demanded(self, offset: int, length: int) -> None:
        return None

    def sequential(self, length: int) -> Piece | None:
        if sum(feed.got for feed in self._race) >= self._steps:
            return None
        self.got += 1
        return Piece(0, 65536)

    def arrived(self, piece: Piece, data: memoryview, now: object) -> None:
        self._on_step()

    def failed(self, piece: Piece, error: Exception) -> None:
        raise error


def test_readers_that_join_one_title_take_no_turns_from_others() -> None:
    """Five titles get the same, although readers of the first come and go at each step."""
    scheduler = Scheduler(FakeSource(), FakePool(), Counters(), in_flight=1)
    feeds: list[FakeFeed] = []
    feeds += [FakeFeed(feeds, 500, lambda: scheduler.add(feeds[0], idle=False)) for _ in range(5)]
    for feed in feeds:
        scheduler.add(feed, idle=False)
    eventually(lambda: sum(feed.got for feed in feeds) >= 500 and not scheduler._steps.running)
    got = [feed.got for feed in feeds]
    assert min(got) > max(got) / 2, got
