"""The looks at the cache's disk go on, whatever they meet."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcache.cache import health as health_module
from streamcache.cache.health import Health
from streamcache.cache.store import Renewed, Store
from streamcache.cache.workers import WorkerPool
from tests.server.client import eventually

BROKEN = OSError(errno.EIO, "Input/output error")


class GatedStore(Store):
    """Its probes wait at a gate."""

    gate = threading.Event()
    gated = 100  # how many of the next ones wait

    def probe(self) -> Renewed:
        self.gated -= 1
        assert self.gated < 0 or self.gate.wait(20)
        return super().probe()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GatedStore]:
    made = GatedStore(str(tmp_path / "cache"))
    made.gate.set()
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def disk() -> Iterator[WorkerPool]:
    pool = WorkerPool("disk", size=2)
    yield pool
    pool.close()
    assert pool.join(20)


def end(health: Health) -> None:
    prober = health.stop()
    assert prober is not None and prober.join(20)


def test_a_fault_of_ours_ends_no_look(store: GatedStore, disk: WorkerPool) -> None:
    health = Health(store, disk)
    told: list[int] = []

    def broken() -> None:
        told.append(health.failures)
        raise ValueError

    health.on_recovery.append(broken)
    health.start()
    for failures in (1, 2):
        health.failed(BROKEN)
        assert health.degraded and health.failures == failures
        eventually(lambda: not health.degraded)
    eventually(lambda: told == [1, 2])
    end(health)


def test_what_a_probe_opens_when_nobody_waits_any_more_is_closed(
    store: GatedStore, disk: WorkerPool
) -> None:
    health = Health(store, disk)
    health.start()
    store.gate.clear()
    health.failed(BROKEN)
    assert health._prober is not None
    eventually(lambda: health._prober and health._prober.pending)
    shutil.rmtree(store.root)
    prober = health.stop()
    store.gate.set()
    assert prober is not None and prober.join(20)
    lock = os.path.join(store.root, "lock")
    eventually(lambda: not _is_open(lock))  # the one that was removed is another file


def test_a_probe_that_never_returns_does_not_keep_it_degraded(
    store: GatedStore, disk: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs in what was there before, and what is there now is well."""
    monkeypatch.setattr(health_module, "_PROBE_TIME", 0.02)
    health = Health(store, disk)
    health.start()
    store.gate.clear()
    store.gated = 1
    health.failed(BROKEN)
    eventually(lambda: not health.degraded)
    eventually(lambda: health._prober and health._prober.pending == 1)
    store.gate.set()
    end(health)


def _is_open(path: str) -> bool:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # that of the folder itself
            continue
    return path in links
