"""Copies without a reader: a few at once, the others wait their turn."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from streamcache.cache.fills import IdleFills
from streamcache.cache.states import Event, State
from streamcache.config.copy import CopyConfig


@dataclass(eq=False)
class FakeSession:
    """What IdleFills sees of one."""

    path: str
    fills: IdleFills
    state: State = State.COPYING
    readers: set[str] = field(default_factory=set)
    read_up: bool = False

    def handle_event(self, event: Event) -> None:
        assert event is Event.IDLE
        self.end(State.CLOSED)

    def leave(self) -> None:
        self.readers.clear()
        self.fills.changed(self)

    def end(self, state: State = State.COMPLETE) -> None:
        self.state = state
        self.fills.changed(self)


class Fills:
    def __init__(self, **config: object) -> None:
        self.resumed: list[str] = []
        self.fills = IdleFills(CopyConfig(**config), self.resumed.append, lambda: True)

    def session(self, path: str) -> FakeSession:
        """One that was read, and is not any more."""
        session = FakeSession(path, self.fills, readers={"reader"})
        self.fills.joined(session)
        session.leave()
        return session

    @property
    def counts(self) -> str:
        return repr(self.fills)


def test_a_few_go_on_and_the_others_pause() -> None:
    made = Fills(max_idle=2)
    sessions = [made.session(path) for path in "abcd"]
    assert [session.state for session in sessions] == [State.COPYING] * 2 + [State.CLOSED] * 2
    assert made.counts == "<IdleFills running=2 paused=2>"
    assert made.resumed == []


def test_the_oldest_goes_on_when_one_has_ended() -> None:
    made = Fills(max_idle=1)
    first, *_ = (made.session(path) for path in "abc")
    first.end()
    assert made.resumed == ["b"]
    assert made.counts == "<IdleFills running=0 paused=1>"
    second = made.session("b")
    made.fills.resumed("b")
    assert made.resumed == ["b"]
    second.end()
    assert made.resumed == ["b", "c"]


def test_one_that_cannot_go_on_makes_way_for_the_next() -> None:
    made = Fills(max_idle=1)
    first, *_ = (made.session(path) for path in "abc")
    first.end()
    made.fills.resumed("b")  # it is gone at the source, say
    assert made.resumed == ["b", "c"]


def test_a_path_that_is_added_has_its_turn_as_if_its_copy_had_paused() -> None:
    made = Fills(max_idle=1)
    made.fills.add("a")
    made.fills.add("a")
    assert made.resumed == ["a"]
    made.fills.add("b")
    made.fills.add("b")
    made.fills.resumed("a")
    assert made.resumed == ["a", "b"]
    made.fills.resumed("b")
    assert made.counts == "<IdleFills running=0 paused=0>"


def test_one_that_is_read_again_gives_its_place_to_the_next() -> None:
    made = Fills(max_idle=1)
    first, _second = made.session("a"), made.session("b")
    first.readers.add("reader")
    made.fills.joined(first)
    assert made.resumed == ["b"]


def test_one_that_somebody_reads_meanwhile_need_not_be_resumed() -> None:
    made = Fills(max_idle=1)
    first, second = made.session("a"), made.session("b")
    assert second.state is State.CLOSED
    again = FakeSession("b", made.fills, readers={"reader"})
    made.fills.joined(again)
    first.end()
    assert made.resumed == []


@pytest.mark.parametrize("state", [State.DETACHED, State.COMPLETE, State.CLOSED])
def test_what_is_no_copy_takes_no_place(state: State) -> None:
    made = Fills(max_idle=1)
    session = FakeSession("a", made.fills, state)
    made.fills.changed(session)
    assert made.counts == "<IdleFills running=0 paused=0>"
    assert made.session("b").state is State.COPYING


def test_one_that_says_so_twice_takes_one_place() -> None:
    made = Fills(max_idle=2)
    session = made.session("a")
    made.fills.changed(session)
    assert made.counts == "<IdleFills running=1 paused=0>"


def test_one_that_has_read_all_asks_nothing_of_the_source_and_takes_no_place() -> None:
    made = Fills(when_idle="stop", max_idle=0)
    session = FakeSession("a", made.fills, read_up=True)
    session.leave()
    assert session.state is State.COPYING


def test_with_stop_none_goes_on() -> None:
    made = Fills(when_idle="stop")
    assert made.session("a").state is State.CLOSED
    assert made.counts == "<IdleFills running=0 paused=0>"


def test_with_no_place_all_pause() -> None:
    made = Fills(max_idle=0)
    assert made.session("a").state is State.CLOSED
    assert made.resumed == []


def test_at_the_end_nothing_is_resumed() -> None:
    made = Fills(max_idle=1)
    first, _second = made.session("a"), made.session("b")
    made.fills.stop()
    first.end()
    assert made.resumed == []
    assert made.session("c").state is State.CLOSED


def test_one_that_is_kept_goes_on_beside_the_others() -> None:
    made = Fills(when_idle="stop", max_idle=1)
    session = FakeSession("a", made.fills, readers={"reader"})
    over = made.fills.keep(session)
    session.leave()
    assert session.state is State.COPYING and not over.is_set()
    assert made.fills.keep(session) is over
    session.end()
    assert over.is_set()


def test_one_that_is_no_longer_kept_is_one_of_the_others() -> None:
    made = Fills(max_idle=1)
    kept = FakeSession("a", made.fills)
    made.fills.keep(kept)
    made.fills.changed(kept)
    first = made.session("b")
    assert (kept.state, first.state) == (State.COPYING, State.COPYING)
    made.fills.release(kept)
    assert kept.state is State.CLOSED  # "b" has the one place
    made.fills.release(kept)
    first.end()
    assert made.resumed == ["a"]


@pytest.mark.parametrize("stop", [False, True])
def test_one_that_two_keep_goes_on_until_both_have_released_it(stop: bool) -> None:
    made = Fills(when_idle="stop", max_idle=0)
    kept = FakeSession("a", made.fills)
    over = made.fills.keep(kept)
    assert made.fills.keep(kept) is over
    made.fills.release(kept, stop=stop)
    assert kept.state is State.COPYING and not over.is_set()
    made.fills.changed(kept)
    assert kept.state is State.COPYING
    made.fills.release(kept, stop=stop)
    assert kept.state is State.CLOSED


def test_who_keeps_it_hears_of_its_end_although_another_has_released_it() -> None:
    made = Fills()
    kept = FakeSession("a", made.fills)
    over = made.fills.keep(kept)
    made.fills.keep(kept)
    made.fills.release(kept)
    kept.end()
    assert over.is_set()


@pytest.mark.parametrize("state", [State.DETACHED, State.COMPLETE, State.CLOSED])
def test_one_that_copies_no_more_need_not_be_waited_for(state: State) -> None:
    made = Fills()
    session = FakeSession("a", made.fills, state)
    assert made.fills.keep(session).is_set()
    made.fills.release(session)


def test_paused_copies_can_be_forgotten() -> None:
    made = Fills(max_idle=1)
    first, *_ = (made.session(path) for path in ("a/1", "a/2", "b/3"))
    made.fills.forget(lambda path: path.startswith("a/"))
    first.end()
    assert made.resumed == ["b/3"]
