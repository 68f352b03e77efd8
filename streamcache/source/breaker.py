"""The circuit breaker: a source that does not answer as a whole is not asked until it does.

Every call to the source is a ``Question`` about a path. Several paths in a row that fail, or are
not answered in time, with no answer in between, open the breaker: then nothing is asked but a
probe, one at a time and in a thread of its own, so that it does not matter how many threads of the
pools are stuck. A probe that does not come back is given up, and the next one has another thread.
An answer closes it, the probe's or one that comes back late. One bad file never opens it, however
often it fails. That there is no answer is believed at a second look: when this process was stopped,
or got no core, answers lie there that nobody has taken yet.

Greenlets: one while it is open, which probes. All in the hub's thread; only the source's ``probe``
runs in a worker. Questions that are out are looked at when somebody asks, so there is no timer.
"""

from __future__ import annotations

import errno
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent

from streamcache.errors import SourceBusy, SourceUnavailable, StreamCacheError

_PATHS = 3  # distinct paths without an answer in between: it is the source, not a file
_INTERVAL = 1.0  # s between probes
_LONGEST = 16.0  # s between probes of a source that comes and goes
_AGAIN = 0.1  # s between two looks: by then what was there at the first has been taken
_PROBE_TIME = 30.0  # s until a probe is given up, or the source's timeout if that is longer
_STEADY = 10.0  # s that it must have been well for the first interval to hold again

# Our own limits say nothing about the source; of ESTALE see ``failed``.
_NEUTRAL = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}

log = logging.getLogger(__name__)


class Prober(Protocol):
    """The probe's threads."""

    def run(self, function: Callable[..., Any], *args: Any, timeout: float) -> Any:
        """Run in a worker thread. Switches. TimeoutError after ``timeout`` s, and at once while
        another one may come back yet, or so many hang that no thread is left.
        """
        ...


class Question:
    """One call to the source about a path, from when it is asked until it has come back."""

    __slots__ = ("path", "since")

    def __init__(self, path: str, since: float) -> None:
        self.path = path
        self.since = since  # monotonic s


class _Looks:
    """Which questions were late not only now, but also when they were looked at before that."""

    __slots__ = ("_before", "_believed", "_last")

    def __init__(self) -> None:
        self._last = -math.inf  # when the last look was
        self._before = -math.inf  # what was asked until then was late at that look
        self._believed = -math.inf  # the same, of the look before it

    def look(self, wait: float) -> float:
        """Those that were asked until this moment, and are out still, are out for ``wait`` s."""
        now = time.monotonic()
        if now - self._last >= _AGAIN:
            self._believed, self._before, self._last = self._before, now - wait, now
        return min(self._believed, now - wait)  # another wait may have held then


