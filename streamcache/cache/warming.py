"""Warm jobs: files are brought into the cache before anybody asks for them.

Greenlets of a job, all in the hub's thread: one walks the source (in the meta pool, a bounded piece
at a time), ``at_once`` copy, and one measures. A copy is a session like any other, without a
reader: whoever wants bytes from the source goes before it, and who asks for its file joins it.

A job makes room like any miss does, so what is worth least goes. It never brings more than what was
free when it began and a tenth of the cache: with S3-FIFO that is what new files may take from
each other before those that people came back to are touched, and beyond it a job would push out
what it brought itself. What it pins stays, so then only what may be pinned at all bounds it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import gevent
from gevent.event import Event
from gevent.queue import Queue

from streamcache.cache.names import key_of
from streamcache.cache.pace import Pace
from streamcache.cache.resources import Resources
from streamcache.cache.space import footprint
from streamcache.cache.warmorder import WarmFailure, WarmOrder, WarmState, WarmStatus
from streamcache.errors import CacheError, StreamCacheError
from streamcache.source.walk import Walked

if TYPE_CHECKING:
    from streamcache.cache.provider import Provider
    from streamcache.cache.session import CopySession

_MOST_FAILED: Final = 1000  # that are remembered by name
_AHEAD: Final = 100_000  # files that the walk may be before the copies
_SHARE: Final = 0.1  # of the cache, see above
_MEASURE: Final = 0.5  # s between two looks at the rate
_SMOOTH: Final = 5.0  # s that the rate is averaged over
_PAUSE: Final = 0.5  # s between looks whether files can be copied again

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Tally:
    files: int = 0
    files_done: int = 0
    bytes: int = 0
    bytes_done: int = 0
    bytes_brought: int = 0  # that were not there before, on disk
    left_out: int = 0
    failures: int = 0
    failed: list[WarmFailure] = field(default_factory=list)


class WarmJob:
    """A job that runs, or has ended. Made by ``Operations.warm``."""

    def __init__(
        self,
        id: str,
        order: WarmOrder,
        *,
        resources: Resources,
        provider: Provider,
        pin: Callable[[str], object],
        why_no_copies: Callable[[], str],
    ) -> None:
        """``pin(path)`` pins one that is there; it may switch, raise StreamCacheError, OSError.

        ``why_no_copies``: see ``Operations``.
        """
        self.id = id
        self.order = order
        self.state: WarmState = "running"
        self._r = resources
        self._provider = provider
        self._pin = pin
        self._why_no_copies = why_no_copies
        self._tally = _Tally()
        self._walked = False
        self._pace = Pace(order.max_bandwidth)
        self._copying: dict[CopySession, int] = {}  # our copies -> bytes that were present before
        self._copied = 0  # bytes by copies that are over
        self._rate = 0.0
        self._walks = str(order)  # what it looks for: a file, or all that is meant
        self._pieces = 0  # of the walk
        self._still = 0.0  # s since anything moved
        self._stopped = False  # its copies end with it, if nobody reads them
        self._budget = 0.0  # bytes on disk that it may bring
        self._started = time.time()
        self._ended: float | None = None
        self.over = Event()
        self._greenlet = gevent.spawn(self._run)

    def __repr__(self) -> str:
        tally = self._tally
        return f"<WarmJob {self.id} {self.state} {tally.files_done}/{tally.files} {self.order}>"

    @property
    def status(self) -> WarmStatus:
        """How far it is. Does not switch."""
        tally = self._tally
        done = tally.bytes_done + sum(session.map.present_bytes for session in self._copying)
        remaining = None
        if self.state == "running" and self._walked and self._rate > 0:
            remaining = max(0, tally.bytes - done) / self._rate
        return WarmStatus(
            id=self.id,
            state=self.state,
            what=str(self.order),
            dry_run=self.order.dry_run,
            files=tally.files,
            files_done=tally.files_done,
            bytes=tally.bytes,
            bytes_done=done,
            waiting=self._waiting,
            rate=self._rate if self.state == "running" else 0.0,
            remaining=remaining,
            walked=self._walked,
            left_out=tally.left_out,
            failures=tally.failures,
            failed=tuple(tally.failed),
            started=self._started,
            ended=self._ended,
        )

    @property
    def _waiting(self) -> str:
        if self.state != "running":
            return ""
        if why := self._why_no_copies():
            return why
        if self._still <= self._r.config.source.timeout:
            return ""
        return f"nothing has come from the source for {self._still:.0f} s"

    def cancel(self) -> None:
        """End it: copies that nobody reads stop, and what they have stays. Idempotent. Switches."""
        if self.state == "running":
            self.state, self._stopped = "cancelled", True
            self._greenlet.kill()

    # -- the job

    def _run(self) -> None:
        """Greenlet: from the walk's beginning to the last copy's end."""
        files: Queue[Walked | None] = Queue(maxsize=_AHEAD)
        parts = [gevent.spawn(self._copy_each, files) for _ in range(self.order.at_once)]
        measuring = gevent.spawn(self._measure)
        form = "warm job begun job=%s files=%r dry_run=%s"
        log.info(form, self.id, str(self.order), self.order.dry_run)
        try:
            self._await_all()
            self._budget = float("inf") if self.order.pin else self._room()
            self._walk(files)
            gevent.joinall(parts, raise_error=True)
            self.state = "full" if self._tally.left_out else "done"
        except StreamCacheError as error:  # of the walk: its folder
            self._failed(str(self.order), error)
            self.state = "failed"
        except Exception:
            log.exception("warm job broke job=%s", self.id)
            self.state = "failed"
        finally:
            measuring.kill(block=False)
            gevent.killall(parts, block=False)
            self._pace.close()
            for session in list(self._copying):
                self._tally.bytes_done += session.map.present_bytes  # what it has stays
                self._let_go(session, stop=self._stopped)
            self._ended = time.time()
            self.over.set()
            tally = self._tally
            log.info(
                "warm job ended job=%s state=%s files=%d of=%d failed=%d left_out=%d",
                self.id,
                self.state,
                tally.files_done,
                tally.files,
                tally.failures,
                tally.left_out,
            )

    def _room(self) -> float:
        """What is free, and what new files take from each other."""
        space = self._r.space
        return max(0, space.high_mark - space.used) + int(_SHARE * space.limit)

    def _walk(self, files: Queue[Walked | None]) -> None:
        for found in self._found():
            if found.error:
                self._failed(found.path, found.error)
                continue
            self._tally.files += 1
            self._tally.bytes += found.size
            files.put(found)
        self._walked = True
        for _ in range(self.order.at_once):
            files.put(None)

    def _found(self) -> Iterator[Walked]:
        """The files that are meant. Switches."""
        selection, meta, source = self.order.selection, self._r.meta, self._r.source
        paths = self.order.paths if selection is None else (selection.path or "",)
        if selection is None or selection.path is not None:
            for path in dict.fromkeys(path.removeprefix("/") for path in paths):
                self._await_all()
                self._walks = path
                try:
                    yield Walked(path, meta.call(source.stat, path).size)
                except StreamCacheError as error:
                    yield Walked(path, 0, _text(error))
            return
        begin, most = selection.literal, selection.deepest

        def may_hold(folder: str) -> bool:
            return folder.startswith(begin) and (most is None or folder.count("/") < most)

        walk = source.walk(selection.folder, is_meant=selection.matches, may_hold=may_hold)
        try:
            while (piece := meta.call(next, walk, None)) is not None:
                self._pieces += 1
                yield from piece
        finally:
            meta.post(_close, walk)

    def _await_all(self) -> None:
        """Fail nothing while source or cache do not answer, or usage is not known. Switches."""
        while self._why_no_copies():
            gevent.sleep(_PAUSE)

    def _copy_each(self, files: Queue[Walked | None]) -> None:
        """Greenlet: one file after the other."""
        while (found := files.get()) is not None:
            while not self._try(found):
                self._await_all()

    def _try(self, found: Walked) -> bool:
        """False: source or cache have gone meanwhile: that says nothing of the file. Switches."""
        try:
            if not self._has_room_for(found):
                return True
            if not self.order.dry_run:
                self._warm(found)
            elif self._provider.has(found.path):
                self._done(found)
            else:
                self._tally.bytes_brought += footprint(found.size)
        except (StreamCacheError, OSError) as error:  # of the disk, when it is pinned
            if self._why_no_copies():
                return False
            self._failed(found.path, error)
        return True

    def _has_room_for(self, found: Walked) -> bool:
        refusal = self._r.space.refusal(found.size)
        if not refusal and self._tally.bytes_brought + footprint(found.size) <= self._budget:
            return True
        if self._provider.has(found.path):
            return True
        if refusal:
            raise CacheError(refusal)
        self._tally.left_out += 1
        return False

    def _warm(self, found: Walked) -> None:
        session = self._provider.copy(found.path)
        if session is not None:
            self._finish(session)
        if self.order.pin:
            self._pin(found.path)
        self._done(found)

    def _done(self, found: Walked) -> None:
        self._tally.files_done += 1
        self._tally.bytes_done += found.size

    def _finish(self, session: CopySession) -> None:
        """See to it that it gets to its end. Switches. Raises why it did not."""
        over = self._provider.copies.fills.keep(session)
        session.pace = self._pace
        if session not in self._copying:
            self._copying[session] = session.map.present_bytes
        taken = footprint(session.version.size)
        self._tally.bytes_brought += taken  # from now on: others look at what is left
        try:
            over.wait()
            if session.handle is not None:
                self._await_entry(session.name)
                return
            self._tally.bytes_brought -= taken
            raise session.failure or StreamCacheError(
                "there is no room, or it changed or was purged meanwhile"
            )
        finally:
            self._let_go(session)

    def _await_entry(self, name: str) -> None:
        """Who published it holds the key until the catalog knows it. Switches."""
        with suppress(CacheError), self._r.keys.acquire(key_of(name)):
            pass

    def _let_go(self, session: CopySession, *, stop: bool = False) -> None:
        before = self._copying.pop(session, None)
        if before is None:
            return
        self._copied += _brought(session, before)
        if session.pace is self._pace:  # else another job has it, too
            session.pace = Pace(0)
        self._provider.copies.fills.release(session, stop=stop)

    def _measure(self) -> None:
        """Greenlet: the rate, as an average that forgets; and whether anything moves at all."""
        last, copied = time.monotonic(), 0
        before, said = self._place(), ""
        while True:
            gevent.sleep(_MEASURE)
            running = sum(_brought(session, before) for session, before in self._copying.items())
            now, total = time.monotonic(), self._copied + running
            weight = min(1.0, (now - last) / _SMOOTH) if self._rate else 1.0
            self._rate += weight * (max(0, total - copied) / (now - last) - self._rate)
            # Of a pause of the whole process no more than two looks count.
            self._still += min(now - last, 2 * _MEASURE)
            last, copied = now, total
            if (place := self._place()) != before:
                before, self._still = place, 0.0
            if (why := self._waiting) and not said:
                log.warning("warm job waits job=%s reason=%r", self.id, why)
            said = why
            if 0 < self.order.timeout <= self._still:
                self._give_up()

    def _place(self) -> tuple[object, ...]:
        """What is another one as soon as the job has moved on."""
        tally = self._tally
        counts = (self._pieces, tally.files, tally.files_done, tally.left_out, tally.failures)
        there = sum(session.map.present_bytes for session in self._copying)
        return (*counts, tally.bytes_brought, self._copied, there)

    def _give_up(self) -> None:
        """Its timeout is over. Does not switch."""
        text = f"given up, as nothing has come for {self.order.timeout:g} s"
        why = self._why_no_copies()
        for path in [session.path for session in self._copying] or [self._walks]:
            self._failed(path, f"{text}: {why}" if why else text)
        self.state, self._stopped = "failed", True
        self._greenlet.kill(block=False)

    def _failed(self, path: str, error: object) -> None:
        self._tally.failures += 1
        text = error if isinstance(error, str) else _text(error)
        where = path if path.startswith("/") else "/" + path
        log.info("not warmed job=%s path=%r error=%s", self.id, where, text)
        if len(self._tally.failed) < _MOST_FAILED:
            self._tally.failed.append(WarmFailure(where, text))


def _brought(session: CopySession, before: int) -> int:
    """Bytes that came since it had ``before``, and not with the partial that it goes on with."""
    return session.map.present_bytes - max(before, session.resumed)


def _text(error: object) -> str:
    """Without the errno and the path that an OSError shows."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _close(walk: Iterator[list[Walked]]) -> None:
    """Worker thread: what the walk has open."""
    close = getattr(walk, "close", None)
    if close is not None:
        close()
