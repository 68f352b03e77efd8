"""The programs that the bench runs beside streamcache, and where they come from."""

from __future__ import annotations

import os
import shutil

PACKAGES = {  # program -> apt package
    "nginx": "nginx-light",
    "varnishd": "varnish",
    "rclone": "rclone",
    "wrk": "wrk",
    "cp": "coreutils",
}
_ELSEWHERE = ("/usr/sbin", "/usr/local/sbin", "/sbin")


class NotHere(Exception):
    """A program or package is missing, or cannot do what is asked of it; the message says which."""


def find(program: str) -> str | None:
    """The path of a program; None: it is not installed."""
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(_ELSEWHERE))


def require(program: str) -> str:
    """The path of a program. Raises NotHere."""
    path = find(program)
    if path is None:
        raise NotHere(f"no {program} (apt package {PACKAGES.get(program, program)})")
    return path


def missing() -> dict[str, str]:
    """Programs that are not installed, and the packages that have them."""
    return {name: package for name, package in PACKAGES.items() if find(name) is None}
