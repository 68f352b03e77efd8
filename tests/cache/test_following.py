"""Blocks of other sessions: a reader hears of them, and asks for those that are free or late."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

from streamcache.cache import following as following_module
from streamcache.cache.blockmap import BLOCK, BlockMap, Extent
from streamcache.cache.following import Following
from streamcache.cache.reading import PendingRead, Waiting

COUNT = 8


class Others:
    """Claims of which the test says what others do."""

    def __init__(self, blocks: BlockMap) -> None:
        self.map = blocks
        self.held: list[Extent] = []
        self.late: set[int] = set()
        self.looks = 0

    @property
    def others(self) -> bool:
        return bool(self.held)

    def take(self, start: int, stop: int) -> None:
        self.held += self.map.bar(Extent(start, stop))

    def let_go(self) -> None:
        """They are free at the next look."""
        self.going = True

    going = False

    def look(self) -> bool:
        self.looks += 1
        if not self.going:
            return False
        self.going = False
        for extent in self.held:
            self.map.unbar(extent)
        self.held.clear()
        return True

    def is_overdue(self, block: int, patience: float) -> bool:
        return block in self.late


class Site:
    def __init__(self) -> None:
        self.map = BlockMap(COUNT * BLOCK)
        self.others = Others(self.map)
        self.waiting = Waiting()
        self.demanded: list[int] = []
        self.freed = 0
        self.stalled: set[int] = set()
        self.following = Following(
            self.others,
            self.waiting,
            self.map,
            patience=2.0,
            demand=self.demanded.append,
            freed=self._freed,
            stalled=lambda block: block in self.stalled,
        )

    def _freed(self) -> None:
        self.freed += 1

    def wait_for(self, block: int) -> PendingRead:
        read = PendingRead(block * BLOCK, (block + 1) * BLOCK)
        self.waiting.add(read)
        return read

    @property
    def running(self) -> bool:
        return "on" in repr(self.following)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(following_module, "_WANTED", 0.001)
    monkeypatch.setattr(following_module, "_UNWANTED", 0.002)
    return Site()


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(5):
        while not condition():
            gevent.sleep(0.001)


def test_nobody_is_followed_without_need(site: Site) -> None:
    site.following.begin()
    gevent.sleep(0.01)
    assert not site.running
    assert site.others.looks == 0


def test_one_greenlet_follows_until_nothing_is_left(site: Site) -> None:
    site.others.take(0, 4)
    for _ in range(3):
        site.following.begin()
    until(lambda: site.others.looks > 3)
    site.others.let_go()
    until(lambda: not site.running)
    assert site.freed == 1
    assert site.demanded == [], "nobody waits"
    site.others.take(5, 6)
    site.following.begin()
    assert site.running
    site.following.end()
    until(lambda: not site.running)


def test_what_is_free_again_is_asked_for_by_who_waits(site: Site) -> None:
    site.others.take(0, 4)
    site.following.begin()
    site.wait_for(2)
    site.following.hurry()
    gevent.sleep(0.01)
    assert site.demanded == []
    site.others.let_go()
    until(lambda: site.demanded)
    assert set(site.demanded) == {2}
    until(lambda: not site.running)


def test_who_waits_is_not_kept_waiting_by_the_slow_pace(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_module, "_UNWANTED", 1000.0)
    site.others.take(0, 4)
    site.following.begin()
    gevent.sleep(0.01)
    assert site.others.looks == 0
    site.wait_for(1)
    site.following.hurry()
    until(lambda: site.others.looks > 3)
    site.others.let_go()
    until(lambda: site.demanded == [1])


def test_what_is_late_is_borrowed_once_at_a_time(site: Site) -> None:
    site.others.take(0, 4)
    site.others.late = {1}
    site.wait_for(1)
    site.wait_for(2)
    site.following.demand_for(Extent(0, COUNT))
    assert site.demanded == [1]
    site.following.borrow(1)
    assert not site.following.is_late(1)
    site.following.demand_for(Extent(0, COUNT))
    assert site.demanded == [1]
    site.following.return_borrowed(1)
    site.following.return_borrowed(1)
    site.following.demand_for(Extent(0, 2))
    assert site.demanded == [1, 1]


def test_what_stalls_of_ours_is_borrowed_too(site: Site) -> None:
    site.map.claim(3, limit=2)
    site.stalled = {3}
    site.wait_for(3)
    site.wait_for(4)
    site.following.demand_for(Extent(3, 5))
    assert site.demanded == [3]
    site.following.borrow(3)
    assert not site.following.is_late(3)


def test_it_ends_with_its_session(site: Site) -> None:
    site.others.take(0, 4)
    site.following.begin()
    site.wait_for(1)
    site.following.hurry()
    gevent.sleep(0.005)
    site.following.end()
    until(lambda: not site.running)
    site.following.begin()
    until(lambda: not site.running)
