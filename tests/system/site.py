"""A StreamCache under test, and what may be said of it from outside: bytes, disk, account."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent

from streamcache import CacheStatus, Config, StreamCache
from streamcache.cache.blockmap import BLOCK
from streamcache.cache.partial import PartialHeader
from tests.content import Verifier, verify

MiB = 1024 * 1024
WAIT = 10.0  # s until a test that waits gives up

KEPT = ("objects", "partial", "trash")  # what the account speaks of


def eventually(condition: Callable[[], Any], wait: float = WAIT) -> Any:
    """Let others run until the condition holds; what it returned."""
    deadline = time.monotonic() + wait
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {wait} s")
        gevent.sleep(0.005)
    return result


def config(**sections: dict[str, Any]) -> Config:
    """The defaults with some options changed: ``config(source={"revalidate": 0.1})``."""
    base = Config()
    changed = {
        name: dataclasses.replace(getattr(base, name), **options)
        for name, options in sections.items()
    }
    return dataclasses.replace(base, **changed)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got."""

    status: CacheStatus
    size: int
    data: bytes


def fetch(
    cache: StreamCache, path: str, start: int = 0, stop: int | None = None, *, client: str = "t"
) -> Answer:
    """Bytes [start, stop) of a path, asked for as the server does."""
    with cache.find(f"/{path}", ahead=start) as found:
        delegate = found.open(client)
    try:
        data = read(delegate, start, delegate.size if stop is None else min(stop, delegate.size))
        return Answer(delegate.status, delegate.size, data)
    finally:
        delegate.close()


def read(delegate: Any, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a delegate."""
    data = bytearray()
    while start + len(data) < stop:
        data += take(delegate, start + len(data), stop)
    return bytes(data)


def take(delegate: Any, offset: int, stop: int) -> bytes:
    """The next bytes of a delegate, counted as sent."""
    ready = delegate.ready(offset, stop)
    assert 0 < ready.length <= stop - offset
    if ready.data is not None:
        data = bytes(ready.data)
    else:
        assert ready.offset == offset
        data = os.pread(ready.fd, ready.length, offset)
    assert len(data) == ready.length
    delegate.sent(ready, len(data))
    return data


@contextlib.contextmanager
def opened(cache: StreamCache, path: str) -> Iterator[Any]:
    """An open delegate of a path."""
    with cache.find(f"/{path}", ahead=0) as found:
        delegate = found.open("t")
    try:
        yield delegate
    finally:
        delegate.close()


def assert_right(answer: Answer, content: str, size: int, start: int = 0) -> None:
    """Every byte of [start, size) came, and is of that content."""
    verifier = Verifier(content, start, size)
    assert verifier.feed(answer.data) is None
    assert verifier.missing() is None


def files_below(cache_dir: Path) -> dict[str, os.stat_result]:
    """All that the account must know of, by relative path."""
    found = {}
    for kind in KEPT:
        for folder, _, names in os.walk(cache_dir / kind):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    found[os.path.relpath(path, cache_dir)] = os.lstat(path)
                except FileNotFoundError:  # it went meanwhile
                    continue
    return found


def disk_usage(cache_dir: Path) -> int:
    """Bytes of disk blocks that objects, partials and trash take."""
    return sum(stat.st_blocks * 512 for stat in files_below(cache_dir).values())


def least_usage(cache_dir: Path) -> int:
    """What of ``disk_usage`` was there at one moment, while files come and go: in two looks.

    A single look may count one that goes, and then one that comes in its room.
    """
    before, after = (
        {stat.st_ino: stat.st_blocks * 512 for stat in files_below(cache_dir).values()}
        for _ in range(2)
    )
    return sum(min(on_disk, after.get(inode, 0)) for inode, on_disk in before.items())


def objects_in(cache_dir: Path) -> dict[str, int]:
    """Sizes of the objects by name."""
    return {
        os.path.basename(path): stat.st_size
        for path, stat in files_below(cache_dir).items()
        if path.startswith("objects/")
    }


@dataclass(frozen=True, slots=True)
class PartialOnDisk:
    """A partial as its files show it."""

    header: PartialHeader
    present: bytes  # one byte per block
    data: Path

    @property
    def present_bytes(self) -> int:
        """Bytes of the file in present blocks."""
        whole = self.present.count(1) * BLOCK
        tail = len(self.present) * BLOCK - self.header.size
        return whole - tail if self.present and self.present[-1] else whole

    def wrong_byte(self, content: str) -> int | None:
        """The first offset in a present block that is not of this content."""
        with open(self.data, "rb") as file:
            for number, there in enumerate(self.present):
                if there:
                    data = os.pread(file.fileno(), BLOCK, number * BLOCK)
                    wrong = verify(content, number * BLOCK, data[: self.header.size])
                    if wrong is not None:
                        return wrong
        return None


def partials_in(cache_dir: Path) -> list[PartialOnDisk]:
    """The partials with a map."""
    found = []
    for path in sorted((cache_dir / "partial").glob("*.map")):
        raw = path.read_bytes()
        try:
            header, start = PartialHeader.decode(raw)
        except ValueError:
            continue
        if path.with_suffix(".data").exists():
            found.append(PartialOnDisk(header, raw[start:], path.with_suffix(".data")))
    return found


def at_rest(cache: StreamCache) -> bool:
    """No copy runs, and none is about to let go of what it holds."""
    provider = cache._parts.provider
    return not provider.copies.sessions and not provider.copies.ending


def tidy(cache: StreamCache) -> bool:
    """Nothing is being removed, recorded or resumed."""
    provider = cache._parts.provider
    return not (provider._removal._tasks or provider.copies._resumers)


def account_is_true(cache: StreamCache, cache_dir: Path) -> bool:
    """Usage is known and equals what the disk says."""
    known = cache._parts.space.known
    return known and cache.statistics().usage == disk_usage(cache_dir)


def settle(cache: StreamCache, cache_dir: Path, wait: float = WAIT) -> None:
    """Wait until copies are done, and the account says what the disk says."""
    try:
        eventually(lambda: at_rest(cache) and account_is_true(cache, cache_dir), wait)
    except AssertionError:
        raise AssertionError(
            f"no rest: {cache._parts.space!r} {cache._parts.provider!r}"
            f" disk={disk_usage(cache_dir)}"
            f" sessions={cache.statistics().sessions} files={sorted(files_below(cache_dir))}"
        ) from None
