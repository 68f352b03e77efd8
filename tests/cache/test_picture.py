"""The picture of a copy: runs of blocks, however scattered they are."""

from __future__ import annotations

import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from streamcache.cache.blockmap import BLOCK, BlockMap
from streamcache.cache.picture import MOST_RUNS, runs_of


def expanded(runs: tuple[tuple[int, int], ...]) -> list[int]:
    return [present for present, count in runs for _ in range(count)]


@given(st.lists(st.sampled_from([0, 1]), max_size=200), st.integers(0, BLOCK - 1))
def test_runs_are_the_blocks_one_after_the_other(blocks: list[int], cut: int) -> None:
    size = max(0, len(blocks) * BLOCK - cut)
    if not blocks:
        size = 0
    block, runs = runs_of(BlockMap(size, bytes(blocks)))
    assert block == BLOCK
    assert expanded(runs) == blocks
    assert all(first[0] != second[0] for first, second in itertools.pairwise(runs))


def test_too_many_runs_are_told_in_larger_blocks_and_nothing_is_there_that_is_not() -> None:
    blocks = [1, 1, 1, 0] * 20_000 + [1] * 777
    block, runs = runs_of(BlockMap(len(blocks) * BLOCK - 5, bytes(blocks)))
    group = block // BLOCK
    assert group > 1
    assert len(runs) <= MOST_RUNS
    found = expanded(runs)
    assert len(found) == -(-len(blocks) // group)
    for index, present in enumerate(found):
        assert present == all(blocks[index * group : (index + 1) * group])
    assert found[-1] == 1  # also the last one, which is shorter


def test_it_is_quick_for_a_terabyte_in_pieces() -> None:
    blocks = bytes([1, 0]) * (2**40 // BLOCK // 2)
    map_ = BlockMap(2**40, blocks)
    begun = time.perf_counter()
    _, runs = runs_of(map_)
    assert time.perf_counter() - begun < 0.5  # 3 ms on a quiet machine
    assert len(runs) <= MOST_RUNS
