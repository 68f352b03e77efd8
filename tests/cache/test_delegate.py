"""The three handles that responses read from: one version each, closed once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import gevent
import pytest

from streamcache.cache.delegate import (
    CachedFileDelegate,
    CacheStatus,
    DirectFileDelegate,
    TempFileDelegate,
)
from streamcache.cache.reading import Ready
from streamcache.errors import Closed, SourceChanged, SourceTimeout, SourceUnavailable
from tests import content
from tests.cache.fakes import BLOCK, World

FILM = "film.mp4"
SIZE = 40 * BLOCK + 7


def direct(world: World, size: int = SIZE, *, ahead: int | None = None) -> DirectFileDelegate:
    world.write(FILM, size)
    file = world.meta.call(world.source.open, FILM, ahead)
    return DirectFileDelegate(file, world.resources)


def read(delegate: DirectFileDelegate | TempFileDelegate, start: int, stop: int) -> bytes:
    data = bytearray()
    while start + len(data) < stop:
        ready = delegate.ready(start + len(data), stop)
        assert ready.offset == start + len(data)
        if ready.data is None:
            data += os.pread(ready.fd, ready.length, ready.offset)
        else:
            assert len(ready.data) == ready.length
            data += ready.data
    return bytes(data)


# -- straight from the source


@pytest.mark.parametrize("ahead", [None, 0])
@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, SIZE])
def test_the_source_is_read_through(world: World, size: int, ahead: int | None) -> None:
    delegate = direct(world, size, ahead=ahead)
    assert (delegate.size, delegate.status) == (size, CacheStatus.BYPASS)
    assert read(delegate, 0, size) == content.content(FILM, 0, size)
    assert world.source.bytes_read == size
    delegate.close()
    world.settle()
    assert world.source.open_files == 0


def test_what_came_with_the_open_is_used_where_it_is_asked_for(world: World) -> None:
    delegate = direct(world, ahead=BLOCK)
    assert read(delegate, BLOCK + 10, BLOCK + 20) == content.content(FILM, BLOCK + 10, BLOCK + 20)
    assert world.source.reads == [(BLOCK, BLOCK)]
    assert read(delegate, 0, 5) == content.content(FILM, 0, 5)
    delegate.close()


def test_the_first_answer_is_small_the_following_are_not(world: World) -> None:
    delegate = direct(world)
    first = delegate.ready(0, SIZE)
    second = delegate.ready(first.length, SIZE)
    sought = delegate.ready(30 * BLOCK, SIZE)
    assert (first.length, second.length, sought.length) == (BLOCK, 16 * BLOCK, 7 * BLOCK // 7)
    delegate.close()


def test_a_file_that_grows_is_served_as_long_as_it_was(world: World) -> None:
    delegate = direct(world)
    with open(world.path(FILM), "ab") as file:
        file.write(b"more")
    assert read(delegate, 0, SIZE) == content.content(FILM, 0, SIZE)
    assert delegate.size == SIZE
    delegate.close()


@pytest.mark.parametrize("change", ["shrink", "rewrite", "grow, then rewrite"])
def test_any_other_change_ends_it(world: World, change: str) -> None:
    delegate = direct(world)
    delegate.ready(0, SIZE)
    with open(world.path(FILM), "r+b") as file:
        if change == "shrink":
            file.truncate(SIZE - 1)
        elif change == "rewrite":
            file.write(b"other")
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"more")
            file.flush()
            delegate.ready(BLOCK, SIZE)
            file.seek(30 * BLOCK)
            file.write(b"other")
            file.flush()
            os.utime(world.path(FILM))
    with pytest.raises(SourceChanged, match=f"^/{FILM}: changed at the source"):
        delegate.ready(30 * BLOCK, SIZE)
    delegate.close()


def test_a_file_replaced_by_rename_is_read_on(world: World) -> None:
    delegate = direct(world)
    world.write(FILM, SIZE, content_name="other")
    assert read(delegate, 0, SIZE) == content.content(FILM, 0, SIZE)
    delegate.close()


def test_a_fault_of_the_source_is_raised(world: World) -> None:
    delegate = direct(world)
    world.source.fail(errno.EIO, times=2)
    with pytest.raises(SourceUnavailable):
        delegate.ready(0, SIZE)
    assert read(delegate, 0, SIZE) == content.content(FILM, 0, SIZE)
    delegate.close()


def test_a_read_that_fails_once_is_tried_again(world: World) -> None:
    delegate = direct(world)
    world.source.fail(errno.EIO)
    world.source.fail(errno.EIO, at=17 * BLOCK)
    assert read(delegate, 0, SIZE) == content.content(FILM, 0, SIZE)
    delegate.close()


def test_a_stale_file_is_opened_anew_under_the_same_descriptor(world: World) -> None:
    delegate = direct(world)
    fd = delegate._file.fd
    world.source.fail(errno.ESTALE)
    world.source.fail(errno.ESTALE, at=17 * BLOCK)
    assert read(delegate, 0, SIZE) == content.content(FILM, 0, SIZE)
    assert delegate._file.fd == fd
    assert len(world.source.opened) == 3
    assert not os.get_inheritable(fd)
    delegate.close()


@pytest.mark.parametrize("gone", [False, True])
def test_a_stale_file_that_was_replaced_is_not_read_on(world: World, gone: bool) -> None:
    delegate = direct(world)
    delegate.ready(0, SIZE)
    if gone:
        world.path(FILM).unlink()
    else:
        world.write(FILM, SIZE, content_name="other")
    world.source.fail(errno.ESTALE)
    with pytest.raises(SourceChanged, match=f"^/{FILM}: .*(replaced|no longer there)"):
        delegate.ready(BLOCK, SIZE)
    delegate.close()


def test_a_reader_that_reads_on_has_one_piece_read_ahead(world: World) -> None:
    """I16: two pieces at most, however slow the reader is."""
    delegate = direct(world, 100 * BLOCK)
    offset = delegate.ready(0, 100 * BLOCK).length
    world.settle()
    assert world.source.reads == [(0, BLOCK)]  # who came for a look gets no more
    for number in range(1, 4):
        ready = delegate.ready(offset, 100 * BLOCK)
        assert (ready.offset, ready.length) == (offset, 16 * BLOCK)
        offset += ready.length
        world.settle()
        assert len(world.source.reads) == 2 + number
    assert world.source.read_twice() == []
    delegate.close()


def test_both_pieces_are_on_their_way_at_once(world: World) -> None:
    """What makes a bypass independent of latency."""
    delegate = direct(world, 100 * BLOCK)
    delegate.ready(0, 100 * BLOCK)
    world.gate.shut()
    reading = gevent.spawn(delegate.ready, BLOCK, 100 * BLOCK)
    world.settle()
    assert world.gate.waiting == [BLOCK, 17 * BLOCK]
    world.gate.let(17 * BLOCK)  # the second first
    world.settle()
    world.gate.open()
    assert reading.get().length == 16 * BLOCK
    delegate.close()


def test_what_was_read_ahead_is_dropped_by_a_seek(world: World) -> None:
    delegate = direct(world, 200 * BLOCK)
    delegate.ready(0, 200 * BLOCK)
    delegate.ready(BLOCK, 200 * BLOCK)
    ready = delegate.ready(100 * BLOCK, 200 * BLOCK)
    assert (ready.offset, ready.length) == (100 * BLOCK, BLOCK)
    delegate.close()


def test_nothing_is_read_ahead_beyond_what_is_asked_for(world: World) -> None:
    delegate = direct(world, 100 * BLOCK)
    assert read(delegate, 0, 20 * BLOCK) == content.content(FILM, 0, 20 * BLOCK)
    world.settle()
    assert world.source.bytes_read == 20 * BLOCK
    delegate.close()


def test_a_file_that_grows_while_two_reads_are_under_way_is_not_cut(world: World) -> None:
    """The later look may come back first."""
    delegate = direct(world, 100 * BLOCK)
    delegate.ready(0, 100 * BLOCK)
    older = delegate._seen
    with open(world.path(FILM), "ab") as file:
        file.write(b"more")
    newer = world.source.fingerprint(delegate._file)
    assert not delegate.is_changed(older, newer)
    assert not delegate.is_changed(older, older)
    assert delegate._seen == newer
    os.truncate(world.path(FILM), 100 * BLOCK)
    assert delegate.is_changed(older, world.source.fingerprint(delegate._file))
    delegate.close()


def test_closing_waits_for_the_read_under_way(world: World) -> None:
    """I4: until the call returns, the descriptor is the worker's."""
    delegate = direct(world)
    world.gate.shut()
    reading = gevent.spawn(delegate.ready, 0, SIZE)
    world.settle()
    reading.kill()
    delegate.close()
    delegate.close()
    world.settle()
    assert world.source.open_files == 1
    world.gate.open()
    world.settle()
    assert world.source.open_files == 0


