"""A small soak: a minute of kills and a storm. bin/soak runs larger ones."""

from __future__ import annotations

import os
import secrets
import time

from tests.requirements import missing
from tests.slowfs import unsupported
from tests.soak.soak import Soak

KILLS = 20
SECONDS = 60.0  # of all, if the machine is not busy
LEAST = 15.0  # s of storm, if it is


def test_a_small_soak_finds_nothing() -> None:
    if (reason := unsupported()) is not None:
        missing(reason)
    seed = int(os.environ.get("SOAK_SEED", "0")) or secrets.randbits(32)
    print(f"SOAK_SEED={seed}")
    begun = time.monotonic()
    with Soak.begun(seed) as soak:
        soak.kill(KILLS)
        soak.storm(max(LEAST, SECONDS - (time.monotonic() - begun)))
        soak.finish()
        print(soak.table(time.monotonic() - begun))
        assert soak.findings.found == []
        assert sum(soak.kills.values()) >= KILLS
