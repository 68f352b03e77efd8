"""Arbitrary bytes in the files of a cache directory: it starts, and serves the right bytes.

One cache with an object and half a copy is made once in a process; each run damages a copy of it.
Two lies cannot be told from the truth without checksums, and are left out: an object overwritten
with as many bytes, and a sound map that says of missing blocks that they are present.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from streamcache import CacheStatus, Config, StreamCache
from streamcache.cache.partial import PartialHeader
from tests import content
from tests.system.site import (
    assert_right,
    at_rest,
    config,
    eventually,
    fetch,
    opened,
    partials_in,
    settle,
    take,
)

WHOLE, WHOLE_SIZE = "a.mkv", 70_000
HALF, HALF_SIZE = "b.mkv", 1_000_000
_RATE = 64 * 1024  # bytes/s of the copy that is to stay half done


@dataclass(frozen=True, slots=True)
class Template:
    """A closed cache directory, and the source that it is of."""

    source: Path
    cache: Path

    def settings(self, cache: Path, **copy: object) -> Config:
        return config(
            source={"path": str(self.source), "id": "fuzz"},
            cache={"dir": str(cache), "size": 1 << 28, "workers": 2},
            copy=copy,
        )


@functools.cache
def template() -> Template:
    """With WHOLE as an object and HALF as a partial."""
    root = Path(tempfile.mkdtemp(prefix="streamcache-fuzz-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    made = Template(root / "source", root / "cache")
    made.source.mkdir()
    content.write(made.source, WHOLE, WHOLE_SIZE)
    content.write(made.source, HALF, HALF_SIZE)
    with StreamCache(config=made.settings(made.cache)) as cache:
        fetch(cache, WHOLE)
        settle(cache, made.cache)
    slowly = made.settings(made.cache, when_idle="stop", max_bandwidth=_RATE, in_flight=1)
    with StreamCache(config=slowly) as cache:
        with opened(cache, HALF) as delegate:
            take(delegate, 0, 1)
            eventually(lambda: any(part.present_bytes for part in partials_in(made.cache)))
        eventually(lambda: at_rest(cache))
    (half,) = partials_in(made.cache)
    assert 0 < half.present_bytes < HALF_SIZE
    return made


def catalog(data: bytes) -> None:
    """As the catalog's file."""
    with Copy() as copy:
        path = copy.path / "catalog.sqlite"
        real = Path(os.path.realpath(path))
        for suffix in ("-wal", "-shm"):
            Path(f"{real}{suffix}").unlink(missing_ok=True)
        real.write_bytes(data)
        copy.serves_all(rebuilt=lambda: (copy.path / "catalog.sqlite.corrupt").exists())


def map_file(data: bytes) -> None:
    """As a map: of the partial (first byte even), or of a copy that was published (odd)."""
    kind, data = data[:1], data[1:]
    with Copy() as copy:
        (path,) = (copy.path / "partial").glob("*.map")
        if kind and kind[0] % 2:
            (found,) = (copy.path / "objects").glob("??/*")
            path = path.with_name(found.name + ".map")
        else:
            data = _without_lies(path.read_bytes(), data)
        path.write_bytes(data)
        copy.serves_all()


def object_file(data: bytes) -> None:
    """As an object."""
    if len(data) == WHOLE_SIZE:
        return
    with Copy() as copy:
        (path,) = (copy.path / "objects").glob("??/*")
        path.write_bytes(data)
        copy.serves_all()


class Copy:
    """A copy of the template, for one run."""

    def __enter__(self) -> Copy:
        made = template()
        self._root = Path(tempfile.mkdtemp(dir=made.cache.parent))
        self.path = self._root / "cache"
        shutil.copytree(made.cache, self.path, symlinks=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._root)

    def serves_all(self, rebuilt: object = None) -> None:
        """It starts and gives both files, and the whole is a hit the second time."""
        with StreamCache(config=template().settings(self.path)) as cache:
            for name, size in ((WHOLE, WHOLE_SIZE), (HALF, HALF_SIZE)):
                assert_right(fetch(cache, name), name, size)
            if callable(rebuilt) and rebuilt():
                settle(cache, self.path)
            eventually(lambda: at_rest(cache))
            again = fetch(cache, WHOLE)
            assert again.status in (CacheStatus.HIT, CacheStatus.BYPASS, CacheStatus.MISS)
            assert_right(again, WHOLE, WHOLE_SIZE)


def _without_lies(truth: bytes, data: bytes) -> bytes:
    """The same bytes, but that no missing block of a sound map is called present."""
    try:
        start = PartialHeader.decode(data)[1]
    except ValueError:
        return data
    present = zip(data[start:], truth[start:].ljust(len(data), b"\0"), strict=False)
    return data[:start] + bytes(0 if one == 1 and not there else one for one, there in present)
