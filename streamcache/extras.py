"""Optional packages: what to say when one is missing."""

from __future__ import annotations

import shlex
import sys


def installing(package: str) -> str:
    """The command that puts a package where this program looks for it, for a shell."""
    return f"{shlex.quote(sys.executable or 'python3')} -m pip install {shlex.quote(package)}"
