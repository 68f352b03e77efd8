"""The picture of a copy: runs of blocks, however scattered they are."""

from __future__ import annotations

import itertools
import time

import gevent
from hypothesis import given
from hypothesis import strategies as st

from streamcache.cache.blockmap import BLOCK, BlockMap
from streamcache.cache.picture import MOST_RUNS, ReaderPicture, picture_of, runs_of
from streamcache.cache.states import Event
from tests.cache.fakes import World


def mapped(size: int, present: bytes) -> BlockMap:
    map_ = BlockMap(size)
    map_.adopt(present)
    return map_


def expanded(runs: tuple[tuple[int, int], ...]) -> list[int]:
    return [present for present, count in runs for _ in range(count)]


def test_a_reader_that_waits_is_seen_to_wait_and_its_wait_is_counted(world: World) -> None:
    world.gate.shut()
    session = world.session("film.mp4", 8 * BLOCK)
    reader = session.inc_ref("192.0.2.7")
    got = gevent.spawn(session.read, reader, 5 * BLOCK, 6 * BLOCK)
    world.settle()
    picture = picture_of(session)
    assert (picture.path, picture.size, picture.present) == ("/film.mp4", 8 * BLOCK, 0)
    assert picture.readers == (ReaderPicture("192.0.2.7", 5 * BLOCK, waits=True),)
    assert picture.blocks == ((0, 8),)
    assert world.counters.delegated_wait.snapshot().count == 0
    world.gate.let(5 * BLOCK)
    got.get()
    world.settle()
    assert not picture_of(session).readers[0].waits
    assert world.counters.delegated_wait.snapshot().count == world.counters.delegated_reads == 1
    session.handle_event(Event.SHUTDOWN)
    session.dec_ref(reader)
    world.gate.open()
    world.settle()


@given(st.lists(st.sampled_from([0, 1]), max_size=200), st.integers(0, BLOCK - 1))
def test_runs_are_the_blocks_one_after_the_other(blocks: list[int], cut: int) -> None:
    size = max(0, len(blocks) * BLOCK - cut)
    if not blocks:
        size = 0
    block, runs = runs_of(mapped(size, bytes(blocks)))
    assert block == BLOCK
    assert expanded(runs) == blocks
    assert all(first[0] != second[0] for first, second in itertools.pairwise(runs))


def test_too_many_runs_are_told_in_larger_blocks_and_nothing_is_there_that_is_not() -> None:
    blocks = [1, 1, 1, 0] * 20_000 + [1] * 777
    block, runs = runs_of(mapped(len(blocks) * BLOCK - 5, bytes(blocks)))
    group = block // BLOCK
    assert group > 1
    assert len(runs) <= MOST_RUNS
    found = expanded(runs)
    assert len(found) == -(-len(blocks) // group)
    for index, present in enumerate(found):
        assert present == all(blocks[index * group : (index + 1) * group])
    assert found[-1] == 1  # also the last one, which is shorter


def test_it_is_quick_for_a_terabyte_in_pieces() -> None:
    map_ = BlockMap(2**40)
    map_._present[::2] = b"\1" * (2**40 // BLOCK // 2)  # one by one takes long
    begun = time.perf_counter()
    _, runs = runs_of(map_)
    assert time.perf_counter() - begun < 0.5  # 3 ms on a quiet machine
    assert len(runs) <= MOST_RUNS
