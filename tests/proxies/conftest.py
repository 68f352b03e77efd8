"""Daemons behind a proxy, and the proxies: their examples with this machine's addresses put in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.daemon_process import REPOSITORY, DaemonProcess
from tests.requirements import program

EXAMPLES = REPOSITORY / "etc" / "examples"
CLIENT = "127.0.0.2"  # whom the access log shall name, not the proxy

Start = Callable[..., DaemonProcess]


def example(name: str, changes: Mapping[str, str]) -> str:
    """The text of an example with other addresses; each change must apply to it."""
    text = (EXAMPLES / name).read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def node(daemon: Start) -> Start:
    """``node(source, *flags, trust=...)`` is a daemon that believes the proxy at 127.0.0.1."""

    def start(source: str | Path, *flags: str) -> DaemonProcess:
        environment = {"STREAMCACHE_ACCESS_TRUSTED_PROXIES": "127.0.0.1"}
        return daemon(source, *flags, environment=environment)

    return start


@pytest.fixture
def curl() -> tuple[str, ...]:
    """The command, as a client that is not at the proxy's address."""
    return (
        *(program("curl"), "--silent", "--show-error", "--fail", "--max-time", "60"),
        *("--interface", CLIENT),
    )
