"""Calls in worker threads: results, errors, deadlines, bounds, and the way out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.event import AsyncResult

from streamcache.cache import workers
from streamcache.cache.workers import WorkerPool, is_there
from streamcache.errors import Closed, SourceBusy

HOLD = 20.0  # s until a test that waits counts as failed


@pytest.fixture
def make_pool() -> Iterator[Callable[..., WorkerPool]]:
    pools: list[WorkerPool] = []

    def make(size: int = 2, max_queue: int = 100) -> WorkerPool:
        pools.append(WorkerPool("test", size=size, max_queue=max_queue))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
        assert pool.join(HOLD)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What jobs wait for; open at the end."""
    event = threading.Event()
    yield event
    event.set()


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(HOLD):
        while not condition():
            gevent.sleep(0.0005)


def pause(gate: threading.Event, value: object = None) -> object:
    assert gate.wait(HOLD)
    return value


def test_a_call_returns_what_the_function_returns(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool()
    assert pool.call(divmod, 7, 3) == (2, 1)
    assert pool.call(lambda: None) is None


def test_it_runs_in_another_thread_while_greenlets_go_on(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool = make_pool()
    assert pool.call(threading.get_ident) != threading.get_ident()
    beats: list[int] = []
    waiting = gevent.spawn(pool.call, pause, gate, "done")
    while len(beats) < 5:
        beats.append(1)
        gevent.sleep(0)
    assert not waiting.ready()
    gate.set()
    assert waiting.get() == "done"


def test_what_the_function_raises_is_raised_to_the_caller(
    make_pool: Callable[..., WorkerPool], capsys: pytest.CaptureFixture[str]
) -> None:
    pool = make_pool()
    with pytest.raises(ZeroDivisionError):
        pool.call(divmod, 1, 0)
    with pytest.raises(SystemExit):
        pool.call(exit)
    assert capsys.readouterr().err == "", "an error is a value: the hub prints nothing"
    assert pool.call(int) == 0


_NO_DESCRIPTORS = """
import os, resource, gevent
from streamcache.cache.workers import WorkerPool, is_there
pool = WorkerPool("test", size=1)
pool.call(len, "")
resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), 1024))
with gevent.Timeout(10):
    try:
        pool.call(os.open, "/dev/null", os.O_RDONLY)
    except OSError as error:
        print(error.strerror)
"""


def test_the_first_error_comes_back_although_no_descriptor_is_left() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NO_DESCRIPTORS], capture_output=True, text=True, timeout=HOLD
    )
    assert (done.stdout, done.stderr) == ("Too many open files\n", "")


