"""The time of day jumps, by a day or by years: copies, eviction and freshness go on."""

from __future__ import annotations

import contextlib
import http.client
import struct
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from streamcache import CacheStatus
from tests.content import Verifier, verify, write
from tests.daemon.test_workers import wait_until
from tests.daemon_process import DaemonProcess
from tests.system.conftest import OpenCache
from tests.system.site import MiB, assert_right, disk_usage, fetch, opened, read, settle, take

DAY = 86_400.0


@pytest.mark.parametrize("jump", [DAY, -DAY, 3650 * DAY, -3650 * DAY])
def test_a_clock_that_jumps_costs_nothing(
    source: Path,
    cache_dir: Path,
    open_cache: OpenCache,
    monkeypatch: pytest.MonkeyPatch,
    jump: float,
) -> None:
    """In the middle of a copy, and before objects must be evicted."""
    names = [f"film{number}" for number in range(8)]
    for name in names:
        write(source, name, MiB)
    cache = open_cache(source, 4 * MiB, source_options={"revalidate": 0.05})
    assert_right(fetch(cache, names[0]), names[0], MiB)
    real = time.time
    with opened(cache, names[1]) as reader:
        begun = take(reader, 0, MiB)
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        rest = read(reader, len(begun), MiB)
    assert len(begun) + len(rest) == MiB
    settle(cache, cache_dir)
    for name in names[2:]:
        assert_right(fetch(cache, name), name, MiB)
        settle(cache, cache_dir)
        assert disk_usage(cache_dir) <= 4 * MiB
        assert fetch(cache, name).status is CacheStatus.HIT
    # A change at the source is seen, whatever the clock says.
    write(source, names[-1], MiB + 7)
    time.sleep(0.06)
    assert_right(fetch(cache, names[-1]), names[-1], MiB + 7)
    assert cache.statistics().evictions >= 4


class Shift:
    """The time of day of daemons under test."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0.0)

    def set(self, seconds: float) -> None:
        """It is so many seconds off from now on."""
        with open(self._path, "r+b" if self._path.exists() else "w+b") as file:
            file.write(struct.pack("d", seconds))

    @property
    def environment(self) -> dict[str, str]:
        return {"SHIFT": str(self._path)}


def ask(client: http.client.HTTPConnection, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    client.request("GET", path)
    answer = client.getresponse()
    return answer, answer.read()


def date_of(answer: http.client.HTTPResponse, field: str = "Date") -> float:
    return parsedate_to_datetime(answer.headers[field]).timestamp()


# To the day before the epoch ends in 32 bits, and to the time of a machine without a battery.
@pytest.mark.parametrize("jump", [10 * 365 * DAY, 86_400 - time.time()], ids=["ahead", "1970"])
def test_a_daemon_whose_clock_jumps_cuts_nobody_off(
    source: Path,
    cache_dir: Path,
    tmp_path: Path,
    daemon: Callable[..., DaemonProcess],
    jump: float,
) -> None:
    """In the middle of a download, beside an idle connection; then a restart at that time."""
    shift, size = Shift(tmp_path / "shift"), 32 * MiB  # more than socket buffers hold
    for name in ("long", "cold", "later"):
        write(source, name, size if name == "long" else MiB)
    module, environment = "tests.system.shifted", shift.environment

    def start() -> DaemonProcess:
        flags = ("--revalidate", "50ms")
        return daemon(
            source,
            *flags,
            workers=2,
            cache_dir=cache_dir,
            module=module,
            environment=environment,
        )

    running = start()
    with contextlib.ExitStack() as stack:
        idle, player = (
            stack.enter_context(
                contextlib.closing(http.client.HTTPConnection(*running.address, timeout=20))
            )
            for _ in range(2)
        )
        answer, _ = ask(idle, "/cold")
        assert abs(date_of(answer) - time.time()) < 60
        player.request("GET", "/long")
        download = player.getresponse()
        verifier = Verifier("long", 0, size)
        assert verifier.feed(download.read(MiB)) is None
        shift.set(jump)
        time.sleep(1.2)  # a second is over: all that looks at a clock has looked
        answer, body = ask(idle, "/cold")
        assert verify("cold", 0, body) is None
        assert abs(date_of(answer) - time.time() - jump) < 60
        assert date_of(answer, "Last-Modified") <= date_of(answer)
        assert "hit" in answer.headers["Cache-Status"]
        while piece := download.read(MiB):
            assert verifier.feed(piece) is None
        assert verifier.missing() is None
        for path in ("/later", "/later"):  # copied at that time
            answer, body = ask(idle, path)
            assert verify("later", 0, body) is None
    wait_until(lambda: "copy complete path='/later'" in running.log, "it is not cached")
    assert running.stop() == 0

    again = start()
    with contextlib.closing(http.client.HTTPConnection(*again.address, timeout=20)) as client:
        for name in ("long", "cold", "later"):
            answer, body = ask(client, f"/{name}")
            assert "hit" in answer.headers["Cache-Status"], name
            assert verify(name, 0, body) is None
        shift.set(0.0)
        write(source, "cold", MiB + 7, content_name="new")
        time.sleep(0.1)
        answer, body = ask(client, "/cold")
        assert len(body) == MiB + 7 and verify("new", 0, body) is None
