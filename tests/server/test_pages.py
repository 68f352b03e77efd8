"""Bytes that are not in the page cache are read by a worker before they are sent."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest

from streamcache.cache.reading import Seen
from streamcache.cache.streamcache import StreamCache
from streamcache.errors import Closed
from streamcache.server import pages as pages_module
from streamcache.server.pages import WINDOW, PageCache, window_end
from tests.server.client import WAIT, get

SIZE = 3 * WINDOW


@pytest.fixture
def file():
    """A file on a disk, not in the page cache; skipped where the kernel cannot say so."""
    with tempfile.TemporaryFile(dir="/var/tmp") as opened:
        opened.write(os.urandom(SIZE))
        opened.flush()
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(opened.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            yield opened.fileno()
        except OSError as error:
            pytest.skip(f"no RWF_NOWAIT here: {error}")
        else:
            pytest.skip("the file stays in memory")


def test_what_was_read_is_there_and_the_rest_is_not(file):
    # No reading ahead; and each place is looked at once, as a look has the kernel fetch the page.
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    pages, far = PageCache(), WINDOW // 4
    os.pread(file, WINDOW, WINDOW)
    assert pages.has(file, WINDOW, 2 * WINDOW)
    assert not pages.has(file, WINDOW, 2 * WINDOW + far)
    assert not pages.has(file, WINDOW - far, 2 * WINDOW)
    assert not pages.has(file, 0, WINDOW)
    assert not pages.has(file, SIZE - 1, SIZE)


def test_where_the_kernel_cannot_say_it_everything_counts_as_there(monkeypatch):
    asked = []

    def unsupported(*args):
        asked.append(args)
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "preadv", unsupported)
    pages = PageCache()
    assert pages.has(0, 0, 10)
    assert pages.has(0, 0, 10)
    assert len(asked) == 1


@pytest.fixture
def looks(monkeypatch):
    """The places that were looked at; they are all in the page cache."""
    asked = []
    monkeypatch.setattr(os, "preadv", lambda fd, into, offset, flags: asked.append(offset))
    return asked


def test_what_one_reader_has_just_found_others_do_not_look_for(looks, monkeypatch):
    monkeypatch.setattr(pages_module, "monotonic", lambda: 100.0)
    pages, seen = PageCache(), Seen()
    assert pages.has(0, WINDOW + 5, 2 * WINDOW, seen)
    assert len(looks) == 3
    assert pages.has(0, WINDOW + 5, 2 * WINDOW, seen)
    assert pages.has(0, WINDOW + 9, 2 * WINDOW, seen)
    assert len(looks) == 3
    assert pages.has(0, WINDOW, 2 * WINDOW, seen)  # begins before what was found
    assert pages.has(0, 2 * WINDOW, 3 * WINDOW, seen)  # another one
    assert pages.has(0, WINDOW, 2 * WINDOW, Seen())  # of another file
    assert len(looks) == 12


def test_what_was_found_counts_for_a_second(looks, monkeypatch):
    now = 100.0
    monkeypatch.setattr(pages_module, "monotonic", lambda: now)
    pages, seen = PageCache(), Seen()
    for moment, count in ((100.0, 3), (100.9, 3), (101.1, 6), (101.2, 6)):
        now = moment
        assert pages.has(0, 0, WINDOW, seen)
        assert len(looks) == count


def test_only_so_much_of_a_large_file_is_remembered(looks, monkeypatch):
    monkeypatch.setattr(pages_module, "monotonic", lambda: 100.0)
    pages, seen = PageCache(), Seen()
    for window in range(3000):
        assert pages.has(0, window * WINDOW, (window + 1) * WINDOW, seen)
        assert len(seen.windows) <= 512


def test_a_part_of_a_window_says_nothing_of_the_rest(looks):
    pages, seen = PageCache(), Seen()
    assert pages.has(0, 0, WINDOW // 2, seen)
    assert pages.has(0, 0, WINDOW, seen)
    assert len(looks) == 6


def test_what_was_not_there_is_looked_at_again(file):
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    pages, seen = PageCache(), Seen()
    assert not pages.has(file, 0, WINDOW, seen)
    os.pread(file, WINDOW, 0)
    assert pages.has(file, 0, WINDOW, seen)


def test_windows_are_aligned_and_end_with_the_file():
    assert [window_end(at, SIZE) // WINDOW for at in (0, WINDOW - 1, WINDOW, SIZE - 1)] == [
        1,
        1,
        2,
        3,
    ]
    assert window_end(5, 10) == 10


def test_a_cold_file_is_read_ahead_window_by_window(site, monkeypatch):
    here = site()
    monkeypatch.setattr(
        PageCache, "has", lambda self, fd, offset, stop, seen=None: offset == WINDOW
    )
    answer = here.client().ask("/big.bin", f"Range: bytes=100-{3 * WINDOW - 1}")
    assert answer.body == here.contents["/big.bin"][100 : 3 * WINDOW]
    assert here.cache.prefetched == [(100, WINDOW - 100), (2 * WINDOW, WINDOW)]


def test_who_reads_ahead_says_whether_all_was_there(file, tmp_path):
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    (tmp_path / "source").mkdir()
    with StreamCache(tmp_path / "source", tmp_path / "cache", "100MB") as cache:
        assert not cache.prefetch(file, WINDOW, WINDOW)
        assert cache.prefetch(file, WINDOW, WINDOW)
        assert PageCache().has(file, WINDOW, 2 * WINDOW)
        cache.prefetch(file, SIZE - 10, 10 * WINDOW)  # ends with the file
        assert PageCache().has(file, SIZE - 10, SIZE)


@pytest.mark.parametrize(
    ("missing", "read"),
    [
        ({0}, [0, 1, 2]),
        ({0, WINDOW}, [0, 1, 2, 3]),
        (set(), [0]),  # somebody else was quicker
    ],
)
def test_where_pages_were_missing_looks_are_not_believed_until_enough_was_read(
    site, monkeypatch, missing, read
):
    """Three places that are there say little then: the kernel fetches what is looked at."""
    monkeypatch.setattr("streamcache.server.exchange.BELIEVED", 2)
    here = site()
    monkeypatch.setattr(PageCache, "has", lambda self, fd, offset, stop, seen=None: offset > 0)
    here.cache.missing = missing
    assert here.client().ask("/big.bin").body == here.contents["/big.bin"]
    assert here.cache.prefetched == [(number * WINDOW, WINDOW) for number in read]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "EIO"), Closed("the cache is closed")])
def test_reading_ahead_that_fails_leaves_it_to_the_send(site, monkeypatch, error):
    here = site()
    here.cache.prefetch_error = error
    monkeypatch.setattr(PageCache, "has", lambda *_: False)
    assert here.client().ask("/big.bin").body == here.contents["/big.bin"]


def test_a_disk_that_hangs_cuts_the_response_and_not_the_server(site, monkeypatch):
    here = site()
    here.cache.prefetch_error = TimeoutError("no answer")
    monkeypatch.setattr(PageCache, "has", lambda *_: False)
    client = here.client()
    client.send(get("/big.bin"))
    with pytest.raises((EOFError, ConnectionResetError)):
        client.body(1000)
    assert here.cache.delegates[0].closed.wait(WAIT)


def test_cold_bytes_are_not_for_the_fast_path(site, monkeypatch):
    here = site()
    real = os.preadv

    def cold(fd, buffers, offset, flags=0):
        if flags & os.RWF_NOWAIT:
            raise BlockingIOError(errno.EAGAIN, "cold")
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", cold)
    client = here.client()
    assert client.ask("/b.bin").body == here.contents["/b.bin"]
    assert (here.fast, here.cache.prefetched) == (0, [(0, 70_000)])
