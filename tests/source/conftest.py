"""A source whose reads wait, for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamcache.source import rate as rate_module
from streamcache.source.rate import FIRST_STEP
from streamcache.source.scheduler import Scheduler
from tests.source.fakes import Reads, made


@pytest.fixture
def reads() -> Iterator[Reads]:
    source = Reads()
    yield source
    source.end()


@pytest.fixture
def near(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """The scheduler of a source that is nearly as fast as memory."""
    monkeypatch.setattr(rate_module.Rate, "is_near", True)
    scheduler = made(reads, in_flight=3)
    rate = scheduler._rate
    rate.end(FIRST_STEP, saturated=True, started=rate.begin())  # so much is known of it
    return scheduler
