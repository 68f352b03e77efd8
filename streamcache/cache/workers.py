"""Worker threads and ``call()``: run a blocking function in a thread, wait for it cooperatively.

Threads: the functions run in native threads of the pool; everything else here runs in the hub's
thread. Results come back through one ``loop.async_()`` watcher that drains a deque (a gevent
``ThreadPool`` allocates a watcher per task and blocks the caller when it is full). Errors come
back as values, so the hub prints nothing about them.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import gevent
from gevent import monkey
from gevent.event import AsyncResult, Event

from streamcache.errors import Closed, SourceBusy

# The embedding program may have monkey-patched: worker threads need the real ones.
_start_new_thread = monkey.get_original("_thread", "start_new_thread")
_get_ident = monkey.get_original("_thread", "get_ident")
_SimpleQueue = monkey.get_original("queue", "SimpleQueue")

# gevent imports it with the first error that is set on an AsyncResult. If that one is that no
# descriptor is left, the import fails too, and who waits for the error never gets it (I11).
_NEEDED_BY_GEVENT: Final = pickle

_HELD: Final = 0.05  # s that a timer is late: the hub was held; this process was stopped, perhaps
_MOMENT: Final = 0.5  # s in which what has arrived by then comes to who waits for it

T = TypeVar("T")
log = logging.getLogger(__name__)


class _Job:
    """One call on its way to a thread and back. Its arguments belong to the thread until then."""

    __slots__ = ("abandoned", "args", "discard", "error", "function", "result", "value")

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        discard: Callable[[Any], object] | None,
    ) -> None:
        self.function = function
        self.args = args
        self.discard = discard
        self.abandoned = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.result: AsyncResult[Any] = AsyncResult()


class WorkerPool:
    """At most ``size`` native threads with a queue of at most ``max_queue`` waiting calls.

    A thread that hangs in a system call stays counted until it returns: a dead source can use up
    its own pool, and no other.
    """

    def __init__(self, name: str, *, size: int, max_queue: int = 10_000) -> None:
        self.name = name
        self.size = size
        self.max_queue = max_queue
        self.pending = 0  # calls submitted and not finished
        self.threads = 0  # alive
        self.answered = time.monotonic()  # s: when a call came back last
        self._closed = False
        self._all_gone = Event()
        self._since: dict[int, float] = {}  # per thread with a call: when it began, monotonic s
        self._tasks: Any = _SimpleQueue()
        self._finished: deque[_Job | None] = deque()
        loop: Any = gevent.get_hub().loop
        # Before the sockets: the next read of the source starts here, and must not wait for the
        # sends of a crowd (50 clients on a cold file, last one done: 1.054 x ideal without it).
        self._watcher = loop.async_(priority=loop.MAXPRI)

    def __repr__(self) -> str:
        return f"<WorkerPool {self.name} threads={self.threads}/{self.size} pending={self.pending}>"

    @property
    def queued(self) -> int:
        """Calls that wait for a thread."""
        return max(0, self.pending - self.size)

    def stuck(self, age: float) -> int:
        """Threads that have been in one call for more than ``age`` seconds."""
        before = time.monotonic() - age
        return sum(since < before for since in tuple(self._since.values()))

    def silent(self, age: float) -> bool:
        """Whether a call has been out for ``age`` s, and none has come back since it began."""
        before = time.monotonic() - age
        return any(self.answered <= since < before for since in tuple(self._since.values()))

    def call(
        self,
        function: Callable[..., T],
        *args: Any,
        timeout: float | None = None,
        discard: Callable[[T], object] | None = None,
        late: Callable[[], object] | None = None,
    ) -> T:
        """Run ``function(*args)`` in a worker thread and return its result. Switches.

        After ``timeout`` seconds TimeoutError is raised and the call goes on in its thread; what
        it returns then is given to ``discard``, in a worker thread (to close a descriptor, say).
        With ``late`` that is called then, in the hub, and the wait goes on: for a call whose
        arguments must not be touched before it returns (I4). Raises what the function raised,
        SourceBusy when the queue is full, Closed after close().
        """
        job = self._submit(function, args, discard)
        try:
            job.result.wait(timeout=timeout)
            if late is not None and not job.result.ready():
                late()
                job.result.wait()
        except BaseException:
            # Killed or timed out from outside while waiting: nobody will take the result.
            if job.result.ready():
                self._discard(job)
            else:
                job.abandoned = True
            raise
        if not job.result.ready():
            job.abandoned = True
            raise TimeoutError(f"{self.name}: no answer within {timeout} s")
        return cast(T, job.result.get())

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function(*args)`` in a worker thread and forget it. Does not switch.

        After ``close`` it gets a thread of its own: a handle that outlives the cache still has a
        descriptor to close, and closing it may block.
        """
        if self._closed:
            _start_new_thread(_run_alone, (function, *args))
        else:
            self._submit(function, args, None, bounded=False).abandoned = True

    def close(self) -> None:
        """Take no more calls; threads end after those already queued. Does not wait."""
        if self._closed:
            return
        self._closed = True
        if not self.threads:
            self._all_gone.set()
            self._watcher.close()
            return
        self._listen()
        for _ in range(self.threads):
            self._tasks.put(None)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the threads have ended; False when the timeout passed. Switches."""
        return bool(self._all_gone.wait(timeout))

    def _submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        discard: Callable[[Any], object] | None,
        *,
        bounded: bool = True,
    ) -> _Job:
        if self._closed:
            raise Closed(f"{self.name}: closed")
        if bounded and self.queued >= self.max_queue:
            raise SourceBusy(f"{self.name}: {self.queued} calls wait already")
        if self.pending >= self.threads < self.size:
            self._start_thread()
        job = _Job(function, args, discard)
        self._listen()
        self.pending += 1
        self._tasks.put(job)
        return job

    def _start_thread(self) -> None:
        try:
            _start_new_thread(self._work, ())
        except RuntimeError as error:  # a limit of the process or of the machine
            if not self.threads:
                raise SourceBusy(f"{self.name}: no thread can be started") from error
            return  # those that there are will come to it
        self.threads += 1

    def _listen(self) -> None:
        # Started only while something can arrive: a started watcher keeps the loop alive.
        if not self._watcher.active:
            self._watcher.start(self._drain)

    def _work(self) -> None:
        """The life of a thread: no object of the hub is touched here (I3)."""
        tasks, finished, send = self._tasks, self._finished, self._watcher.send
        since, me, now = self._since, _get_ident(), time.monotonic
        while (job := tasks.get()) is not None:
            since[me] = now()
            try:
                job.value = job.function(*job.args)
            except BaseException as error:
                job.error = error
            job.function = job.args = None
            # Not when the hub hears of it: by then this thread may be in the call that hangs.
            self.answered = now()
            since.pop(me, None)
            finished.append(job)
            del job
            send()
        finished.append(None)
        send()

    def _drain(self) -> None:
        """Hub callback: hand results to their waiters."""
        finished = self._finished
        while finished:
            job = finished.popleft()
            if job is None:
                self._thread_ended()
                continue
            self.pending -= 1
            if job.abandoned:
                self._discard(job)
            elif job.error is not None:
                job.result.set_exception(job.error)
            else:
                job.result.set(job.value)
        if not self.pending and not self._closed and self._watcher.active:
            self._watcher.stop()

    def _discard(self, job: _Job) -> None:
        if job.error is not None:
            log.debug("late error pool=%s error=%r", self.name, job.error)
        elif job.discard is not None and job.value is not None:
            self.post(job.discard, job.value)

    def _thread_ended(self) -> None:
        self.threads -= 1
        if not self.threads:
            self._watcher.stop()
            self._watcher.close()
            self._all_gone.set()


def is_there(result: AsyncResult[Any], timeout: float) -> bool:
    """Wait for a result for ``timeout`` s; whether it is there. Switches.

    At the first turn after the hub was held timers come before what has arrived meanwhile: then it
    is waited for a moment more.
    """
    due = time.monotonic() + timeout
    result.wait(timeout=timeout)
    if not result.ready() and time.monotonic() - due > _HELD:
        result.wait(timeout=_MOMENT)
    return result.ready()


def _run_alone(function: Callable[..., object], *args: Any) -> None:
    """The life of a thread that does one thing."""
    with contextlib.suppress(Exception):
        function(*args)
