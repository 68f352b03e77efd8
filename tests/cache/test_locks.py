"""Locks between descriptions and processes: refused, told of, and freed by the kernel."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import gevent
import pytest

from streamcache.cache import locks
from streamcache.cache.locks import KeyLock, KeyLocks, Range
from streamcache.errors import CacheBusy, Closed
from tests.cache.another import AnotherProcess

KEY, OTHER = "ab" * 16, "cd" * 16


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "locks"
    path.touch()
    return path


@pytest.fixture
def fds(file: Path) -> Iterator[list[int]]:
    """Four descriptions of one file."""
    opened = [os.open(file, os.O_RDWR | os.O_CLOEXEC) for _ in range(4)]
    yield opened
    for fd in opened:
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def keys(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyLocks]:
    """They are waited for until the machine has the time; ``impatient`` where nobody comes."""
    monkeypatch.setattr(locks, "LOCK_WAIT", 10)
    made, fd = KeyLocks(), os.open(file, os.O_RDWR | os.O_CLOEXEC)
    made.use(fd)
    yield made
    made.use(-1)
    os.close(fd)


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    with mock.patch.object(locks, "LOCK_WAIT", 0.02):
        yield


# -- ranges


def test_two_descriptions_of_one_process_refuse_each_other(fds: list[int]) -> None:
    assert locks.try_lock(fds[0], 10, 5)
    assert not locks.try_lock(fds[1], 14, 1)
    assert locks.try_lock(fds[1], 15, 5)
    assert locks.foreign(fds[0], 0, 100) == Range(15, 20)
    assert locks.foreign(fds[1], 0, 100) == Range(10, 15)
    assert locks.foreign(fds[2], 0, 5) is None
    locks.unlock(fds[0], 12, 1)
    assert locks.try_lock(fds[2], 12, 1)
    assert not locks.try_lock(fds[2], 11, 1)
    locks.unlock(fds[0], 0, 100)
    assert locks.foreign(fds[1], 0, 12) is None


def test_the_same_description_is_never_refused(fds: list[int]) -> None:
    assert locks.try_lock(fds[0], 0, 5)
    assert locks.try_lock(fds[0], 3, 5)
    assert locks.foreign(fds[0], 0, 8) is None
    assert locks.foreign(fds[1], 0, 8) == Range(0, 8)


def test_many_may_share_and_one_may_own(fds: list[int]) -> None:
    assert locks.try_lock(fds[0], 0, 1, shared=True)
    assert locks.try_lock(fds[1], 0, 1, shared=True)
    assert not locks.try_lock(fds[0], 0, 1)
    os.close(fds[1])
    assert locks.try_lock(fds[0], 0, 1), "from shared to owned"
    assert not locks.try_lock(fds[2], 0, 1, shared=True)
    assert locks.try_lock(fds[0], 0, 1, shared=True), "and back"
    assert locks.try_lock(fds[2], 0, 1, shared=True)


def test_the_first_of_several_foreign_ranges_is_told(fds: list[int]) -> None:
    """The kernel tells any: that of the description that came first, wherever it is."""
    assert locks.try_lock(fds[0], 80, 10)
    assert locks.try_lock(fds[1], 40, 10)
    assert locks.try_lock(fds[2], 60, 10)
    assert locks.foreign(fds[3], 0, 100) == Range(40, 50)
    assert locks.foreign(fds[3], 45, 100) == Range(40, 50)
    assert locks.foreign(fds[3], 50, 50) == Range(60, 70)
    assert locks.foreign(fds[3], 70, 50) == Range(80, 90)
    assert locks.foreign(fds[1], 0, 100) == Range(60, 70)


def test_a_process_that_is_killed_holds_nothing(
    file: Path, fds: list[int], another: AnotherProcess
) -> None:
    another.do(f"fd = os.open({str(file)!r}, os.O_RDWR)")
    assert another.do("locks.try_lock(fd, 5, 3)")
    assert not locks.try_lock(fds[0], 7, 1)
    assert locks.foreign(fds[0], 0, 100) == Range(5, 8)
    assert locks.try_lock(fds[0], 0, 5)
    assert another.do("tuple(locks.foreign(fd, 0, 100))") == (0, 5)
    another.kill()
    assert locks.foreign(fds[0], 0, 100) is None
    assert locks.try_lock(fds[0], 0, 100)


# -- keys


def test_a_key_is_one_greenlets_at_a_time(keys: KeyLocks) -> None:
    lock = keys.try_acquire(KEY)
    assert lock is not None
    assert keys.try_acquire(KEY) is None
    with keys.acquire(OTHER):
        pass
    lock.release()
    lock.release()
    with keys.acquire(KEY):
        assert keys.try_acquire(KEY) is None
    with keys.acquire(KEY):
        pass


def test_those_who_want_the_same_key_come_one_after_the_other(keys: KeyLocks) -> None:
    order: list[int] = []
    first = keys.acquire(KEY)

    def take(number: int) -> None:
        with keys.acquire(KEY):
            order.append(number)
            gevent.sleep(0)
            assert keys.try_acquire(KEY) is None

    takers = [gevent.spawn(take, number) for number in range(5)]
    gevent.sleep(0)
    assert order == []
    first.release()
    gevent.joinall(takers, raise_error=True)
    assert order == [0, 1, 2, 3, 4]


def test_who_waits_too_long_is_told(keys: KeyLocks) -> None:
    with keys.acquire(KEY):
        with pytest.raises(CacheBusy, match="is held for more than"), impatient():
            keys.acquire(KEY)
        waiting = gevent.spawn(keys.acquire, KEY)
        gevent.sleep(0)
        waiting.kill()
    keys.acquire(KEY).release()


def test_another_process_has_the_key(file: Path, keys: KeyLocks, another: AnotherProcess) -> None:
    another.do(f"keys = locks.KeyLocks(); keys.use(os.open({str(file)!r}, os.O_RDWR))")
    another.do(f"lock = keys.acquire({KEY!r})")
    assert keys.try_acquire(KEY) is None
    with pytest.raises(CacheBusy), impatient():
        keys.acquire(KEY)
    with keys.acquire(OTHER):
        assert another.do(f"keys.try_acquire({OTHER!r}) is None")
    waiting = gevent.spawn(keys.acquire, KEY)
    gevent.sleep(0.01)
    assert not waiting.ready()
    another.kill()
    lock = waiting.get(timeout=10)
    assert isinstance(lock, KeyLock)
    lock.release()


def test_two_caches_in_one_process_are_as_two_processes(file: Path, keys: KeyLocks) -> None:
    other, fd = KeyLocks(), os.open(file, os.O_RDWR)
    other.use(fd)
    with keys.acquire(KEY):
        assert other.try_acquire(KEY) is None
    with other.acquire(KEY):
        assert keys.try_acquire(KEY) is None
    os.close(fd)


def test_a_key_that_is_lent_is_anybodys_for_a_while(keys: KeyLocks) -> None:
    lock = keys.acquire(KEY)
    with lock.lent():
        with keys.acquire(KEY):
            pass
        borrower = keys.acquire(KEY)
        gevent.spawn(borrower.release)
    assert keys.try_acquire(KEY) is None, "it came back"
    lock.release()
    keys.acquire(KEY).release()


def test_a_key_that_does_not_come_back_is_not_ours(keys: KeyLocks) -> None:
    lock = keys.acquire(KEY)
    with pytest.raises(CacheBusy), impatient(), lock.lent():
        borrower = keys.acquire(KEY)
    lock.release()
    assert keys.try_acquire(KEY) is None, "it is the borrower's"
    borrower.release()


def test_a_key_is_not_had_again_after_an_error(keys: KeyLocks) -> None:
    lock = keys.acquire(KEY)
    with pytest.raises(ZeroDivisionError), lock.lent():
        raise ZeroDivisionError
    keys.acquire(KEY).release()
    lock.release()


def test_keys_of_a_closed_cache(file: Path, keys: KeyLocks) -> None:
    lock = keys.acquire(KEY)
    keys.use(-1)
    lock.release()
    with pytest.raises(Closed):
        keys.acquire(KEY)
    with pytest.raises(Closed):
        keys.try_acquire(KEY)
