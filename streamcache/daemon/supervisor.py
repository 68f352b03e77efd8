"""The supervisor of several workers: binds, forks, watches, starts again, passes on the end.

Plain Python in one thread: no hub, no greenlet, no serving. A hub that exists before a fork would
be shared with the children (one epoll for all), so it is an error here. What workers need is
imported before the first fork, which makes no hub: their memory is shared until it is written to,
and a successor is there at once.

Each worker is on a line (a pair of sockets). It tells us that it accepts, or why it cannot; we
tell it to drain. When one of the two dies, the other one reads the end: no orphan serves for ever.
PR_SET_PDEATHSIG would do that too, but as a signal it cannot be told from one of the operator.

All workers accept from the one listener, which we hold open: while a worker is away, the others
take its connections.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import select
import signal
import socket
import sys
import time
from dataclasses import replace
from typing import Any, Final

from streamcache.admin.board import Board
from streamcache.config import as_mapping
from streamcache.daemon import logs, worker
from streamcache.daemon.forking import WATCHED, fork
from streamcache.daemon.line import Line
from streamcache.daemon.mainprocess import MainProcess
from streamcache.daemon.parts import Parts
from streamcache.daemon.place import Place
from streamcache.daemon.pulse import Pulse
from streamcache.daemon.reloading import Reload
from streamcache.daemon.shares import share_of
from streamcache.daemon.signals import ORDERS, RELOAD, REOPEN, STOPPING, UPGRADE
from streamcache.errors import ConfigError, StreamCacheError
from streamcache.settings import Settings

log = logging.getLogger(__name__)

RELOAD_WAIT: Final = 10.0  # s that workers may take to reload until they are not waited for
START_OVER: Final = 5.0  # s that the others get to end when one cannot start
DRAIN_GRACE: Final = 30.0  # s beside server.drain_timeout until a worker that hangs is killed

monotonic = time.monotonic


def supervise(main: MainProcess, parts: Parts) -> int:
    """Serve with ``server.workers`` processes until a signal comes and all are drained.

    The exit code: 0, or 1 when one of them did not drain. Raises ConfigError for whatever a
    setting can mend, before the ready line is printed.
    """
    return _Supervisor(main, parts).run()


class _Supervisor:
    def __init__(self, main: MainProcess, parts: Parts) -> None:
        self._main = main
        self._parts = parts
        workers = main.settings.config.server.workers
        self._places = [Place(index) for index in range(workers)]
        self._board = Board(workers)
        self._pulse = Pulse(self._board, self._places, (main.notifier.watchdog or math.inf) / 3)
        self._announced = False
        self._draining = False
        self._told_to_stop = False  # by a signal; a drain may also be the admin listener's wish
        self._kill_at = math.inf
        self._reload: Reload | None = None  # the one that workers are at
        self._reload_number = 0  # of the one that began last: answers to others may come late
        self._reload_end = math.inf
        self._reload_wanted = False
        self._failed = False  # while it drained
        # Python's signal handlers run late; the bytes that its C handler writes here wake poll().
        self._woken, self._waker = socket.socketpair()

    def run(self) -> int:
        """See ``supervise``."""
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in WATCHED:
            signal.signal(number, _nothing)
        gc.collect()
        gc.freeze()  # a collection in a worker writes to no page of what is there now
        try:
            # The first one alone: it makes the cache directory what it should be, and it finds
            # out the size of the cache that all others are to have.
            self._places[0].due = 0.0
            while self._turn():
                pass
        except (ConfigError, StreamCacheError):
            self._end_all()
            raise
        finally:
            signal.set_wakeup_fd(-1)
            self._woken.close()
            self._waker.close()
        self._board.totals().say(log)
        self._main.stopped()
        return 1 if self._failed else 0

    def _turn(self) -> bool:
        """One round of the loop; False when all is over."""
        if self._draining and not any(place.pid for place in self._places):
            return False
        for number in self._wait():
            self._signalled(number)
        for place in self._places:
            self._listen(place)
            self._reap(place)
        if self._main.is_succeeded() and not self._draining:
            self._drain()
        if monotonic() >= self._pulse.due:
            self._feel_pulse()
        if self._draining:
            if monotonic() >= self._kill_at:
                self._kill_at = math.inf
                self._kill("did not drain in time")
            return True
        for place in self._places:
            if place.due <= monotonic():
                self._fork(place)
        if not self._announced and all(place.accepts for place in self._places):
            self._announced = True
            self._main.serves()
        if self._reload is not None:
            self._go_on_reloading()
        if self._reload is None and self._reload_wanted and self._announced:
            self._begin_reload()
        return True

    def _wait(self) -> bytes:
        """Wait until something is to be done; the signals that came."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        for place in self._places:
            if place.line is not None:
                poll.register(place.line, select.POLLIN)
        next_ = min(self._kill_at, self._pulse.due, *(place.due for place in self._places))
        if (successor := self._main.successor) is not None:
            poll.register(successor, select.POLLIN)
            next_ = min(next_, successor.deadline)
        if self._reload is not None:
            next_ = min(next_, self._reload_end)
        poll.poll(math.ceil(max(0.0, next_ - monotonic()) * 1000))
        with contextlib.suppress(BlockingIOError):
            return self._woken.recv(4096)
        return b""

    def _feel_pulse(self) -> None:
        """Kill workers that serve nobody any more; tell the service manager if all is well."""
        draining = self._draining  # then there is another time limit for all of them
        for place in self._pulse.look(self._main.settings.config.server.worker_timeout):
            if not draining:
                self._kill_one(place, "its hub hangs")
                place.accepts = False
        if self._main.notifier.watchdog and (self._pulse.is_well or draining):
            self._main.notifier.alive()

    # -- signals

    def _signalled(self, number: int) -> None:
        if number == RELOAD and not self._draining:
            self._reload_wanted = True  # not lost when another one runs, or before the start
            self._main.ordered(RELOAD)
        elif number in ORDERS:
            self._ordered(signal.Signals(number))
        if number not in STOPPING:
            return
        name = signal.Signals(number).name
        if self._told_to_stop:
            log.warning("second signal, ending at once signal=%s", name)
            self._kill("second signal")
            sys.stderr.flush()
            # Not waited for: a worker may hang in the kernel.
            os._exit(128 + number)
        self._told_to_stop = True
        log.info("draining, a second signal ends at once signal=%s", name)
        if not self._draining:
            self._drain()

    def _ordered(self, number: signal.Signals) -> None:
        if self._draining or not self._announced:
            state = "draining" if self._draining else "the daemon is not ready yet"
            log.info("ignored signal=%s reason=%s", number.name, state)
            return
        log.info("received signal=%s", number.name)
        if number == REOPEN:
            self._order("reopen")
            self._main.ordered(REOPEN)
        elif number == UPGRADE:
            self._main.start_successor()

    def _begin_reload(self) -> None:
        """Read all again; workers are told, and answer in time or are not waited for."""
        self._reload_wanted = False
        log.info("reloading")
        self._main.notifier.reloading()
        try:
            reload = self._main.read_again()
        except ConfigError as error:
            self._main.not_reloaded(error)
            return
        self._main.adopt(reload)
        self._reload = reload
        self._reload_number += 1
        self._reload_end = monotonic() + RELOAD_WAIT
        for place in self._places:
            place.reloading = self._reload_number if place.line is not None else 0
        self._order("reload", number=self._reload_number, config=as_mapping(self._share.config))

    def _go_on_reloading(self) -> None:
        """Until all have answered, or for long enough."""
        assert self._reload is not None
        late = [place.name for place in self._places if place.reloading]
        if late and monotonic() < self._reload_end:
            return
        if late:
            log.error("not reloaded workers=%s reason=%s", ",".join(late), "no answer")
        for place in self._places:
            place.reloading = 0
        self._main.reloaded(self._reload)
        self._reload = None

    def _order(self, order: str, **more: Any) -> None:
        """Tell all workers."""
        for place in self._places:
            if place.line is not None:
                place.line.tell(order=order, **more)

    def _wished(self, place: Place) -> None:
        """Whoever reached its admin listener wants the end; it may be wished for twice."""
        if not self._draining:
            why = "the admin listener was asked to"
            log.info("draining worker=%s reason=%s", place.name, why)
            self._drain()

    def _drain(self, timeout: float | None = None) -> None:
        """Who has not ended after ``timeout`` s is killed; by default it has time to drain."""
        if timeout is None:
            timeout = self._main.settings.config.server.drain_timeout + DRAIN_GRACE
        self._draining = True
        self._kill_at = monotonic() + timeout
        self._main.stopping()
        for place in self._places:
            place.due = math.inf
        self._order("drain", retired=self._main.is_retired)

    def _kill(self, why: str) -> None:
        for place in self._places:
            if place.pid:
                self._kill_one(place, why)

    def _kill_one(self, place: Place, why: str) -> None:
        log.warning("killed worker=%s pid=%d reason=%s", place.name, place.pid, why)
        os.kill(place.pid, signal.SIGKILL)  # not reaped, so its id is still its own

    def _end_all(self) -> None:
        """After a failure at the start; SIGKILL for whoever takes long."""
        if not self._draining:
            self._drain(START_OVER)
        while self._turn():
            pass

    # -- workers

    def _fork(self, place: Place) -> None:
        try:
            fork(place, lambda line: self._live(place, line))
        except OSError as error:  # no process to be had, or no descriptor
            if not self._announced:
                raise StreamCacheError(f"cannot start a worker: {error.strerror}") from error
            place.wait()
            form = "not started worker=%s again_in=%g error=%s"
            log.error(form, place.name, place.delay, error.strerror)

    def _live(self, place: Place, line: Line) -> int:
        """The life of the worker that was born here, in its own process; its exit code."""
        self._main.forked()
        self._woken.close()
        self._waker.close()
        for other in self._places:
            if other.line is not None:
                other.line.close()  # else nobody would read the end of those
        settings = self._share
        logs.configure(settings.config.log, role=place.name)
        logs.name_process(f"streamcache {place.name}")
        return worker.main(
            settings,
            self._parts,
            self._main.listener.socket,
            self._board.slot(place.index),
            line,
            self._main.admin,
        )

    @property
    def _share(self) -> Settings:
        """The settings of each worker."""
        settings = self._main.settings
        return replace(settings, config=share_of(settings.config, len(self._places)))

    def _listen(self, place: Place) -> None:
        """Take what a worker says until it accepts, and the end of its line."""
        if place.line is None:
            return
        for message in place.line.hear():
            if "error" in message:
                place.problem, place.code = message["error"], message["code"]
                continue
            if "wish" in message:
                self._wished(place)
                continue
            if "reloaded" in message:
                if message["number"] == place.reloading:
                    place.reloading = 0
                if message["problem"]:
                    log.error("not reloaded worker=%s error=%s", place.name, message["problem"])
                continue
            place.accepts = True
            log.info("started worker=%s pid=%d", place.name, place.pid)
            if not self._announced and place.index == 0:
                self._main.found_size(message["size"])
                if not self._draining:
                    for other in self._places[1:]:
                        other.due = 0.0
        if place.line.ended:
            place.line.close()
            place.line = None

    def _reap(self, place: Place) -> None:
        if not place.pid:
            return
        pid, status = os.waitpid(place.pid, os.WNOHANG)
        if not pid:
            return
        self._listen(place)  # its last words
        code = os.waitstatus_to_exitcode(status)
        how, value = ("signal", _signal_name(-code)) if code < 0 else ("code", code)
        lived = place.vacate()
        self._board.slot(place.index).vacate()
        if self._draining:
            self._failed |= code != 0
            level = logging.ERROR if code else logging.INFO
            log.log(level, f"ended worker=%s pid=%d {how}=%s", place.name, pid, value)
            return
        if not self._announced:
            if place.problem:
                kind = ConfigError if place.code == 2 else StreamCacheError
                raise kind(place.problem)
            raise StreamCacheError(f"worker {place.name} died at its start ({how}={value})")
        place.wait(lived=lived)
        form = f"died worker=%s pid=%d {how}=%s lived=%.1f again_in=%g"
        problem = (place.problem,) if place.problem else ()
        form += " problem=%r" * len(problem)
        log.error(form, place.name, pid, value, lived, place.delay, *problem)
        self._board.totals().say(log)


def _nothing(_number: int, _frame: object) -> None:
    """Python writes a signal to the wakeup descriptor only if it has a handler."""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)  # real-time signals have no names