def test_closing_waits_for_all_reads_under_way(make_world: Callable[..., World]) -> None:
    """One that timed out is still under way when the next one ends."""
    world = make_world(timeout=0.02)
    delegate = direct(world)
    world.gate.shut()
    for offset in (0, 20 * BLOCK):
        with pytest.raises(SourceTimeout, match=f"^/{FILM}: no bytes within "):
            delegate.ready(offset, SIZE)
    world.gate.let(0)
    world.settle()
    delegate.close()
    world.settle()
    assert world.source.open_files == 1
    world.gate.open()
    world.settle()
    assert world.source.open_files == 0


def test_a_timeout_of_the_embedding_program_is_left_to_it(world: World) -> None:
    delegate = direct(world)
    world.gate.shut()
    with gevent.Timeout(0.01) as mine, pytest.raises(gevent.Timeout) as caught:
        delegate.ready(0, SIZE)
    assert caught.value is mine
    delegate.close()


def test_what_nobody_waits_for_any_more_is_not_read(make_world: Callable[..., World]) -> None:
    world = make_world(in_flight=1)
    world.gate.shut()
    busy = direct(world)
    busy._expected = 0  # as if it read on: no seek
    delegate = direct(world)
    delegate._expected = 0
    readers = [gevent.spawn(each.ready, 0, SIZE) for each in (busy, delegate)]
    world.settle()
    assert len(world.gate.waiting) == 1
    readers[1].kill()
    world.gate.open()
    world.settle()
    assert world.source.reads == [(0, 16 * BLOCK), (16 * BLOCK, 16 * BLOCK)]  # and one ahead
    for each in (busy, delegate):
        each.close()


