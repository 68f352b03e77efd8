"""A cache directory for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache.another import AnotherProcess
from tests.inspection.filled import fill


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What was copied."""
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def at(source: Path, tmp_path: Path) -> Path:
    """A cache that nobody uses: six objects with digests, and a partial."""
    at = tmp_path / "cache"
    fill(source, at)
    return at


@pytest.fixture
def another() -> Iterator[AnotherProcess]:
    """A second process."""
    with AnotherProcess() as process:
        yield process
