"""Who reads next: seeks, then demands, then sequential copying in turn, idle copying at last."""

from __future__ import annotations

import pytest

from streamcache.source.rate import COPIED_STEP, FIRST_STEP, START_STEP
from streamcache.source.scheduler import Scheduler
from streamcache.source.step import SLICE
from tests.source.fakes import Clock, FakeFeed, Reads, kept, made, turn

# -- order


def test_sequential_copying_keeps_a_few_steps_in_flight(reads: Reads) -> None:
    made(reads, in_flight=3).add(FakeFeed("a"), idle=False)
    turn()
    assert reads.offsets == [0, START_STEP, 2 * START_STEP]
    reads.let(reads.waiting[1])
    assert reads.offsets == [0, 2 * START_STEP, 3 * START_STEP]
    reads.shut = False


def test_a_seek_is_read_at_once_though_steps_are_in_flight(reads: Reads) -> None:
    scheduler = made(reads, in_flight=3)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    scheduler.demand(feed, 1 << 30, seek=True)
    turn()
    assert reads.offsets[3:] == [1 << 30]
    assert reads.waiting[3].length == FIRST_STEP


def test_no_sequential_step_starts_while_a_seek_is_under_way(reads: Reads) -> None:
    """I12, over all sessions of a source."""
    scheduler = made(reads, in_flight=2)
    copied, sought = FakeFeed("a"), FakeFeed("b")
    scheduler.add(copied, idle=False)
    scheduler.demand(sought, 0, seek=True)
    turn()
    assert reads.names == "aab"
    reads.let(reads.waiting[0])
    assert reads.names == "ab"
    reads.let(reads.waiting[0])
    assert reads.names == "b"
    scheduler.add(FakeFeed("c"), idle=False)
    turn()
    assert reads.names == "b"
    reads.let()
    assert sorted(reads.names) == ["a", "c"]


def test_a_seek_that_finds_no_worker_waits_and_holds_back_the_rest() -> None:
    reads = Reads(size=3)
    scheduler = made(reads, in_flight=2)
    feed = FakeFeed("a", size=3 * START_STEP)
    scheduler.add(feed, idle=False)
    turn()
    for offset in range(3):
        scheduler.demand(feed, (100 + offset) << 20, seek=True)
        turn()
    assert reads.offsets == [0, START_STEP, 100 << 20]
    reads.let(reads.waiting[2])
    assert reads.offsets == [0, START_STEP, 101 << 20]
    reads.let(reads.waiting[0])
    assert reads.offsets == [START_STEP, 101 << 20, 102 << 20]
    reads.end()


def test_seeks_are_served_in_the_order_in_which_they_came() -> None:
    reads = Reads(size=1)
    scheduler = made(reads)
    feeds = [FakeFeed(name) for name in "abcd"]
    for feed in feeds:
        scheduler.demand(feed, 0, seek=True)
        turn()
    order = ""
    while reads.waiting:
        order += reads.names
        reads.let()
    assert order == "abcd"


def test_seeks_that_come_at_once_take_no_more_than_the_workers() -> None:
    """They are claimed when a worker is free, not to wait in its queue and look late."""
    reads = Reads(size=2)
    scheduler = made(reads)
    for name in "abcde":
        scheduler.demand(FakeFeed(name), 0, seek=True)
    assert "seeks=3+2" in repr(scheduler)
    turn()
    assert reads.names == "ab"
    reads.end()


def test_the_oldest_demand_goes_first_and_before_all_sequential_steps(reads: Reads) -> None:
    scheduler = made(reads, in_flight=1)
    scheduler.add(FakeFeed("s"), idle=False)
    turn()
    for name in "abc":
        scheduler.demand(FakeFeed(name), 0, seek=False)
    order = ""
    for _ in range(5):
        order += reads.names
        reads.let()
    assert order == "sabcs"


def test_demands_are_steps_and_count_as_such(reads: Reads) -> None:
    scheduler = made(reads, in_flight=2)
    feed = FakeFeed("a")
    for offset in range(4):
        scheduler.demand(feed, offset << 20, seek=False)
    turn()
    assert [(read.offset, read.length) for read in reads.waiting] == [
        (0, START_STEP),
        (1 << 20, START_STEP),
    ]


def test_what_is_no_longer_wanted_is_passed_over(reads: Reads) -> None:
    scheduler = made(reads, in_flight=1)
    left, stays = FakeFeed("l"), FakeFeed("s")
    left.wanted = False
    for seek in (True, False):
        scheduler.demand(left, 0, seek=seek)
        scheduler.demand(stays, 0, seek=seek)
    turn()
    assert reads.names == "ss"


def test_idle_copies_come_last(reads: Reads) -> None:
    scheduler = made(reads, in_flight=2)
    idle, read = FakeFeed("i"), FakeFeed("r", size=4 * START_STEP)
    scheduler.add(idle, idle=True)
    turn()
    assert reads.names == "ii"
    scheduler.add(read, idle=False)
    order = ""
    for _ in range(6):
        reads.let(reads.waiting[0])
        order += reads.names[-1]
    assert order == "rrrrii"


def test_a_feed_that_is_taken_out_starts_no_step_more(reads: Reads) -> None:
    scheduler = made(reads, in_flight=2)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    turn()
    scheduler.remove(feed)
    scheduler.remove(feed)
    reads.let()
    assert reads.names == ""
    assert len(feed.got) == 2, "those in flight come back"