# -- a copy under way


def test_a_copy_is_read_and_left(world: World) -> None:
    session = world.session(FILM, SIZE)
    delegate = TempFileDelegate(session, CacheStatus.MISS, world.counters)
    assert (delegate.size, delegate.version) == (SIZE, session.version)
    assert read(delegate, 5, SIZE) == content.content(FILM, 5, SIZE)
    assert len(session.readers) == 1
    delegate.close()
    delegate.close()
    assert not session.readers
    with pytest.raises(Closed):
        delegate.ready(0, 1)


def test_nothing_is_read_beyond_the_end(world: World) -> None:
    session = world.session(FILM, BLOCK + 1)
    delegate = TempFileDelegate(session, CacheStatus.MISS, world.counters)
    world.settle()
    ready = delegate.ready(BLOCK, 1 << 40)
    assert (ready.offset, ready.length) == (BLOCK, 1)
    delegate.close()


# -- an object


def test_an_object_is_all_ready_at_once(world: World) -> None:
    session = world.session(FILM, SIZE)
    world.settle()
    handle = world.objects.lease(session.name, session.version)
    assert handle is not None
    delegate = CachedFileDelegate(handle, CacheStatus.HIT, world.counters, world.objects.release)
    ready = delegate.ready(10, SIZE + 100)
    assert (ready.fd, ready.offset, ready.length) == (handle.fd, 10, SIZE - 10)
    assert world.objects.leased() == {session.name}
    delegate.close()
    delegate.close()
    assert world.objects.leased() == set()
    with pytest.raises(Closed):
        delegate.ready(0, 1)


def test_what_is_delivered_is_counted_by_status_and_by_where_it_came_from(world: World) -> None:
    delegate = direct(world)
    delegate.sent(Ready(-1, 0, 100, memoryview(bytes(100)), fetched=100), 60)
    delegate.sent(Ready(3, 0, 100, fetched=30), 40)
    delegate.sent(Ready(3, 100, 100, fetched=30), 20)
    assert world.counters.requests == {"bypass": 1}
    assert world.counters.bytes == {"bypass": 120}
    assert world.counters.bytes_from_cache == 10
    assert (delegate.from_cache, delegate.from_source) == (10, 110)
    delegate.close()


def test_bytes_of_a_copy_are_told_apart_by_whether_they_were_there_when_they_were_due(
    world: World,
) -> None:
    world.gate.shut()
    session = world.session("film.mp4", 40 * BLOCK)
    client = world.client(session)
    for block in (0, 20):
        client.get(block * BLOCK, (block + 1) * BLOCK)
        world.settle()
        world.gate.let(block * BLOCK)
        world.settle()
    delegate = TempFileDelegate(session, CacheStatus.COLLAPSED, world.counters)
    there = delegate.ready(0, 3 * BLOCK)
    assert (there.length, there.fetched) == (BLOCK, 0)
    behind = gevent.spawn(delegate.ready, BLOCK, 3 * BLOCK)
    around = gevent.spawn(delegate.ready, 19 * BLOCK, 22 * BLOCK)  # the second of these is there
    world.settle()
    assert not behind.ready()
    assert not around.ready()
    world.gate.open()
    assert behind.get().fetched == behind.get().length > 0
    assert (around.get().fetched, around.get().length >= BLOCK) == (BLOCK, True)
    world.settle()
    assert delegate.ready(0, 40 * BLOCK).fetched == 0
    delegate.close()
    client.leave()
