"""The cache that is made for the bench is one that the product takes for its own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from streamcache.cache.catalog import Catalog
from tests.bench import million
from tests.bench.scenario import SMALL, SMALL_SIZE, Bench
from tests.content import write


def test_a_filled_cache_is_opened_and_measured(
    monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    few, many = 700, 1500
    monkeypatch.setattr(million, "FEW", few)
    monkeypatch.setattr(million, "ROUNDS", 2)
    bench = Bench(cache_dir, quick=True)
    source, room = cache_dir / "source", 2 * many * million.BLOCKS
    write(source, SMALL, SMALL_SIZE)
    million.fill(cache_dir / "few" / "cache", few)
    million.fill(cache_dir / "many" / "cache", many)
    assert len(list((cache_dir / "many" / "cache").glob("objects/*/*"))) == many
    with million._server(source, cache_dir, room) as server:
        bench.warm([server], (SMALL, SMALL_SIZE))
        # Rebuilt or refused, it would have said so.
        assert f"objects={many}" in server.log
        assert "rebuilt" not in server.log
    assert million._start(bench, source, cache_dir, room, many).measured > 0
    rows = million._costs(cache_dir, many)
    assert [row.scenario.partition(",")[0] for row in rows] == ["reserve", "enter", "evict"]
    assert all(row.ratio is not None and not math.isnan(row.ratio) for row in rows)
    catalog = Catalog.open(str(cache_dir / "many" / "cache" / "catalog.sqlite"), capacity=room)
    size, count = catalog.usage()
    catalog.close()
    assert count == many + 1  # as many were entered as were evicted, and there is SMALL
    assert size == pytest.approx(many * million.BLOCKS, abs=million.BLOCKS)
