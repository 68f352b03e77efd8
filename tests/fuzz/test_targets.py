"""The targets of bin/fuzz in the normal suite: the corpus, and what hypothesis makes of it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import corpus
from tests.fuzz.targets import SLOW, TARGETS

EXAMPLES = 200
SLOW_EXAMPLES = 12


def mutated(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Seeds with a few pieces cut out, put in or taken from another seed."""

    def apply(seed: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
        for place, cut, piece in edits:
            at = int(place * len(seed))
            seed = seed[:at] + piece + seed[at + cut :]
        return seed

    pieces = st.binary(max_size=8)
    if seeds:
        slices = st.tuples(st.sampled_from(seeds), st.integers(0, 60), st.integers(1, 12))
        pieces |= slices.map(lambda found: found[0][found[1] : found[1] + found[2]])
    edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), pieces), max_size=4)
    return st.builds(apply, st.sampled_from(seeds or [b""]), edits) | st.binary(max_size=200)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_holds(name: str) -> None:
    inputs = [*corpus.kept(name), *corpus.real(name), b""]
    assert len(inputs) > 1, "no corpus"
    for data in inputs:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_new_inputs_hold(name: str) -> None:
    seeds = [*corpus.kept(name), *corpus.real(name)]

    @settings(
        max_examples=SLOW_EXAMPLES if name in SLOW else EXAMPLES,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(mutated(seeds))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


def test_each_corpus_is_of_a_target() -> None:
    assert {path.name for path in corpus.ROOT.iterdir()} <= set(TARGETS)