class Breaker:
    """Whether a source is asked at all."""

    def __init__(
        self,
        name: str = "",
        *,
        timeout: float = math.inf,
        probe: Callable[[str | None], object] | None = None,
        pool: Prober | None = None,
        exhausted: Callable[[], bool] = lambda: False,
    ) -> None:
        """``timeout``: s after which a question counts as unanswered. ``probe`` runs in ``pool``,
        which has threads of its own; without it the breaker never opens. ``exhausted``: no thread
        is left to ask with, so closing is of no use yet.
        """
        self.openings = 0
        self.on_close: list[Callable[[], object]] = []  # may not switch
        self._name = name
        self._timeout = timeout
        self._probe = probe
        self._pool = pool
        self._exhausted = exhausted
        self._asked: dict[Question, None] = {}  # out, the oldest first, and not given up
        self._against: dict[str, None] = {}  # paths that failed since the last answer
        self._answered = time.monotonic()  # when the last answer came
        self._looks = _Looks()
        self._hasty_looks = _Looks()  # of those who would rather not wait
        self._known: str | None = None  # the path that was last opened or read
        self._open = False
        self._opened = 0.0
        self._closed = -math.inf
        self._interval = _INTERVAL
        self._prober: gevent.Greenlet[..., Any] | None = None
        self._stopped = False

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<Breaker {state} asked={len(self._asked)} against={len(self._against)}>"

    def reconfigure(self, timeout: float) -> None:
        """Another time after which a question counts as unanswered. Does not switch."""
        self._timeout = timeout

    @property
    def is_open(self) -> bool:
        """The source must not be asked. Does not switch."""
        if not self._open:
            self._look()
        return self._open

    def patience(self, wait: float) -> float:
        """For how long (s, ``wait`` at most) an answer is worth waiting for: not at all when
        several questions wait for ``wait`` s already and no other was answered in that time.
        """
        if self._open:
            return 0.0
        if not self._is_silent(time.monotonic() - wait):
            return wait
        return 0.0 if self._is_silent(self._hasty_looks.look(wait)) else min(wait, _AGAIN)

    def _is_silent(self, before: float) -> bool:
        """Whether several questions were asked before that, and no answer has come since."""
        if len(self._asked) + len(self._against) < _PATHS or self._answered > before:
            return False
        late = set(self._against)
        for question in self._asked:
            if question.since > before or len(late) >= _PATHS:
                break
            late.add(question.path)
        return len(late) >= _PATHS

    def refusal(self, path: str) -> SourceUnavailable:
        """The error for who would have asked."""
        reason = "the source does not answer and is not asked"
        return SourceUnavailable(errno.EHOSTDOWN, reason, f"/{path}")

    # -- questions

    def ask(self, path: str) -> Question:
        """A call begins; it ends with ``answered`` or ``failed``."""
        question = Question(path, time.monotonic())
        self._asked[question] = None
        return question

    def answered(self, question: Question, *, known: bool = True) -> None:
        """The source said something of the path; ``known``: and it has it."""
        self._asked.pop(question, None)
        self._answered = time.monotonic()
        self._against.clear()
        if known:
            self._known = question.path
        if self._open:
            self._close()

    def failed(self, question: Question, error: BaseException) -> None:
        """It did not.

        That the handle of an open file is stale counts neither way: a server that has restarted
        says so, and so does the kernel of a mount that is beyond help.
        """
        out = question in self._asked
        self._asked.pop(question, None)
        if not isinstance(error, SourceUnavailable) or isinstance(error, SourceBusy):
            return
        if out and error.errno not in _NEUTRAL:
            self._count(question.path)

    def _look(self) -> None:
        """Give up the questions that are out for too long."""
        before = self._looks.look(self._timeout)
        while self._asked:
            question = next(iter(self._asked))
            if question.since > before:
                return
            del self._asked[question]
            # One that was asked before the last answer tells of its file, not of the source.
            if question.since >= self._answered:
                self._count(question.path)

    def _count(self, path: str) -> None:
        self._against[path] = None
        if len(self._against) >= _PATHS and not self._open and self._probe is not None:
            self._do_open()

    # -- open and closed

    def _do_open(self) -> None:
        if self._stopped:
            return
        now = time.monotonic()
        steady = now - self._closed > _STEADY
        self._interval = _INTERVAL if steady else min(_LONGEST, 2 * self._interval)
        self._open, self._opened = True, now
        self.openings += 1
        paths = [f"/{path}" for path in self._against]
        log.error("source does not answer, not asked source=%r paths=%r", self._name, paths)
        self._prober = gevent.spawn(self._do_probe)

    def _close(self) -> None:
        now = time.monotonic()
        log.warning("source answers again source=%r after=%.1f", self._name, now - self._opened)
        self._open, self._closed, self._answered = False, now, now
        self._against.clear()
        prober, self._prober = self._prober, None
        if prober is not None and prober is not gevent.getcurrent():
            prober.kill(block=False)
        for function in self.on_close:
            function()

    def _do_probe(self) -> None:
        """Greenlet: ask now and then, until there is an answer."""
        assert self._pool is not None and self._probe is not None
        while True:
            gevent.sleep(self._interval)
            try:
                timeout = max(_PROBE_TIME, self._timeout)
                self._pool.run(self._probe, self._known, timeout=timeout)
            except (StreamCacheError, OSError) as error:
                log.debug("source probe failed error=%s", error)
                continue
            except Exception:  # a fault of ours, or of memory: without a probe it stays open
                log.exception("source probe broke")
                continue
            if self._prober is not gevent.getcurrent():  # closed meanwhile by an answer
                return
            if not self._exhausted():
                self._close()
                return

    def stop(self) -> None:
        """No probe any more: the cache closes. Does not switch."""
        self._stopped = True
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.kill(block=False)
