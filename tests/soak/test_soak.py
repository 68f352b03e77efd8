"""Small soaks: a minute and less of kills and a storm. bin/soak runs larger ones."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.requirements import missing
from tests.slowfs import unsupported
from tests.soak.soak import Soak
from tests.soak.source import Source, near, slow

LEAST = 15.0  # s of storm, if the machine is busy


def test_a_small_soak_finds_nothing() -> None:
    if (reason := unsupported()) is not None:
        missing(reason)
    soak(slow, kills=20, seconds=60.0)


def test_a_small_soak_of_a_near_source_finds_nothing() -> None:
    soak(near, kills=8, seconds=30.0)


def soak(
    source: Callable[[], AbstractContextManager[Source]], *, kills: int, seconds: float
) -> None:
    """``seconds`` in all, if the machine is not busy."""
    seed = int(os.environ.get("SOAK_SEED", "0")) or secrets.randbits(32)
    print(f"SOAK_SEED={seed}")
    begun = time.monotonic()
    with Soak.begun(seed, source) as soaked:
        soaked.kill(kills)
        soaked.storm(max(LEAST, seconds - (time.monotonic() - begun)))
        soaked.finish()
        print(soaked.table(time.monotonic() - begun))
        assert soaked.findings.found == []
        assert sum(soaked.kills.values()) >= kills