def test_a_feed_that_changes_sides_is_in_one_queue(reads: Reads) -> None:
    scheduler = made(reads, in_flight=1)
    feed, other = FakeFeed("a"), FakeFeed("b")
    scheduler.add(feed, idle=True)
    scheduler.add(feed, idle=False)
    scheduler.add(feed, idle=True)
    scheduler.add(other, idle=False)
    turn()
    order = ""
    for _ in range(4):
        order += reads.names
        reads.let()
    assert order == "abbb"


@pytest.mark.parametrize("feeds", [2, 3, 5])
@pytest.mark.parametrize("pick", [0, -1])
def test_sessions_with_readers_get_the_same_share(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, feeds: int, pick: int
) -> None:
    Clock(monkeypatch)  # none of them becomes late, however slow this machine is
    scheduler = made(reads, in_flight=4)
    sessions = [FakeFeed(chr(ord("a") + number)) for number in range(feeds)]
    for feed in sessions:
        scheduler.add(feed, idle=False)
    turn()
    for _ in range(60 * feeds):
        read = reads.waiting[pick]
        reads.let(read)
        # As a session does when a step of it has ended.
        scheduler.add(sessions[ord(read.file.version.id) - ord("a")], idle=False)
        turn()
    shares = sorted(feed.next for feed in sessions)
    assert shares[0] >= 0.8 * shares[-1], shares


def test_readers_that_join_one_file_take_no_turns_from_others(reads: Reads) -> None:
    """Five files get the same, although readers of the first come and go at each step."""
    scheduler = made(reads, in_flight=1)
    first, *others = [FakeFeed(name) for name in "abcde"]
    for feed in (first, *others):
        scheduler.add(feed, idle=False)
    turn()
    order = ""
    for _ in range(21):
        order += reads.names
        scheduler.add(first, idle=False)
        reads.let()
        scheduler.add(first, idle=False)
    assert order == "a" + "abcde" * 4, "a step each, once there were others"


def test_who_came_first_and_alone_has_had_what_is_in_flight_when_others_come(
    reads: Reads,
) -> None:
    """Else the first of 200 files that are asked for together is there three times as early."""
    scheduler = made(reads, in_flight=2)
    first, second = FakeFeed("a"), FakeFeed("b")
    scheduler.add(first, idle=False)
    turn()
    assert reads.names == "aa"
    scheduler.pump()  # whoever changes something
    for offset in range(3):
        scheduler.demand(first, offset << 30, seek=False)
    for offset in range(3):
        scheduler.demand(second, offset << 30, seek=False)
    order = ""
    for _ in range(8):
        read = reads.waiting[0]
        order += read.file.version.id
        reads.let(read)
    assert order == "aabbbaaa"


def test_a_feed_with_nothing_to_copy_leaves_its_turn_to_others(reads: Reads) -> None:
    scheduler = made(reads, in_flight=2)
    scheduler.add(FakeFeed("a", size=0), idle=False)
    scheduler.add(FakeFeed("b"), idle=False)
    turn()
    assert reads.names == "bb"
    reads.let()
    assert reads.names == "bb"


# -- a near source


def test_one_worker_at_a_time_copies_a_file_and_several_copy_several(
    reads: Reads, near: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lets one write a file at a time: two cost half as much again, for nothing."""
    Clock(monkeypatch)  # none of them is slow, however slow this machine is
    feeds = [FakeFeed(name) for name in "abcd"]
    for feed in feeds:
        kept(feed)
        near.add(feed, idle=False)
    turn()
    assert reads.names == "abc", "and no more than may be in flight"
    near.add(feeds[0], idle=False)
    turn()
    assert reads.names == "abc"
    for _ in range(COPIED_STEP // SLICE):
        reads.let(reads.waiting[reads.names.index("a")])
    near.add(feeds[0], idle=False)
    turn()
    assert sorted(reads.names) == ["b", "c", "d"], "in turn"


def test_what_a_reader_waits_for_is_read_beside_the_worker_that_copies(
    reads: Reads, near: Scheduler
) -> None:
    feed = FakeFeed("a")
    kept(feed)
    near.add(feed, idle=False)
    near.demand(feed, 1 << 30, seek=True)
    near.demand(feed, 1 << 31, seek=False)
    turn()
    assert reads.offsets == [0, 1 << 30, 1 << 31]


# -- bandwidth


def test_sequential_copying_stays_within_max_bandwidth(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    reads.shut = False
    scheduler = made(reads, max_bandwidth=1 << 20)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    turn()
    began, before = clock.now, feed.next
    while clock.now < began + 20:
        clock.skip()
    rate = (feed.next - before) / (clock.now - began)
    assert 0.9 * (1 << 20) <= rate <= 1.1 * (1 << 20)


def test_what_a_reader_waits_for_is_never_held_back(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    reads.shut = False
    scheduler = made(reads, max_bandwidth=1 << 16)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    turn()
    assert clock.later
    copied = feed.next
    for number in range(50):
        scheduler.demand(feed, number << 20, seek=number % 2 == 0)
    turn()
    assert feed.bytes - copied >= 50 * FIRST_STEP


def test_time_without_copying_is_not_saved_up(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    reads.shut = False
    scheduler = made(reads, max_bandwidth=1 << 20)
    clock.now += 3600
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    turn()
    assert feed.next <= 3 * START_STEP


def test_no_timer_outlives_what_it_is_for(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """60964f2e #1281: timers that were not cleared."""
    clock = Clock(monkeypatch)
    reads.shut = False
    scheduler = made(reads, max_bandwidth=1 << 16)
    feeds = [FakeFeed("a"), FakeFeed("b")]
    for feed in feeds:
        scheduler.add(feed, idle=False)
    turn()
    assert clock.later
    scheduler.remove(feeds[0])
    assert clock.later
    scheduler.remove(feeds[1])
    assert clock.later == []
