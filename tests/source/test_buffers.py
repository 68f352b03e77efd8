"""Buffers are used again."""

from __future__ import annotations

from streamcache.source.buffers import Buffers
from streamcache.source.rate import FIRST_STEP, NEAR_STEP


def test_buffers_are_used_again_and_those_of_smaller_steps_are_not_kept() -> None:
    buffers = Buffers()
    small = [buffers.take(FIRST_STEP) for _ in range(3)]
    for each in small:
        buffers.give(each)
    assert buffers.take(FIRST_STEP - 1) is small[2]
    large = buffers.take(NEAR_STEP)  # none is large enough: steps have grown
    buffers.give(large)
    assert buffers.take(FIRST_STEP) is large
    assert all(buffers.take(FIRST_STEP) is not each for each in small)
