"""Presence of blocks: the fast map does what one with a state per block does."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from streamcache.cache.blockmap import BLOCK, BlockMap, Extent

MISSING, CLAIMED, PRESENT = ".", "c", "P"
SIZES = st.one_of(
    st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK]),
    st.integers(0, 12 * BLOCK),
)


@pytest.mark.parametrize(
    ("size", "count"), [(0, 0), (1, 1), (BLOCK, 1), (BLOCK + 1, 2), (5 << 30, 81920)]
)
def test_the_last_block_may_be_short(size: int, count: int) -> None:
    blocks = BlockMap(size)
    assert blocks.count == count
    assert blocks.complete == (size == 0)
    if count:
        blocks.fill(blocks.claim(0, limit=count))
    assert blocks.complete
    assert blocks.present_bytes == size
    assert blocks.ready(0, size) == size


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (1, 1), (2, 1)])
def test_an_extent_is_a_run_of_blocks(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="no extent"):
        Extent(start, stop)


def test_what_is_read_just_now_is_left_alone_when_a_partial_is_adopted() -> None:
    blocks = BlockMap(4 * BLOCK)
    mine = blocks.claim(1, limit=1)
    blocks.adopt(b"\1\1\0\1")
    assert repr(blocks) == "<BlockMap 2/4 claimed=1>"
    assert not blocks.ready(BLOCK, 2 * BLOCK)
    blocks.release(mine)
    assert blocks.next_free(0) == 1
    blocks.adopt(b"")
    assert blocks.present == 2


@given(size=SIZES, bits=st.integers(0, (1 << 13) - 1))
def test_runs_are_the_present_blocks(size: int, bits: int) -> None:
    count = -(-size // BLOCK)
    present = bytes(bits >> block & 1 for block in range(count))
    blocks = BlockMap(size)
    blocks.adopt(present)
    runs = list(blocks.runs())
    covered = bytearray(count)
    for run in runs:
        covered[run.start : run.stop] = b"\1" * len(run)
    assert bytes(covered) == present
    assert all(left.stop < right.start for left, right in itertools.pairwise(runs))
    assert sum(blocks.length(run) for run in runs) == blocks.present_bytes


class Model(RuleBasedStateMachine):
    """The map against a list with one state per block."""

    blocks: BlockMap
    states: list[str]
    size: int

    @initialize(size=SIZES)
    def begin(self, size: int) -> None:
        self.size = size
        self.blocks = BlockMap(size)
        self.states = [MISSING] * -(-size // BLOCK)
        self.claims: list[Extent] = []

    @precondition(lambda self: MISSING in self.states)
    @rule(data=st.data(), limit=st.integers(1, 14))
    def claim(self, data: st.DataObject, limit: int) -> None:
        free = [block for block, state in enumerate(self.states) if state == MISSING]
        start = data.draw(st.sampled_from(free))
        stop = start
        while stop < len(self.states) and self.states[stop] == MISSING and stop < start + limit:
            self.states[stop] = CLAIMED
            stop += 1
        claimed = self.blocks.claim(start, limit=limit)
        assert claimed == Extent(start, stop)
        assert self.blocks.length(claimed) == min(stop * BLOCK, self.size) - start * BLOCK
        self.claims.append(claimed)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), kept=st.booleans())
    def settle(self, data: st.DataObject, kept: bool) -> None:
        extent = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        (self.blocks.fill if kept else self.blocks.release)(extent)
        for block in range(extent.start, extent.stop):
            self.states[block] = PRESENT if kept else MISSING

    @rule(bits=st.integers(0, (1 << 13) - 1))
    def adopt(self, bits: int) -> None:
        present = bytes(bits >> block & 1 for block in range(len(self.states)))
        self.blocks.adopt(present)
        for block, bit in enumerate(present):
            if bit and self.states[block] == MISSING:
                self.states[block] = PRESENT

    @rule()
    def forget(self) -> None:
        self.blocks.forget()
        self.states = [MISSING if state == PRESENT else state for state in self.states]

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, self.size + BLOCK))
        stop = data.draw(st.integers(0, self.size + BLOCK))
        end = offset
        while end < min(stop, self.size) and self.states[end // BLOCK] == PRESENT:
            end = min((end // BLOCK + 1) * BLOCK, stop, self.size)
        assert self.blocks.ready(offset, stop) == max(0, end - offset)

    @rule(start=st.integers(0, 15), stop=st.none() | st.integers(0, 15))
    def look(self, start: int, stop: int | None) -> None:
        bound = len(self.states) if stop is None else min(stop, len(self.states))
        free = [block for block in range(start, bound) if self.states[block] == MISSING]
        assert self.blocks.next_free(start, stop) == (free[0] if free else -1)

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "states"):
            return
        blocks, states = self.blocks, self.states
        assert blocks.present == states.count(PRESENT)
        assert blocks.claimed == states.count(CLAIMED)
        assert blocks.complete == (states.count(PRESENT) == len(states))
        for block, state in enumerate(states):
            assert bool(blocks.ready(block * BLOCK, block * BLOCK + 1)) == (state == PRESENT)
            assert blocks.is_free(block) == (state == MISSING)


TestBlockMapModel = Model.TestCase
TestBlockMapModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_what_is_missing_ends_at_the_next_present_block() -> None:
    blocks = BlockMap(4 * BLOCK + 5)
    blocks.adopt(b"\0\0\1\0\0")
    assert blocks.missing(0, 4 * BLOCK) == 2 * BLOCK
    assert blocks.missing(BLOCK + 7, 4 * BLOCK) == BLOCK - 7
    assert blocks.missing(10, 30) == 20
    assert blocks.missing(2 * BLOCK + 1, 4 * BLOCK) == 0
    assert blocks.missing(3 * BLOCK, 4 * BLOCK + 5) == BLOCK + 5
