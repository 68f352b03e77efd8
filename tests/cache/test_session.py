"""One copy: who gets which bytes when, what is kept, and what is left when it ends."""

from __future__ import annotations

import pytest

from tests.cache.fakes import BLOCK, World


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 40 * BLOCK + 7])
def test_a_file_is_copied_read_and_published(world: World, size: int) -> None:
    session = world.session("film.mp4", size)
    client = world.client(session)
    answer = client.get(0, size)
    world.settle()
    assert answer.complete
    assert world.object_of(session) is not None
    assert world.source.bytes_read == size
    client.leave()
    world.settle()
    assert session.ended.is_set()
