"""Two sessions of one version: whose turn each block is, as the map on disk and its locks say."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamcache.cache import claims as claims_module
from streamcache.cache.blockmap import BLOCK, BlockMap, Extent
from streamcache.cache.claims import Claims
from streamcache.cache.partial import Partial, PartialHeader
from streamcache.cache.store import Store
from tests.cache.another import AnotherProcess

COUNT = 12
SIZE = COUNT * BLOCK - 5
NAME = f"{'ab' * 16}.{'cd' * 16}"


class Session:
    """What a session does with its claims, and no more."""

    def __init__(self, store: Store, *, attach: bool = True) -> None:
        self.map = BlockMap(SIZE)
        self.heard: list[int] = []
        self.claims = Claims(self.map, self._present)
        self.partial: Partial | None = None
        self.mine: list[Extent] = []
        self._store = store
        if attach:
            self.attach()

    def _present(self, extent: Extent) -> None:
        self.heard += range(extent.start, extent.stop)

    def attach(self) -> None:
        header = PartialHeader(self._store.boot, "s", "p", "cd" * 16, SIZE, 1, 2, 3)
        self.partial, present = self._store.partials.open(NAME, header)
        self.claims.attach(self.partial, present)

    def claim(self, block: int, limit: int = 1) -> Extent | None:
        extent = self.claims.claim(block, limit)
        if extent is not None:
            self.mine.append(extent)
        return extent

    def finish(self, extent: Extent, *, well: bool = True) -> bool:
        """Its bytes came; whether they were kept."""
        self.mine.remove(extent)
        kept = well and self.partial is not None and self.claims.may_write(extent)
        if kept:
            length = self.map.length(extent)
            self.partial.write(extent, memoryview(bytes([extent.start + 1]) * length))
            self.claims.filled(extent)
        else:
            self.claims.missed(extent)
        return kept

    def end(self) -> None:
        """In the order in which a session does it: no step is under way."""
        while self.mine:
            self.finish(self.mine[0], well=False)
        self.claims.detach()
        if self.partial is not None:
            self.partial.close()
            self.partial = None

    def die(self) -> None:
        """As by SIGKILL: the kernel closes its descriptors."""
        if self.partial is not None:
            self.partial.close()

    @property
    def present(self) -> list[int]:
        return [block for run in self.map.runs() for block in range(run.start, run.stop)]


@pytest.fixture
def pair(store: Store) -> Iterator[tuple[Session, Session]]:
    sessions = Session(store), Session(store)
    yield sessions
    for session in sessions:
        session.die()


def on_disk(session: Session) -> list[int]:
    return [block for block, there in enumerate(session.partial.present(0, COUNT)) if there]


def test_a_block_has_one_owner(pair: tuple[Session, Session]) -> None:
    one, two = pair
    assert one.claim(2, 3) == Extent(2, 5)
    assert two.claim(2, 3) is None
    assert two.claims.others
    assert two.claim(0, 10) == Extent(0, 2), "as far as it is free"
    assert two.claim(5, 100) == Extent(5, COUNT)
    assert two.map.next_free(0) == -1
    assert not one.claims.others
    assert one.claim(1) is None


def test_what_is_left_of_a_claim_is_free_for_all(pair: tuple[Session, Session]) -> None:
    one, two = pair
    claimed = one.claim(2, 6)
    assert claimed is not None
    one.claims.shorten(claimed, Extent(2, 4))
    assert one.map.next_free(2) == 4
    assert two.claim(2, 6) is None
    assert two.claim(4, 4) == Extent(4, 8)
    one.mine = [Extent(2, 4)]
    assert one.finish(Extent(2, 4))
    assert two.claim(8, 1) == Extent(8, 9)
    assert on_disk(one) == [2, 3]


def test_what_another_has_filled_is_ours_too(pair: tuple[Session, Session]) -> None:
    one, two = pair
    assert one.finish(one.claim(2, 3))
    assert two.claim(2, 3) is None
    assert (two.present, two.heard) == ([2, 3, 4], [2, 3, 4])
    assert two.claim(0, 5) == Extent(0, 2)
    assert not two.claims.others


def test_a_claim_begins_after_what_others_have_filled_is_known(
    pair: tuple[Session, Session],
) -> None:
    """The first is free, the rest is not: no byte is copied twice."""
    one, two = pair
    one.finish(one.claim(3))
    assert two.claim(1, 5) == Extent(1, 3)
    assert two.present == [3]


def test_others_are_looked_at_again(pair: tuple[Session, Session]) -> None:
    one, two = pair
    extent = one.claim(2, 3)
    assert two.claim(2, 3) is None
    assert not two.claims.look(), "nothing has changed"
    assert not two.map.is_free(3)
    one.finish(extent)
    assert not two.claims.look()
    assert two.present == [2, 3, 4]
    assert not two.claims.others


@pytest.mark.parametrize("how", ["missed", "died"])
def test_what_others_could_not_read_is_free(pair: tuple[Session, Session], how: str) -> None:
    one, two = pair
    extent = one.claim(2, 3)
    assert two.claim(2, 3) is None
    if how == "missed":
        one.finish(extent, well=False)
    else:
        one.die()
    assert two.claims.look()
    assert not two.claims.others
    assert two.claim(2, 3) == Extent(2, 5)


def test_a_part_may_be_free(pair: tuple[Session, Session]) -> None:
    """Neighbouring claims of one session look like one; they end by themselves."""
    one, two = pair
    first, second, third = (one.claim(block) for block in (2, 3, 4))
    assert two.claim(2, 3) is None
    one.finish(first)
    one.finish(second, well=False)
    assert two.claims.look()
    assert two.present == [2]
    assert two.claim(3, 2) == Extent(3, 4)
    assert two.claims.others
    one.finish(third)
    assert two.claims.look() is False
    assert two.present == [2, 4]


def test_another_process_is_as_another_session(
    store: Store, pair: tuple[Session, Session], another: AnotherProcess
) -> None:
    one, _ = pair
    another.do(f"store = Store({store.root!r})")
    another.do(f"header = PartialHeader(store.boot, 's', 'p', {'cd' * 16!r}, {SIZE}, 1, 2, 3)")
    another.do(f"partial, _ = store.partials.open({NAME!r}, header)")
    assert another.do("partial.claim(Extent(2, 5))")
    assert one.claim(1, 5) == Extent(1, 2)
    assert one.claim(2, 4) is None
    another.do(f"partial.write(Extent(2, 3), memoryview(bytes({BLOCK})))")
    another.kill()
    assert one.claims.look()
    assert one.present == [2]
    assert one.claim(3, 2) == Extent(3, 5)


# -- late


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(now=100.0)
    monkeypatch.setattr(claims_module, "time", SimpleNamespace(monotonic=lambda: now.now))
    return now


def test_who_has_a_block_for_long_is_late(
    pair: tuple[Session, Session], clock: SimpleNamespace
) -> None:
    one, two = pair
    one.claim(2, 3)
    assert two.claim(3, 5) is None
    clock.now += 1.9
    two.claims.look()
    assert not two.claims.is_overdue(3, 2.0)
    clock.now += 0.1
    two.claims.look()
    assert two.claims.is_overdue(3, 2.0)
    assert two.claims.is_overdue(4, 2.0)
    assert not two.claims.is_overdue(2, 2.0), "we never asked for it"
    assert not two.claims.is_overdue(5, 2.0)


def test_who_is_late_stays_late_whatever_a_third_one_does(
    store: Store, clock: SimpleNamespace
) -> None:
    """The kernel tells of any lock in a range; looking for the next block begins at the first."""
    first, late, two = (Session(store) for _ in range(3))
    first.claim(10)
    late.claim(2)
    # Two runs of others that look like one: of different sessions, one after the other.
    first.claim(3)
    merged = Extent(2, 4)
    two.claims._bar(merged)
    clock.now += 2.0
    assert not two.claims.look()
    assert not two.map.is_free(2)
    assert two.claims.is_overdue(2, 2.0)
    for session in (first, late, two):
        session.die()


# -- before the partial is open


def test_what_was_claimed_before_the_partial_was_open_is_kept_if_nobody_has_it(
    store: Store,
) -> None:
    one, two = Session(store), Session(store, attach=False)
    one.finish(one.claim(0))
    one.claim(4, 2)
    claimed = [two.claim(block, 2) for block in (0, 2, 4)]
    assert claimed == [Extent(0, 2), Extent(2, 4), Extent(4, 6)]
    assert not any(two.claims.may_write(extent) for extent in claimed)
    two.attach()
    assert [two.claims.may_write(extent) for extent in claimed] == [False, True, False]
    assert one.claim(2) is None, "it is taken now"
    assert [two.finish(extent) for extent in claimed] == [False, True, False]
    assert one.claim(1) == Extent(1, 2), "what could not be kept is not held"
    assert two.claim(0, 2) is None
    assert two.present == [0, 2, 3]
    assert two.claim(4) is None
    for session in (one, two):
        session.die()


def test_without_a_partial_only_memory_counts(store: Store) -> None:
    one, two = Session(store), Session(store, attach=False)
    one.claim(0, 4)
    extent = two.claim(0, 4)
    assert extent == Extent(0, 4)
    assert not two.finish(extent)
    assert two.map.is_free(0)
    one.die()


def test_who_is_detached_holds_nothing_and_waits_for_nobody(
    pair: tuple[Session, Session],
) -> None:
    one, two = pair
    one.claim(0, 4)
    two.claim(0)
    two.claims.detach()
    assert not two.claims.others
    assert two.map.is_free(0)
    assert not two.claims.look()
    extent = two.claim(0, 4)
    assert extent == Extent(0, 4)
    two.claims.missed(extent)


# -- any order


class ClaimMachine(RuleBasedStateMachine):
    """Sessions come and go, over one partial; each block is filled once, by who has it."""

    SESSIONS = st.integers(0, 2)

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()

    @initialize()
    def begin(self) -> None:
        root = self.stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        self.store = Store(root + "/cache")
        self.store.prepare()
        self.stack.callback(self.store.close)
        self.keeper = Session(self.store)  # so that the partial outlives them
        self.stack.callback(self.keeper.die)
        self.sessions: list[Session | None] = [None] * 3
        self.fills = [0] * COUNT
        self.filled: set[int] = set()

    @rule(number=SESSIONS, attach=st.booleans())
    def come(self, number: int, attach: bool) -> None:
        if self.sessions[number] is None:
            self.sessions[number] = Session(self.store, attach=attach)

    @rule(number=SESSIONS)
    def attach(self, number: int) -> None:
        session = self.sessions[number]
        if session is not None and session.partial is None:
            session.attach()

    @rule(number=SESSIONS, block=st.integers(0, COUNT - 1), limit=st.integers(1, 5))
    def claim(self, number: int, block: int, limit: int) -> None:
        session = self.sessions[number]
        if session is None or not session.map.is_free(block):
            return
        extent = session.claim(block, limit)
        if extent is None:
            assert not session.map.is_free(block)
        else:
            assert extent.start == block
            assert len(extent) <= limit
            if session.partial is not None:
                assert session.claims.may_write(extent)
                assert not self.filled.intersection(range(extent.start, extent.stop))

    @rule(number=SESSIONS, which=st.integers(0, 9), well=st.booleans())
    def finish(self, number: int, which: int, well: bool) -> None:
        session = self.sessions[number]
        if session is None or not session.mine:
            return
        extent = session.mine[which % len(session.mine)]
        if session.finish(extent, well=well):
            for block in range(extent.start, extent.stop):
                self.fills[block] += 1
                self.filled.add(block)

    @rule(number=SESSIONS)
    def look(self, number: int) -> None:
        session = self.sessions[number]
        if session is None:
            return
        freed = session.claims.look()
        if freed:
            assert session.map.next_free(0) >= 0

    @rule(number=SESSIONS, killed=st.booleans())
    def go(self, number: int, killed: bool) -> None:
        session = self.sessions[number]
        if session is not None:
            session.die() if killed else session.end()
            self.sessions[number] = None

    @precondition(lambda self: any(self.sessions))
    @rule()
    def all_is_copied_in_the_end(self) -> None:
        """Whoever is left gets every block: nothing stays with who has gone."""
        for number, session in enumerate(self.sessions):
            if session is not None:
                while session.mine:
                    self.finish(number, 0, True)
        last = next(number for number, session in enumerate(self.sessions) if session is not None)
        session = self.sessions[last]
        if session.partial is None:
            session.attach()
        session.claims.look()
        while (block := session.map.next_free(0)) >= 0:
            self.claim(last, block, COUNT)
            while session.mine:
                self.finish(last, 0, True)
        assert session.map.complete
        assert not session.claims.others

    @invariant()
    def no_block_has_two_owners(self) -> None:
        if not hasattr(self, "sessions"):
            return
        owned = [
            block
            for session in self.sessions
            if session is not None and session.partial is not None
            for extent in session.mine
            if session.claims.may_write(extent)
            for block in range(extent.start, extent.stop)
        ]
        assert len(owned) == len(set(owned))

    @invariant()
    def what_is_present_stays_and_was_filled_once(self) -> None:
        if not hasattr(self, "sessions"):
            return
        assert all(count <= 1 for count in self.fills)
        assert set(on_disk(self.keeper)) == self.filled
        for session in self.sessions:
            if session is not None:
                assert set(session.present) <= self.filled
                assert len(session.heard) == len(set(session.heard))

    def teardown(self) -> None:
        for session in getattr(self, "sessions", ()):
            if session is not None:
                session.die()
        self.stack.close()


ClaimMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25)
TestClaimMachine = ClaimMachine.TestCase
