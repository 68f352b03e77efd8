"""Reads that wait: each is settled once, with bytes, with "it is there", or with an error."""

from __future__ import annotations

import pytest

from streamcache.cache.blockmap import BLOCK, Extent
from streamcache.cache.reading import DELIVERED_BYTES, PendingRead, Waiting
from streamcache.errors import Closed


def waiting(*ranges: tuple[int, int]) -> tuple[Waiting, list[PendingRead]]:
    reads = [PendingRead(*bounds) for bounds in ranges]
    queue = Waiting()
    for read in reads:
        queue.add(read)
    return queue, reads


def pattern(extent: Extent) -> memoryview:
    return memoryview(
        b"".join(bytes([block]) * BLOCK for block in range(extent.start, extent.stop))
    )


def test_who_waits_for_a_block_that_is_present_is_woken() -> None:
    queue, reads = waiting((0, 10), (BLOCK + 5, 3 * BLOCK), (2 * BLOCK, 3 * BLOCK))
    queue.present(Extent(1, 2))
    assert [read.result.ready() for read in reads] == [False, True, False]
    assert reads[1].result.get() is None
    assert len(queue) == 2


def test_bytes_are_delivered_from_the_readers_place_to_its_stop_or_their_end() -> None:
    queue, reads = waiting((BLOCK, BLOCK + 7), (2 * BLOCK + 9, 9 * BLOCK), (3 * BLOCK, 4 * BLOCK))
    extent = Extent(1, 3)
    queue.deliver(extent, pattern(extent))
    assert bytes(reads[0].result.get()) == b"\1" * 7
    assert bytes(reads[1].result.get()) == b"\2" * (BLOCK - 9)
    assert not reads[2].result.ready()


def test_delivered_bytes_are_a_copy() -> None:
    queue, (read,) = waiting((0, 10))
    buffer = bytearray(BLOCK)
    queue.deliver(Extent(0, 1), memoryview(buffer))
    buffer[:] = b"x" * BLOCK
    assert bytes(read.result.get()) == bytes(10)


def test_one_answer_takes_no_more_memory_than_so_much() -> None:
    extent = Extent(0, 2 * DELIVERED_BYTES // BLOCK)
    queue, (read,) = waiting((5, extent.stop * BLOCK))
    queue.deliver(extent, memoryview(bytes(extent.stop * BLOCK)))
    assert len(read.result.get()) == DELIVERED_BYTES


def test_failing_raises_in_all() -> None:
    queue, reads = waiting((0, 1), (BLOCK, 2 * BLOCK), (BLOCK, 3 * BLOCK))
    queue.fail(Closed("all"))
    for read in reads:
        with pytest.raises(Closed, match="all"):
            read.result.get()
    assert len(queue) == 0


def test_what_is_settled_is_not_settled_again() -> None:
    """I11."""
    queue, (read,) = waiting((0, 10))
    queue.present(Extent(0, 1))
    queue.fail(Closed("late"))
    queue.deliver(Extent(0, 1), pattern(Extent(0, 1)))
    assert read.result.get() is None


def test_who_gives_up_is_forgotten() -> None:
    queue, reads = waiting((0, 10), (1, 20))
    queue.leave(reads[1])
    queue.leave(reads[1])
    assert queue.stop_of(0) == 10
    queue.leave(reads[0])
    assert queue.stop_of(0) == 0
    assert len(queue) == 0
    queue.present(Extent(0, 1))
    assert not reads[0].result.ready()


def test_the_farthest_of_those_who_wait_for_a_block_says_how_far() -> None:
    queue, _ = waiting((3, 50), (4, 7000), (5, 60), (BLOCK, 1 << 40))
    assert queue.stop_of(0) == 7000
    assert queue.stop_of(7) == 0


@pytest.mark.parametrize("length", [1, 2, 40])
def test_the_blocks_that_are_waited_for(length: int) -> None:
    queue, _ = waiting(*((block * BLOCK, (block + 1) * BLOCK) for block in (1, 5, 9)))
    extent = Extent(1, 1 + length)
    assert sorted(queue.blocks_in(extent)) == [b for b in (1, 5, 9) if b < extent.stop]
