"""What the service manager hears."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from streamcache.daemon.notify import Notifier
from tests.daemon.manager import Manager


@pytest.mark.parametrize("abstract", [False, True])
def test_it_hears_each_state(tmp_path: Path, abstract: bool) -> None:
    with Manager(tmp_path, abstract=abstract) as manager:
        notifier = Notifier(manager.environment)
        notifier.ready("serves\nall")
        pid = str(os.getpid())
        assert manager.next() == {"READY": "1", "MAINPID": pid, "STATUS": "serves all"}
        notifier.reloading()
        assert manager.next().keys() == {"RELOADING", "MONOTONIC_USEC", "STATUS"}
        notifier.alive()
        assert manager.next() == {"WATCHDOG": "1"}
        notifier.succeeded_by(17)
        assert manager.next() == {"MAINPID": "17"}
        notifier.stopping("drains")
        assert manager.next() == {"STOPPING": "1", "STATUS": "drains"}


def test_without_one_nothing_is_said() -> None:
    notifier = Notifier({})
    notifier.ready("x")
    assert notifier.watchdog == 0


def test_one_that_is_gone_is_a_single_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Manager(tmp_path) as manager:
        notifier = Notifier(manager.environment)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            notifier.alive()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "3000000"}, 3),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
    ],
)
def test_the_watchdog_is_for_one_process(environ: dict[str, str], seconds: float) -> None:
    assert Notifier(environ, pid=7).watchdog == seconds
