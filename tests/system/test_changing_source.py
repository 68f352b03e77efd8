"""Files that are replaced, cut, appended to and rewritten at random moments while they are read.

No answer ever holds bytes of two versions, every whole answer is a version that there was, and a
new version is served within ``revalidate``. STREAMCACHE_STORM_SECONDS makes it longer.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import gevent
import pytest

from streamcache import CacheStatus, StreamCache
from streamcache.config.source import Identity
from streamcache.errors import NotFound, SourceChanged, SourceError
from streamcache.source.base import Version
from tests.content import SETTLED, content, verify, write
from tests.server.client import Client
from tests.slowfs import SlowFS
from tests.system.conftest import OpenCache
from tests.system.holding import holding
from tests.system.site import (
    MiB,
    eventually,
    objects_in,
    opened,
    read,
    settle,
    take,
    tidy,
)

SECONDS = float(os.environ.get("STREAMCACHE_STORM_SECONDS", "12"))
NAMES = [f"film{number}" for number in range(6)]
SIZES = [100_000, 300_000, MiB, 3 * MiB]
READERS = 20
REVALIDATE = 0.3  # s
SLACK = 1.5  # s: the machine is busy
SLOWEST = 15.0  # s of one request
LEAST = 200  # whole answers
PATIENCE = 30.0  # s more for what makes a storm


class Versions:
    """What the files at the source were, and until when."""

    def __init__(self, backing: Path, identity: Identity, seed: int) -> None:
        self.contents: dict[str, tuple[str, int]] = {}  # by version: content, size
        self.until: dict[str, float] = {}  # by version: when it was over, monotonic s
        self.done: Counter[str] = Counter()
        self.history: dict[str, list[str]] = {}
        self._backing = backing
        self.identity: Identity = identity
        self._random = Random(seed)
        self._number = 0
        self._now: dict[str, tuple[str, str, int]] = {}  # by name: version, content, size
        # By name: the smallest size of this inode. What is rewritten stays within it, or to who
        # had that version open it would look like an append (docs/architecture.md).
        self._floor: dict[str, int] = {}
        self._rewritten: set[str] = set()  # names of inodes that were rewritten in place
        self._unseen: dict[str, bool] = {}  # by name: the last change shows in ctime only
        for name in NAMES:
            self._replace(name)

    def change(self) -> None:
        """One file becomes another version. Does not switch, so nobody sees the table half done."""
        name = self._random.choice(NAMES)
        kinds = [self._replace, self._truncate, self._append, self._rewrite, self._set_back]
        kinds.append(self._write_over)
        if self.identity == "mtime+ctime":
            kinds.append(self._rewrite_unseen)
        kind = self._random.choice(kinds)
        if self._unseen.pop(name, False):
            # Renamed over now, its link count would hide that it was rewritten: a known limit.
            kind = self._truncate
        self.done[kind.__name__] += 1
        kind(name)

    def _enter(self, name: str, text: str, size: int) -> None:
        stat = os.stat(self._backing / name)
        assert stat.st_size == size
        version = Version.of(stat, self.identity).id
        old = self._now.get(name)
        if old is not None:
            assert version != old[0]
            self.until[old[0]] = time.monotonic()
        self._now[name] = (version, text, size)
        kind = sys._getframe(1).f_code.co_name
        self.history.setdefault(name, []).append(f"{kind} {text} {size} inode={stat.st_ino}")
        self.contents[version] = (text, size)

    def _text(self, name: str) -> str:
        self._number += 1
        return f"{name}-{self._number}"

    def _replace(self, name: str) -> None:
        text, size = self._text(name), self._random.choice(SIZES)
        self._floor[name] = size
        self._rewritten.discard(name)
        write(self._backing, name, size, content_name=text, age=SETTLED - self._number)
        self._enter(name, text, size)

    def _set_back(self, name: str) -> None:
        """By an older file (``cp -p`` of a backup)."""
        text, size = self._text(name), self._now[name][2]
        self._floor[name] = size
        self._rewritten.discard(name)
        write(self._backing, name, size, content_name=text, age=2 * SETTLED + self._number)
        self._enter(name, text, size)

    def _truncate(self, name: str) -> None:
        _, text, size = self._now[name]
        self._floor[name] = min(self._floor[name], size // 2)
        os.truncate(self._backing / name, size // 2)
        self._settle(name)
        self._enter(name, text, size // 2)

    def _append(self, name: str) -> None:
        if name in self._rewritten:  # together, between two looks, an append by all we can know
            self._replace(name)
            return
        _, text, size = self._now[name]
        with open(self._backing / name, "ab") as file:
            file.write(content(text, size, size + 70_000))
        self._settle(name)
        self._enter(name, text, size + 70_000)

    def _rewrite(self, name: str) -> None:
        text, size = self._text(name), self._floor[name]
        self._rewritten.add(name)
        with open(self._backing / name, "r+b") as file:
            file.write(content(text, 0, size))
            file.truncate()
        self._settle(name)
        self._enter(name, text, size)

    def _write_over(self, name: str) -> None:
        """In place, from an empty file on (``cp`` over it)."""
        text, size = self._text(name), self._floor[name] // self._random.choice([1, 2, 3])
        self._floor[name] = size
        self._rewritten.add(name)
        with open(self._backing / name, "wb", buffering=0) as file:
            for offset in range(0, size, 100_000):
                file.write(content(text, offset, min(size, offset + 100_000)))
        self._settle(name)
        self._enter(name, text, size)

    def _rewrite_unseen(self, name: str) -> None:
        """In place, with the same size and its old time: only ctime tells."""
        before = os.stat(self._backing / name)
        text, size = self._text(name), self._now[name][2]
        if size > self._floor[name]:
            self._replace(name)
            return
        self._rewritten.add(name)
        with open(self._backing / name, "r+b") as file:
            file.write(content(text, 0, size))
        os.utime(self._backing / name, ns=(before.st_mtime_ns, before.st_mtime_ns))
        self._enter(name, text, size)
        self._unseen[name] = True

    def _settle(self, name: str) -> None:
        changed = time.time() - SETTLED + self._number + self._random.random()
        self._number += 1
        os.utime(self._backing / name, (changed, changed))


class Storm:
    """Those who read."""

    def __init__(self, cache: StreamCache, versions: Versions, seed: int) -> None:
        self.stop = False
        self.whole = 0
        self.halfway = 0  # answers of a file that was being written when it was opened
        self.errors: Counter[str] = Counter()
        self.served: Counter[CacheStatus] = Counter()
        self._cache = cache
        self._versions = versions
        self._random = Random(seed)

    @property
    def raged(self) -> bool:
        """It was a storm: whatever can happen to an answer did."""
        kinds = {CacheStatus.HIT, CacheStatus.MISS, CacheStatus.COLLAPSED}
        return (
            self.whole >= LEAST and self.errors["SourceChanged"] > 0 and kinds <= set(self.served)
        )

    def read(self) -> None:
        """Greenlet."""
        while not self.stop:
            with gevent.Timeout(SLOWEST, AssertionError("a request hangs")):
                try:
                    self._one(self._random.choice(NAMES))
                except (SourceChanged, SourceError) as error:
                    self.errors[type(error).__name__] += 1
            gevent.sleep(self._random.random() * 0.02)

    def _whose(self, name: str, data: bytearray, start: int) -> str:
        """For the message: of which content each piece is, and what the file was of late."""
        texts = sorted({text for text, _ in self._versions.contents.values() if name in text})
        found = []
        for at in range(0, len(data), 65536):
            piece, offset = data[at : at + 65536], start + at
            owners = [text for text in texts if verify(text, offset, piece[:64]) is None]
            found.append((offset, owners[-1] if owners else f"? zeros={not any(piece[:64])}"))
        changed = [found[0], *(b for a, b in itertools.pairwise(found) if a[1] != b[1])]
        return f"{changed} after {self._versions.history[name][-6:]}"

    def _one(self, name: str) -> None:
        asked = time.monotonic()
        with opened(self._cache, name) as delegate:
            version, size, status = delegate.version.id, delegate.size, delegate.status
            start = self._random.randrange(size) if size and self._random.random() < 0.4 else 0
            data = bytearray()
            while start + len(data) < size:
                data += take(delegate, start + len(data), size)
                if self._random.random() < 0.05:
                    gevent.sleep(self._random.random() * 0.1)
        self.served[status] += 1
        known = self._versions.contents.get(version)
        if known is None and status is CacheStatus.BYPASS:
            self.halfway += 1  # the attributes of a moment between a write and its end
            return
        if known is None:
            # Its ctime has moved as it was unlinked between look-up and open; or it was looked at
            # while it was cut off: the system sets size and mtime one after the other.
            texts = {text for text, _ in self._versions.contents.values() if name in text}
            owner = next((text for text in texts if verify(text, start, data) is None), None)
            assert owner is not None, self._whose(name, data, start)
            known = (owner, size)
        text, whole = known
        assert size == whole
        if (wrong := verify(text, start, data)) is not None:
            whose = self._whose(name, data, start)
            raise AssertionError(
                f"{text} of {size} from {start} wrong at {wrong} {status}: {whose}"
            )
        self.whole += 1
        over = self._versions.until.get(version)
        if over is not None and status is not CacheStatus.STALE:
            assert asked - over < REVALIDATE + SLACK, f"{name}: an old version, {status}"


@pytest.mark.parametrize("identity", ["mtime", "mtime+ctime"])
def test_no_answer_mixes_versions_however_the_files_change(
    slowfs: SlowFS, cache_dir: Path, open_cache: OpenCache, identity: Identity
) -> None:
    # Pages that the kernel keeps of an earlier open are not what a server would say.
    slowfs.set(latency=0.002, meta_latency=0.0005, bandwidth=100 * MiB, keep_cache=False)
    versions = Versions(slowfs.backing, identity, seed=7)
    cache = open_cache(
        slowfs.path,
        16 * MiB,
        source_options={
            "revalidate": REVALIDATE,
            "revalidate_wait": 5.0,  # a machine that is busy makes nobody read what is stale
            "timeout": SLOWEST,
            "identity": identity,
        },
        cache={"evict_interval": 0.1},
    )
    storm = Storm(cache, versions, seed=11)
    crowd = [gevent.spawn(storm.read) for _ in range(READERS)]
    end, random = time.monotonic() + SECONDS / 2, Random(3)
    restarts = 0
    # A machine that is busy takes longer to make a storm of it.
    while time.monotonic() < end or (not storm.raged and time.monotonic() < end + PATIENCE):
        gevent.sleep(random.random() * 0.1)
        versions.change()
        if random.random() < 0.05:  # the server restarts: its handles are stale
            restarts += 1
            slowfs.release()
            slowfs.fault("ESTALE", operations=("read",), existing=True)
        gevent.joinall([reader for reader in crowd if reader.ready()], raise_error=True)
    slowfs.release()
    storm.stop = True
    gevent.joinall(crowd, timeout=SLOWEST, raise_error=True)
    assert all(reader.ready() for reader in crowd)
    settle(cache, cache_dir, wait=20.0)
    print(versions.done, storm.served, storm.errors, storm.whole, storm.halfway, restarts)
    for path in (cache_dir / "objects").glob("*/*"):
        text, size = versions.contents[path.name.partition(".")[2]]
        assert path.stat().st_size == size
        assert verify(text, 0, path.read_bytes()) is None, "an object of two versions"
    assert cache.statistics().source_answers
    eventually(lambda: slowfs.counters().open_files == 0)
    assert storm.raged and objects_in(cache_dir)


def test_a_growing_file_is_served_past_the_cache(
    source: Path, open_cache: OpenCache, serve: Callable[[StreamCache], Client]
) -> None:
    """It never looks twice the same, and still each request is answered in full."""
    write(source, "log", MiB)
    cache = open_cache(source)
    client = serve(cache)
    end = threading.Event()
    appended = [0]

    def append() -> None:
        with open(source / "log", "ab", buffering=0) as file:
            while not end.wait(0.02):
                file.write(content("log", file.tell(), file.tell() + 1000))
                appended[0] += 1

    real = cache._parts.source.open

    def slow(*args: Any) -> Any:
        time.sleep(0.015)  # as a network file system: it grows between two looks
        return real(*args)

    writer = threading.Thread(target=append)
    writer.start()
    try:
        eventually(lambda: appended[0])
        with mock.patch.object(cache._parts.source, "open", slow):
            for _ in range(20):
                response = client.ask("/log")
                assert response.status == 200
                assert len(response.body) > MiB
                assert verify("log", 0, response.body) is None
    finally:
        end.set()
        writer.join()
    assert cache.statistics().requests["bypass"] == 20


@pytest.mark.parametrize("stays", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("how", ["replaced", "gone"])
def test_a_version_outdated_while_it_is_published_leaves_no_object(
    source: Path, cache_dir: Path, open_cache: OpenCache, how: str, stays: bool
) -> None:
    """Its reader gets it to the end; nobody after, and it is in no account."""
    write(source, "film", 2 * MiB)
    cache = open_cache(source, source_options={"revalidate": 0.0})
    with holding(cache._parts.store.objects, "publish") as held, contextlib.ExitStack() as stack:
        delegate = stack.enter_context(opened(cache, "film"))
        eventually(lambda: held.entered)
        if not stays:
            stack.pop_all().close()
        if how == "replaced":
            write(source, "film", 2 * MiB + 1, content_name="other", age=500)
            cache.find("/film").close()
        else:
            (source / "film").unlink()
            with pytest.raises(NotFound):
                cache.find("/film")
        held.release()
        if stays:
            assert verify("film", 0, read(delegate, 0, 2 * MiB)) is None
    eventually(lambda: tidy(cache))
    settle(cache, cache_dir)
    assert objects_in(cache_dir) == {}


def test_a_hard_link_made_at_the_end_does_not_throw_the_copy_away(
    source: Path, cache_dir: Path, open_cache: OpenCache
) -> None:
    """The content is what it was, though its ctime is not."""
    path = write(source, "film", 2 * MiB)
    cache = open_cache(source)
    with holding(cache._parts.source, "stat") as held, opened(cache, "film") as delegate:
        assert verify("film", 0, read(delegate, 0, 2 * MiB)) is None
        eventually(lambda: held.entered)
        path.with_name("link").hardlink_to(path)
    settle(cache, cache_dir)
    assert list(objects_in(cache_dir).values()) == [2 * MiB]
