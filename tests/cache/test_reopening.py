"""A copy goes on when its handle is stale, if its path still leads to the same file."""

from __future__ import annotations

import errno
import os

import gevent
import pytest

from streamcache.cache.reopening import Reopening
from streamcache.cache.states import State
from streamcache.errors import SourceChanged, SourceUnavailable
from streamcache.source.base import Fingerprint, SourceFile
from tests.cache.fakes import BLOCK, World

FILM = "film.mp4"
SIZE = 40 * BLOCK + 7
STALE = SourceUnavailable(errno.ESTALE, "stale")


def test_a_copy_goes_on_with_the_file_at_its_path(world: World) -> None:
    world.source.fail(errno.ESTALE)
    session = world.session(FILM, SIZE)
    answer = world.client(session).get(0, SIZE)
    world.until(lambda: session.state is State.COMPLETE)
    world.until(lambda: answer.complete)
    assert world.object_of(session) == "whole"
    assert world.source.read_twice() == []


def test_a_copy_ends_when_another_file_is_at_its_path(world: World) -> None:
    world.gate.shut()
    session = world.session(FILM, SIZE)
    answer = world.client(session).get(0, SIZE)
    world.settle()
    world.write(FILM, SIZE, content_name="other")
    world.source.fail(errno.ESTALE)
    world.gate.open()
    world.until(lambda: not answer.waits)
    assert isinstance(answer.error, SourceChanged)
    world.settle()
    assert world.object_of(session) is None
    assert world.counters.copies_failed == 1


def test_a_handle_that_is_stale_at_the_last_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All was read, then the server restarted."""
    real, asked = world.source.fingerprint, []

    def stale_at_the_end(file: SourceFile) -> Fingerprint:
        if session.map.complete:
            asked.append(file.fd)
            raise STALE
        return real(file)

    monkeypatch.setattr(world.source, "fingerprint", stale_at_the_end)
    session = world.session(FILM, SIZE)
    client = world.client(session)
    world.until(lambda: session.state is State.COMPLETE)
    assert len(asked) == 1
    assert world.object_of(session) == "whole"
    client.leave()


def test_who_fails_at_once_shares_one_open(world: World) -> None:
    world.write(FILM, SIZE)
    file = world.meta.call(world.source.open, FILM)
    reopening = Reopening(world.source, world.meta, file)
    waiting = [gevent.spawn(reopening.prepare, STALE, file.fingerprint) for _ in range(5)]
    assert {each.get() for each in waiting} == {file.fingerprint}
    assert len(world.source.opened) == 2
    assert os.fstat(file.fd).st_size == SIZE
    file.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_what_cannot_be_opened_now_is_tried_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    world.write(FILM, SIZE)
    file = world.meta.call(world.source.open, FILM)
    reopening = Reopening(world.source, world.meta, file)

    def refuse(path: str, ahead: int | None = None) -> SourceFile:
        raise SourceUnavailable(errno.EIO, "no")

    monkeypatch.setattr(world.source, "open", refuse)
    assert reopening.prepare(SourceUnavailable(code, "no"), file.fingerprint) is None
    file.close()
