"""A Python that users without rights can run: that of the tests may be in root's home."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from tests.requirements import missing


def readable_python() -> tuple[str, dict[str, str]]:
    """A Python of our version that every user can run, and the environment that it needs."""
    if all(
        each.stat().st_mode & 0o005 == 0o005
        for path in (os.path.realpath(sys.executable), os.path.dirname(os.__file__))
        for each in (Path(path), *Path(path).parents)
    ):
        return sys.executable, {}
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    system = f"/usr/bin/python{version}"
    if not os.path.exists(system):
        missing(f"no Python {version} that every user can run")
    return system, {"PYTHONPATH": sysconfig.get_path("purelib")}
