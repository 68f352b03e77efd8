"""The life of a ``CopySession`` as one table."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where a session stands."""

    NEW = "new"  # source open, no room yet; reads are delegated, straight from the source
    COPYING = "copying"  # room reserved, partial open; present blocks from it, the rest delegated
    DETACHED = "detached"  # serves its last readers; in no index
    COMPLETE = "complete"  # published; reads come from the object
    CLOSED = "closed"  # no reader is served any more


class Event(enum.Enum):
    """What can happen to a session."""

    SPACE_GRANTED = "space granted"
    SPACE_DENIED = "space denied"  # no room, or the cache disk failed
    ALL_COPIED = "all copied"  # and published
    COPY_FAILED = "copy failed"  # the source failed, or is not the version it was
    OUTDATED = "outdated"  # the path has another version now
    IDLE = "idle"  # nobody reads, and nothing is to be finished
    SHUTDOWN = "shutdown"


_CHANGES: dict[tuple[State, Event], State] = {
    (State.NEW, Event.SPACE_GRANTED): State.COPYING,
    (State.NEW, Event.SPACE_DENIED): State.DETACHED,
    (State.NEW, Event.COPY_FAILED): State.DETACHED,
    (State.NEW, Event.OUTDATED): State.DETACHED,
    (State.NEW, Event.IDLE): State.CLOSED,
    (State.NEW, Event.SHUTDOWN): State.CLOSED,
    (State.COPYING, Event.SPACE_DENIED): State.DETACHED,
    (State.COPYING, Event.ALL_COPIED): State.COMPLETE,
    (State.COPYING, Event.COPY_FAILED): State.DETACHED,
    (State.COPYING, Event.OUTDATED): State.DETACHED,
    (State.COPYING, Event.IDLE): State.CLOSED,
    (State.COPYING, Event.SHUTDOWN): State.CLOSED,
    (State.DETACHED, Event.IDLE): State.CLOSED,
    (State.DETACHED, Event.SHUTDOWN): State.CLOSED,
    (State.COMPLETE, Event.IDLE): State.CLOSED,
    (State.COMPLETE, Event.SHUTDOWN): State.CLOSED,
}
# What may come late, because it was under way when the state changed; it changes nothing.
_LATE: dict[State, frozenset[Event]] = {
    State.NEW: frozenset(),
    State.COPYING: frozenset(),
    State.DETACHED: frozenset(Event) - {Event.IDLE, Event.SHUTDOWN},
    State.COMPLETE: frozenset({Event.OUTDATED, Event.COPY_FAILED, Event.SPACE_DENIED}),
    State.CLOSED: frozenset(Event),
}


def after(state: State, event: Event) -> State:
    """The state that follows. Raises RuntimeError for what cannot happen."""
    if event in _LATE[state]:
        return state
    try:
        return _CHANGES[state, event]
    except KeyError:
        raise RuntimeError(f"{event} cannot happen to a session that is {state}") from None
