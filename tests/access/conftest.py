"""bcrypt is an extra: without it the tests of passwords are skipped, but never in CI."""

from __future__ import annotations

import importlib.util

import pytest

from tests.requirements import missing


@pytest.fixture(scope="session")
def bcrypt_library() -> None:
    """For tests that hash."""
    if importlib.util.find_spec("bcrypt") is None:
        missing("the extra auth is not installed (pip install bcrypt)")