def test_there_are_at_most_as_many_threads_as_its_size(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool = make_pool(size=3)
    calls = [gevent.spawn(pool.call, pause, gate, number) for number in range(10)]
    gevent.sleep(0)
    assert (pool.threads, pool.pending, pool.queued) == (3, 10, 7)
    gate.set()
    assert [call.get() for call in calls] == list(range(10))
    assert (pool.pending, pool.queued) == (0, 0)


def test_threads_are_made_when_they_are_needed(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(size=8)
    assert pool.threads == 0
    for _ in range(5):
        pool.call(int)
    assert pool.threads == 1


def test_a_full_queue_refuses_at_once(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool = make_pool(size=1, max_queue=2)
    calls = [gevent.spawn(pool.call, pause, gate) for _ in range(3)]
    gevent.sleep(0)
    with pytest.raises(SourceBusy):
        pool.call(int)
    gate.set()
    gevent.joinall(calls, raise_error=True)
    assert pool.call(int) == 0


def test_a_pool_recovers_when_threads_can_be_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A shortage refuses calls; it leaves none behind in the queue."""

    def refused(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    pool = WorkerPool("test", size=4)
    with monkeypatch.context() as shortage:
        shortage.setattr(workers, "_start_new_thread", refused)
        for _ in range(5):
            with pytest.raises(SourceBusy):
                pool.call(os.getpid)
    with gevent.Timeout(HOLD):
        assert pool.call(os.getpid) == os.getpid()
    assert (pool.pending, pool.threads) == (0, 1)
    pool.close()
    assert pool.join(HOLD)


def test_what_must_not_get_lost_is_queued_also_when_the_queue_is_full(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool = make_pool(size=1, max_queue=1)
    calls = [gevent.spawn(pool.call, pause, gate) for _ in range(2)]
    gevent.sleep(0)
    done = threading.Event()
    pool.post(done.set)
    gate.set()
    gevent.joinall(calls, raise_error=True)
    until(done.is_set)


def test_no_answer_in_time_is_a_timeout_and_the_late_result_is_discarded(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool = make_pool()
    late: list[object] = []
    with pytest.raises(TimeoutError):
        pool.call(pause, gate, "late", timeout=0.01, discard=late.append)
    assert pool.pending == 1, "the thread is still busy with it"
    gate.set()
    until(lambda: late)
    assert late == ["late"]
    until(lambda: pool.pending == 0)


def test_a_late_error_is_nobodys(
    make_pool: Callable[..., WorkerPool],
    gate: threading.Event,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool = make_pool()

    def fail() -> None:
        pause(gate)
        raise OSError("late")

    with pytest.raises(TimeoutError):
        pool.call(fail, timeout=0.01, discard=lambda _: pytest.fail("nothing to discard"))
    gate.set()
    until(lambda: pool.pending == 0)
    assert capsys.readouterr().err == ""


def test_the_result_for_a_greenlet_that_was_killed_is_discarded(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool = make_pool()
    late: list[object] = []
    waiting = gevent.spawn(pool.call, pause, gate, "late", discard=late.append)
    gevent.sleep(0)
    waiting.kill()
    gate.set()
    until(lambda: late)


def test_the_result_for_a_greenlet_that_is_killed_as_it_comes_is_discarded(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    """Between the answer and the greenlet that waits for it the loop turns once more."""
    pool = make_pool()
    late: list[object] = []
    waiting = gevent.spawn(pool.call, pause, gate, "late", discard=late.append)
    gevent.sleep(0)

    def kill_with_the_result() -> None:
        gate.set()
        while not pool._finished:
            pass
        waiting.kill(block=False)
        pool._drain()

    gevent.spawn(kill_with_the_result).join()
    waiting.join()
    until(lambda: late)


def test_a_timeout_of_the_caller_passes_through(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool = make_pool()
    with gevent.Timeout(0.01) as mine, pytest.raises(gevent.Timeout) as caught:
        pool.call(pause, gate)
    assert caught.value is mine


def test_after_close_there_are_no_more_calls_but_those_queued_are_done(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    """c3ddf1ac: the copy thread never stopped."""
    pool = make_pool(size=1)
    calls = [gevent.spawn(pool.call, pause, gate, number) for number in range(3)]
    gevent.sleep(0)
    pool.close()
    pool.close()
    with pytest.raises(Closed):
        pool.call(int)
    assert not pool.join(0.01)
    gate.set()
    assert [call.get() for call in calls] == [0, 1, 2]
    assert pool.join(HOLD)
    assert pool.threads == 0


def test_a_pool_that_was_never_used_closes(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool()
    pool.close()
    assert pool.join(0)


def test_what_is_posted_after_close_is_still_done(make_pool: Callable[..., WorkerPool]) -> None:
    """A handle that outlives its cache still has a descriptor to close."""
    pool = make_pool()
    pool.call(int)
    pool.close()
    assert pool.join(HOLD)
    read, write = os.pipe()
    pool.post(os.close, read)
    pool.post(os.close, write)

    def closed(fd: int) -> bool:
        try:
            os.fstat(fd)
        except OSError:
            return True
        return False

    until(lambda: closed(read) and closed(write))


def test_a_late_result_after_close_is_discarded(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool = make_pool()
    late: list[object] = []
    with pytest.raises(TimeoutError):
        pool.call(pause, gate, "late", timeout=0.01, discard=late.append)
    pool.close()
    gate.set()
    assert pool.join(HOLD)
    until(lambda: late)


def test_an_idle_pool_does_not_keep_the_loop_alive(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool()
    pool.call(int)
    gevent.sleep(0)
    assert not pool._watcher.active


def test_it_says_how_it_is(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(size=4)
    pool.call(int)
    assert repr(pool) == "<WorkerPool test threads=1/4 pending=0>"


def test_threads_that_do_not_come_back_are_counted(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool = make_pool(size=2)
    for _ in range(5):
        pool.post(pause, gate, None)
    until(lambda: pool.stuck(0.01) == 2)
    assert pool.stuck(60) == 0
    gate.set()
    until(lambda: not pool.pending)
    assert pool.stuck(0) == 0


def test_silence_is_a_call_that_is_out_while_none_comes_back(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool = make_pool(size=2)
    assert not pool.silent(0), "nothing was asked"
    pool.post(pause, gate)
    until(lambda: pool.silent(0.01))
    assert not pool.silent(60)
    pool.call(int)
    assert not pool.silent(0), "another came back"
    gate.set()
    until(lambda: not pool.pending)
    assert not pool.silent(0)


def test_a_call_that_hangs_is_silence_although_the_hub_hears_of_the_one_before_only_later(
    make_pool: Callable[..., WorkerPool], gate: threading.Event
) -> None:
    pool, begun = make_pool(size=1), threading.Event()

    def hang() -> None:
        begun.set()
        pause(gate)

    pool.post(int)
    pool.post(hang)
    assert begun.wait(HOLD)  # it began before this hub took the first one's result
    until(lambda: pool.silent(0.01))


def test_what_arrives_while_the_hub_is_held_is_there_though_the_time_is_over(
    make_pool: Callable[..., WorkerPool],
) -> None:
    pool = make_pool()
    result: AsyncResult[None] = AsyncResult()
    gevent.spawn(lambda: result.set(pool.call(time.sleep, 0.1)))
    gevent.spawn_later(0.02, time.sleep, 0.6)  # in the hub
    assert is_there(result, 0.3)


def test_what_does_not_arrive_is_waited_for_so_long_and_no_longer() -> None:
    begun = time.monotonic()
    assert not is_there(AsyncResult(), 0.02)
    assert time.monotonic() - begun >= 0.02
    gevent.spawn_later(0.01, time.sleep, 0.2)
    assert not is_there(AsyncResult(), 0.05)
