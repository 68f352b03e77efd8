"""Files whose reads hang, and a source that does: what goes on beside them."""

from __future__ import annotations

import pytest
from gevent.event import Event

from streamcache.errors import SourceUnavailable
from streamcache.source.base import Fingerprint, SourceFile
from streamcache.source.breaker import Breaker
from streamcache.source.rate import START_STEP
from tests.source.fakes import STILL, Clock, FakeFeed, Reads, made, turn


def late(clock: Clock) -> None:
    clock.now += 3
    while clock.later:
        clock.skip()


def test_a_file_takes_no_more_workers_while_two_of_its_reads_are_late(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    scheduler = made(reads)
    hung, well = FakeFeed("h"), FakeFeed("w")
    for offset in (1, 2):
        scheduler.demand(hung, offset << 20, seek=True)
    turn()
    late(clock)
    for offset in range(3, 30):
        scheduler.demand(hung, offset << 20, seek=offset % 2 == 0)
    scheduler.demand(well, 0, seek=True)
    turn()
    assert reads.names == "hhw"
    reads.let(reads.waiting[2])
    scheduler.add(well, idle=False)
    turn()
    assert reads.names == "hhwww"
    # One of them comes back: the others may try.
    reads.let(reads.waiting[0])
    assert reads.names.count("h") == 12


def test_a_copy_of_a_file_that_hangs_gets_no_turn_and_another_does(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    scheduler = made(reads, in_flight=1)
    hung, well = FakeFeed("h"), FakeFeed("w")
    scheduler.add(hung, idle=False)
    scheduler.add(well, idle=False)
    turn()
    assert reads.names == "h"
    clock.now += 3
    clock.skip()
    assert reads.names == "hw", "its place is another's"
    for _ in range(3):
        scheduler.add(hung, idle=False)  # as a session does when one of its readers moves
        reads.let(reads.waiting[1])
        assert reads.names == "hw"
    reads.let(reads.waiting[0])
    scheduler.add(hung, idle=False)
    order = reads.names
    for _ in range(2):
        reads.let()
        order += reads.names
    assert order == "wwh", "it is well again, and has its turn"


def test_a_file_never_takes_all_workers(reads: Reads) -> None:
    scheduler = made(reads)
    for offset in range(30):
        scheduler.demand(FakeFeed("h"), offset << 20, seek=True)
    scheduler.demand(FakeFeed("w"), 0, seek=True)
    turn()
    assert reads.names == "h" * 12 + "w"
    reads.let()
    assert reads.names == "h" * 12
    reads.let()
    reads.let()
    assert reads.names == ""


def test_another_version_of_the_file_is_another_file(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    scheduler = made(reads)
    old, new = FakeFeed("o"), FakeFeed("n")
    old.file.path = new.file.path = "film"
    for offset in (1, 2):
        scheduler.demand(old, offset << 20, seek=True)
    turn()
    late(clock)
    scheduler.demand(old, 3 << 20, seek=True)
    scheduler.demand(new, 0, seek=True)
    turn()
    assert reads.names == "oon"


def test_what_is_withdrawn_is_not_kept_for_a_file_that_hangs(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    scheduler = made(reads)
    hung = [FakeFeed("h") for _ in range(5)]
    for number, feed in enumerate(hung[:2]):
        scheduler.demand(feed, number << 20, seek=True)
    turn()
    late(clock)
    for feed in hung[2:]:
        scheduler.demand(feed, 0, seek=True)
        scheduler.demand(feed, 0, seek=True)
    assert len(scheduler._held["", "h"]) == 3
    for feed in hung:
        scheduler.withdraw(feed)
    assert not scheduler._held
    reads.let()
    assert reads.names == ""


def test_a_look_that_hangs_after_a_read_holds_its_feed_back(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes came out of the kernel's cache, the attributes must come from the server."""
    clock, go = Clock(monkeypatch), Event()

    def hang(file: SourceFile) -> Fingerprint:
        go.wait()
        return STILL

    monkeypatch.setattr(reads, "fingerprint", hang)
    reads.shut = False
    scheduler = made(reads, in_flight=2)
    feed = FakeFeed("a")
    scheduler.add(feed, idle=False)
    for _ in range(9):
        turn()
        scheduler.add(feed, idle=False)
    clock.now += 3
    assert reads.pending <= 12
    before = feed.next
    scheduler.add(feed, idle=False)
    turn()
    assert feed.next == before
    feed.size = feed.next
    go.set()
    turn()


def test_nothing_starts_while_the_breaker_is_open(reads: Reads) -> None:
    breaker = Breaker(timeout=10, probe=lambda known: None, pool=reads)
    scheduler = made(reads, breaker=breaker)
    for path in "abc":
        breaker.failed(breaker.ask(path), SourceUnavailable(5, "no"))
    feed = FakeFeed("f")
    scheduler.add(feed, idle=False)
    scheduler.demand(feed, 1 << 30, seek=True)
    turn()
    assert reads.names == ""
    breaker.answered(breaker.ask("a"))
    turn()
    assert reads.names == "f"
    reads.let()
    assert reads.names == "fff"
    breaker.stop()


def test_failed_reads_of_several_files_open_the_breaker(reads: Reads) -> None:
    breaker = Breaker(timeout=10, probe=lambda known: None, pool=reads)
    scheduler = made(reads, in_flight=4, breaker=breaker)
    for path in "abc":
        feed = FakeFeed(path, size=START_STEP)
        feed.file.path = path
        scheduler.add(feed, idle=False)
    turn()
    for read in reads.waiting:
        read.error = SourceUnavailable(5, "no")
    reads.let()
    assert breaker.is_open
    breaker.stop()
