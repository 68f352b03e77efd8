"""The table of a session's life."""

from __future__ import annotations

import itertools

import pytest

from streamcache.cache.states import Event, State, after

CAN_HAPPEN = {
    State.NEW: "SPACE_GRANTED SPACE_DENIED COPY_FAILED OUTDATED IDLE SHUTDOWN",
    State.COPYING: "SPACE_DENIED ALL_COPIED COPY_FAILED OUTDATED IDLE SHUTDOWN",
    State.DETACHED: "IDLE SHUTDOWN",
    State.COMPLETE: "IDLE SHUTDOWN",
    State.CLOSED: "",
}
COMES_LATE = {
    State.NEW: "",
    State.COPYING: "",
    State.DETACHED: "SPACE_GRANTED SPACE_DENIED ALL_COPIED COPY_FAILED OUTDATED",
    State.COMPLETE: "OUTDATED COPY_FAILED SPACE_DENIED",
    State.CLOSED: " ".join(event.name for event in Event),
}
ORDER = list(State)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_each_event_changes_the_state_or_comes_late_or_cannot_happen(
    state: State, event: Event
) -> None:
    if event.name in CAN_HAPPEN[state].split():
        assert after(state, event) is not state
    elif event.name in COMES_LATE[state].split():
        assert after(state, event) is state
    else:
        with pytest.raises(RuntimeError, match="cannot happen"):
            after(state, event)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_no_state_comes_back(state: State, event: Event) -> None:
    try:
        following = after(state, event)
    except RuntimeError:
        return
    assert following is state or ORDER.index(following) > ORDER.index(state)


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_ended(state: State) -> None:
    assert after(state, Event.SHUTDOWN) is State.CLOSED


@pytest.mark.parametrize("event", [Event.OUTDATED, Event.SPACE_DENIED, Event.COPY_FAILED])
@pytest.mark.parametrize("state", [State.NEW, State.COPYING])
def test_a_copy_that_cannot_go_on_serves_its_readers(state: State, event: Event) -> None:
    assert after(state, event) is State.DETACHED
