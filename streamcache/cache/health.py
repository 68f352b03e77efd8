"""The state of the cache's disk: normal, or degraded, when nothing is written to it but a probe.

Evidence is what befalls our own calls: an error of the disk's when something is written, opened
for writing or synced, also in the catalog; a pool none of whose calls comes back; a cache directory
that is not what it was. While it is degraded what can be read is served, misses bypass the cache,
copies under way keep nothing, and nothing is dropped that is sound. A probe writes, syncs and
removes a file, and makes folders that somebody removed; when it works the disk is normal again.

That the disk is full of what others wrote is met first by taking less (``headroom.py``), and is
evidence only if it happens again at once.

Greenlets: one, which looks each second and probes. Hub's thread; the looks run in the disk pool,
the probe in a pool of its own, as the threads of the other may all hang.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import gevent
from gevent.event import Event

from streamcache.cache.database import (
    CatalogCorrupt,
    CatalogError,
    CatalogLate,
    CatalogReplaced,
)
from streamcache.cache.headroom import Headroom
from streamcache.cache.probepool import ProbePool
from streamcache.cache.store import Renewed, Store
from streamcache.cache.workers import WorkerPool
from streamcache.errors import CacheError, Closed, SourceBusy, SourceError, StreamCacheError

PATIENCE: Final = 1.0  # s that a request waits for the disk before it goes without (I15)
SILENT: Final = 5.0  # s without an answer from any call: no fsync of a disk that is well takes that
_LOOK: Final = 1.0  # s between looks
_AGAIN: Final = 0.1  # s until a silence is believed: this process may have been stopped
_PROBE_TIME: Final = 30.0  # s until a probe is given up
_FIRST: Final = 0.5  # s until the first probe, then twice that
_LONGEST: Final = 16.0  # s between probes
_STEADY: Final = 10.0  # s that it must have been well for the first interval to hold again
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FULL_AGAIN: Final = 10.0  # s after room was made: full within them, making room does not help
_MAKING_ROOM: Final = 1.0  # s that it takes until room can be seen

# Our own limits, and waits, say nothing of the disk; one file that is missing may have been taken.
_NEUTRAL: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ENOENT}
)

T = TypeVar("T")


def tells_of_damage(error: Exception) -> bool:
    """Whether a file that was read with this error is not what it should be.

    A limit of ours (descriptors, memory, a full queue) and a wait that was too long say nothing.
    """
    if not isinstance(error, OSError):
        return True
    return not isinstance(error, StreamCacheError | TimeoutError) and error.errno not in _NEUTRAL


log = logging.getLogger(__name__)


class Health:
    """Whether the cache's disk can be written to."""

    def __init__(
        self,
        store: Store,
        disk: WorkerPool,
        *,
        headroom: Headroom | None = None,
        catalog: WorkerPool | None = None,
        probe: Callable[[], object] | None = None,
        renewed: Callable[[Renewed], object] | None = None,
    ) -> None:
        """``probe()`` asks the catalog, switches and raises as ``Ledger.probe`` does; the files
        are probed here. ``catalog`` is the pool whose silence counts besides. ``renewed`` hears
        of what was made again.
        """
        self.degraded = False
        self.reason = ""  # why it is, in words
        self.failures = 0  # how often it was
        self.on_recovery: list[Callable[[], object]] = []  # may not switch
        self._store = store
        self._pools = (disk,) if catalog is None else (disk, catalog)
        self._disk = disk
        self._headroom = headroom
        self._probe_catalog = probe
        self._renewed = renewed
        self._prober: ProbePool | None = None
        self._hangs = False  # it is degraded because calls do not come back
        self._since = 0.0
        self._recovered = -math.inf
        self._interval = _FIRST
        self._full_at = -math.inf  # when room was made last
        self._wake = Event()
        self._greenlet: gevent.Greenlet[..., Any] | None = None

    def __repr__(self) -> str:
        return f"<Health {f'degraded: {self.reason}' if self.degraded else 'normal'}>"

    def start(self) -> None:
        """Look from now on."""
        self._prober = ProbePool("disk probe")
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> WorkerPool | None:
        """No more; the probe's pool, which is closed, to be waited for. Does not switch."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        if self._prober is not None:
            self._prober.close()
        return self._prober

    def call(
        self,
        function: Callable[..., T],
        *args: Any,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Run in the disk pool for a request, which can do without. Switches.

        TimeoutError after ``PATIENCE`` s, at once when no thread is left to ask with or the disk is
        known to hang. Raises what it raises.
        """
        if self._hangs or self._disk.stuck(PATIENCE) >= self._disk.size:
            raise TimeoutError("the disk of the cache does not answer")
        return self._disk.call(function, *args, timeout=PATIENCE, discard=discard)

    def stuck(self) -> int:
        """Threads whose call to the disk should have come back."""
        pools = (*self._pools, *(() if self._prober is None else (self._prober,)))
        return sum(pool.stuck(SILENT) for pool in pools)

    # -- evidence

    def failed(self, error: BaseException) -> None:
        """A call that wrote, or was about to, ended so. Does not switch."""
        if isinstance(error, CatalogError):
            # Those are mended; of one that is late ``silent`` tells.
            if not isinstance(error, CatalogCorrupt | CatalogReplaced | CatalogLate):
                self._degrade(str(error))
            return
        if not isinstance(error, OSError) or isinstance(error, StreamCacheError):
            return
        if error.errno in _FULL and self._headroom is not None:
            self._full(error)
        elif error.errno == errno.ENOENT:
            self._wake.set()  # the folder, perhaps
        elif error.errno not in _NEUTRAL:
            self._degrade(error.strerror or str(error))

    def _full(self, error: OSError) -> None:
        assert self._headroom is not None
        now = time.monotonic()
        since = now - self._full_at
        if since > _FULL_AGAIN:
            self._full_at = now
            self._headroom.squeeze(error.errno or errno.ENOSPC)
        elif since > _MAKING_ROOM:
            self._degrade(error.strerror or str(error))

    def _degrade(self, reason: str, *, hangs: bool = False) -> None:
        self._hangs = self._hangs or hangs
        if self.degraded:
            return
        now = time.monotonic()
        steady = now - self._recovered > _STEADY
        self._interval = _FIRST if steady else min(_LONGEST, 2 * self._interval)
        self.degraded, self.reason, self._since = True, reason, now
        self.failures += 1
        log.error(
            "cache disk failed, nothing new is cached dir=%r reason=%s", self._store.root, reason
        )
        self._wake.set()

    # -- the greenlet

    def _run(self) -> None:
        """Greenlet: look each second; while it is degraded, probe."""
        while True:
            try:
                if self.degraded:
                    gevent.sleep(self._interval)
                    self._try_again()
                else:
                    self._wake.wait(_LOOK)
                    self._wake.clear()
                    if not self.degraded:
                        self._look()
            except Closed:
                return
            except Exception:  # a fault of ours, or of memory: without looks it would stay so
                log.exception("look at the cache disk broke")

    def _look(self) -> None:
        if any(pool.silent(SILENT) for pool in self._pools):
            gevent.sleep(_AGAIN)
            if any(pool.silent(SILENT) for pool in self._pools):
                self._degrade(f"no answer for {SILENT:g} s", hangs=True)
            return
        try:
            self.call(self._store.look)
        except (TimeoutError, SourceBusy):
            return  # silence tells more
        except (CacheError, OSError) as error:
            self._degrade(str(error))
            return
        if self._headroom is not None:
            self._headroom.look()

    def _try_again(self) -> None:
        """The probe. Switches."""
        assert self._prober is not None
        try:
            renewed = self._prober.run(self._store.probe, timeout=_PROBE_TIME, discard=_close_lock)
            if self._renewed is not None:
                self._renewed(renewed)
            if self._probe_catalog is not None:
                self._probe_catalog()
        except (CatalogCorrupt, CatalogReplaced):
            pass  # it is being mended, and until then nothing is cached
        except (CacheError, OSError, SourceError) as error:
            log.debug("cache disk probe failed error=%s", error)
            self.reason = self.reason if self._hangs else _words(error)
            self._interval = min(_LONGEST, 2 * self._interval)
            return
        if any(pool.stuck(PATIENCE) >= pool.size for pool in self._pools):
            return  # no thread is left to ask with
        self._recover()

    def _recover(self) -> None:
        now = time.monotonic()
        form = "cache disk works again dir=%r after=%.1f"
        log.warning(form, self._store.root, now - self._since)
        self.degraded, self.reason, self._hangs, self._recovered = False, "", False, now
        for pool in self._pools:
            pool.answered = now  # what hangs still tells of its file
        for function in self.on_recovery:
            function()


def _close_lock(renewed: Renewed) -> None:
    """Worker thread: nobody is there to take it."""
    if renewed.lock >= 0:
        os.close(renewed.lock)


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
