"""A cache over a directory, whose bytes become ready when the test says so."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import gevent
from gevent.event import Event

from streamcache.cache.delegate import CacheStatus
from streamcache.cache.objects import ObjectHandle
from streamcache.cache.reading import Ready
from streamcache.config import Config
from streamcache.errors import Closed, NotFound
from streamcache.source.base import Version
from streamcache.stats import Counters


class Gate:
    """How many bytes of a file are there; shut, a reader waits beyond them."""

    def __init__(self, available: int) -> None:
        self.available = available
        self.error: Exception | None = None
        self.waiting = Event()  # set while a reader waits
        self._changed = Event()

    def release(self, available: int) -> None:
        """Bytes [0, available) are there now."""
        self.available = available
        self._wake()

    def fail(self, error: Exception) -> None:
        """Readers that would wait get this instead."""
        self.error = error
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()

    def wait(self, offset: int) -> int:
        """Switch until the byte at ``offset`` is there; the end of what is there."""
        while self.available <= offset:
            if self.error is not None:
                raise self.error
            self.waiting.set()
            try:
                self._changed.wait()
            finally:
                self.waiting.clear()
        return self.available


class FakeDelegate:
    def __init__(self, cache: FakeCache, path: str, status: CacheStatus) -> None:
        found = os.stat(cache.file(path))
        self.version = Version.of(found)
        self.size = found.st_size
        self.status = status
        self.path = path
        self.delivered = self.from_cache = self.from_source = 0
        self.closed = Event()
        self._cache = cache
        self._fd = os.open(cache.file(path), os.O_RDONLY | os.O_CLOEXEC)

    def ready(self, offset: int, stop: int) -> Ready:
        gate, fetched = self._cache.gates.get(self.path), 0
        if gate is not None:
            fetched = max(0, stop - gate.available) if gate.available <= offset else 0
            stop = min(stop, gate.wait(offset))
        if self._fd < 0:
            raise Closed("delegate")
        stop = min(stop, offset + self._cache.step)
        if self._cache.in_memory:
            data = memoryview(os.pread(self._fd, stop - offset, offset))
            return Ready(-1, 0, len(data), data, fetched=len(data))
        return Ready(self._fd, offset, stop - offset, fetched=min(fetched, stop - offset))

    def sent(self, ready: Ready, count: int) -> None:
        self.delivered += count
        fetched = min(count, ready.fetched)
        self.from_source += fetched
        self.from_cache += count - fetched

    def failed(self, error: Exception) -> None:
        raise error

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self.closed.set()


class FakeFound:
    def __init__(self, cache: FakeCache, path: str, found: os.stat_result) -> None:
        self.version = Version.of(found)
        self.size = found.st_size
        self.mtime_ns = found.st_mtime_ns
        self.status = cache.status
        self.closed = False
        self._cache = cache
        self._path = path

    def open(self, client: str = "") -> FakeDelegate:
        if self._cache.open_error is not None:
            raise self._cache.open_error
        delegate = FakeDelegate(self._cache, self._path, self.status)
        self._cache.clients.append(client)
        self._cache.delegates.append(delegate)
        return delegate

    def keep(self, client: str = "") -> bool:
        self._cache.kept.append((self._path, client))
        return True

    def __enter__(self) -> FakeFound:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True


class FakeCache:
    """Files of ``root``; ``gates`` by path, ``step``: most bytes of one Ready."""

    def __init__(self, root: Path, config: Config | None = None) -> None:
        self.root = root
        self.config = config or Config()
        self.counters = Counters()
        self.status = CacheStatus.HIT
        self.in_memory = False
        self.step = 1 << 30
        self.gates: dict[str, Gate] = {}
        self.find_error: Exception | None = None
        self.open_error: Exception | None = None
        self.find_gate: Gate | None = None
        self.founds: list[FakeFound] = []
        self.delegates: list[FakeDelegate] = []
        self.clients: list[str] = []
        self.kept: list[tuple[str, str]] = []  # empty files, and who asked for them
        self.prefetched: list[tuple[int, int]] = []
        self.prefetch_error: Exception | None = None
        self.missing: set[int] = set()  # windows that who reads ahead finds not to be there
        self._hot: dict[str, ObjectHandle] = {}

    def file(self, path: str) -> str:
        return os.fsdecode(os.fsencode(str(self.root)) + os.fsencode(path))

    def gate(self, path: str, available: int = 0) -> Gate:
        """Shut the file behind its first bytes."""
        return self.gates.setdefault(path, Gate(available))

    def find(self, path: str, *, ahead: int | None = None) -> FakeFound:
        if self.find_gate is not None:
            self.find_gate.wait(0)
        if self.find_error is not None:
            raise self.find_error
        try:
            found = os.stat(self.file(path))
        except (OSError, ValueError):
            raise NotFound(errno.ENOENT, "no such file", path) from None
        if not stat.S_ISREG(found.st_mode):
            raise NotFound(errno.ENOENT, "no regular file", path)
        self.founds.append(FakeFound(self, path, found))
        return self.founds[-1]

    # -- the fast path's side: everything is hot, unless the test has made it otherwise

    def peek(self, path: str, last: ObjectHandle | None = None) -> ObjectHandle | None:
        odd = self.find_error or self.open_error or self.find_gate or self.in_memory
        if odd or path in self.gates or self.status is not CacheStatus.HIT or self.step < 1 << 30:
            return None
        try:
            version = Version.of(os.stat(self.file(path)))
        except (OSError, ValueError):
            return None
        known = self._hot.get(path)
        if known is None or known.version != version:
            if known is not None:
                os.close(known.fd)
            fd = os.open(self.file(path), os.O_RDONLY | os.O_CLOEXEC)
            self._hot[path] = ObjectHandle(path, version, fd)
        return self._hot[path]

    def delivered(self, hot: ObjectHandle, client: str, count: int, now: float) -> None:
        delegate = self.take(hot, client, hot.name)
        delegate.delivered = count
        delegate.close()
        self.counters.quick_hits += 1
        self.counters.quick_bytes += count

    def take(self, hot: ObjectHandle, client: str, path: str) -> FakeDelegate:
        self.clients.append(client)
        self.delegates.append(FakeDelegate(self, hot.name, CacheStatus.HIT))
        return self.delegates[-1]

    def prefetch(self, fd: int, offset: int, count: int) -> bool:
        self.prefetched.append((offset, count))
        gevent.sleep(0)
        if self.prefetch_error is not None:
            raise self.prefetch_error
        os.pread(fd, count, offset)
        return offset not in self.missing

    def close(self) -> None:
        for handle in self._hot.values():
            os.close(handle.fd)
        self._hot.clear()
