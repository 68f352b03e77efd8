"""A version of a file as a file: what ``io`` promises, over delegates that answer in pieces."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcache.cache.delegate import CacheStatus, TempFileDelegate
from streamcache.cache.file import StreamFile
from streamcache.cache.reading import Ready
from streamcache.cache.states import Event
from streamcache.errors import CacheError, Closed, SourceChanged
from streamcache.source.base import Version
from tests import content
from tests.cache.fakes import BLOCK, World

FILM = "film.mp4"
SIZE = 2 * BLOCK + 100


class FakeDelegate:
    """Bytes in pieces of odd lengths, in memory."""

    def __init__(self, data: bytes, piece: int) -> None:
        self.data = data
        self.piece = piece
        self.size = len(data)
        self.version = Version("0" * 32, len(data), 0)
        self.status = CacheStatus.HIT
        self.delivered = 0
        self.closed = 0

    def ready(self, offset: int, stop: int) -> Ready:
        assert 0 <= offset < stop <= self.size
        data = memoryview(self.data)[offset : min(stop, offset + self.piece)]
        return Ready(-1, offset, len(data), data)

    def sent(self, ready: Ready, count: int) -> None:
        self.delivered += count

    def close(self) -> None:
        self.closed += 1


def fake(data: bytes = b"0123456789", piece: int = 3) -> tuple[StreamFile, FakeDelegate]:
    delegate = FakeDelegate(data, piece)
    return StreamFile(delegate, lambda function, *args: function(*args), FILM), delegate


@pytest.fixture
def film(world: World) -> Iterator[StreamFile]:
    session = world.session(FILM, SIZE)
    delegate = TempFileDelegate(session, CacheStatus.MISS, world.counters)
    with StreamFile(delegate, world.disk.call, FILM) as found:
        yield found


def test_it_is_read_like_any_file(film: StreamFile) -> None:
    assert isinstance(film, io.RawIOBase)
    assert film.readable() and film.seekable() and not film.writable()
    assert film.size == SIZE
    assert film.readall() == content.content(FILM, 0, SIZE)
    assert film.read() == b""
    assert film.seek(-10, os.SEEK_END) == SIZE - 10
    assert io.BufferedReader(film).read() == content.content(FILM, SIZE - 10, SIZE)


def test_it_can_be_copied_by_others(film: StreamFile) -> None:
    target = io.BytesIO()
    shutil.copyfileobj(film, target)
    assert target.getvalue() == content.content(FILM, 0, SIZE)


def test_it_says_what_it_is() -> None:
    file, _ = fake()
    file.read(4)
    assert repr(file) == "<StreamFile 'film.mp4' hit 3/10>"
    file.close()
    assert repr(file) == "<StreamFile 'film.mp4' hit closed>"


def test_what_was_read_is_counted() -> None:
    file, delegate = fake()
    file.read(2)
    file.read(100)
    assert delegate.delivered == 5


def test_it_gives_its_lease_back_once() -> None:
    file, delegate = fake()
    with file:
        pass
    file.close()
    assert delegate.closed == 1
    for act in (file.read, file.tell, lambda: file.seek(0), lambda: file.readinto(bytearray(1))):
        with pytest.raises(ValueError, match="closed"):
            act()


def test_it_can_be_sought_anywhere_but_before_its_start() -> None:
    file, _ = fake()
    assert file.seek(1000) == 1000
    assert file.read(5) == b""
    assert file.seek(-1000, os.SEEK_CUR) == 0
    with pytest.raises(ValueError, match="negative"):
        file.seek(-1)
    with pytest.raises(ValueError, match="negative"):
        file.seek(-11, os.SEEK_END)
    assert file.tell() == 0
    with pytest.raises((ValueError, KeyError)):
        file.seek(0, 7)


@pytest.mark.parametrize("size", [0, 1])
def test_an_empty_file_ends_at_once(size: int) -> None:
    file, _ = fake(bytes(size))
    assert file.read() == bytes(size)
    assert file.read(1) == b""
    assert file.readinto(bytearray(0)) == 0


@settings(deadline=None)
@given(
    data=st.binary(max_size=60),
    piece=st.integers(1, 20),
    acts=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(0, 80)),
            st.tuples(st.just("seek"), st.integers(0, 80)),
            st.tuples(st.just("readall"), st.just(0)),
        ),
        max_size=12,
    ),
)
def test_buffered_it_is_the_same_as_a_file_in_memory(
    data: bytes, piece: int, acts: list[tuple[str, int]]
) -> None:
    raw, _ = fake(data, piece)
    ours, theirs = io.BufferedReader(raw, 16), io.BytesIO(data)
    for act, number in acts:
        if act == "read":
            assert ours.read(number) == theirs.read(number)
        elif act == "seek":
            assert ours.seek(number) == theirs.seek(number)
        else:
            assert ours.read() == theirs.read()
        assert ours.tell() == theirs.tell()


def test_arrays_of_anything_are_filled() -> None:
    file, _ = fake(bytes(range(16)), 16)
    wide = memoryview(bytearray(8)).cast("I")
    assert file.readinto(wide) == 8
    assert wide.tobytes() == bytes(range(8))


def test_the_disk_is_read_in_a_worker(world: World, film: StreamFile) -> None:
    world.settle()
    calls: list[object] = []
    film._call = lambda function, *args: (calls.append(function), function(*args))[1]
    film.read(10)
    assert calls == [os.preadv]


def test_a_change_at_the_source_is_an_error_not_an_end(world: World, film: StreamFile) -> None:
    world.gate.shut()
    reading = gevent.spawn(film.readall)
    world.settle()
    os.truncate(world.path(FILM), 1)
    world.gate.open()
    with pytest.raises(SourceChanged):
        reading.get()


def test_an_object_cut_short_behind_our_back_is_an_error_not_an_end(
    film: StreamFile, world: World
) -> None:
    world.settle()
    os.truncate(world.file_in_cache(world.sessions[0]), 10)
    assert film.read(10) == content.content(FILM, 0, 10)
    with pytest.raises(CacheError):
        film.read(10)


def test_it_outlives_the_cache_only_to_be_closed(world: World, film: StreamFile) -> None:
    world.gate.shut()
    reading = gevent.spawn(film.readall)
    world.settle()
    world.sessions[0].handle_event(Event.SHUTDOWN)
    with pytest.raises(Closed):
        reading.get()
    with pytest.raises(Closed):
        film.read(1)
