"""Where and with what it was measured: a figure without that says little."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import streamcache
from tests.bench import processes, programs

REPOSITORY = Path(__file__).resolve().parents[2]
_ASK = {  # what prints a version
    "nginx": ("-v",),
    "varnishd": ("-V",),
    "rclone": ("version",),
    "wrk": ("-v",),
}
_PACKAGES = ("gevent", "greenlet", "aiohttp")
_VERSIONED = ("streamcache", "Python", *_PACKAGES, *_ASK)


def facts(command: str) -> dict[str, str]:
    """Names and values, in the order in which they are shown."""
    found = {
        "machine": f"{os.cpu_count()} cores, {_cpu_model()}, {_memory()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "date": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "commit": _commit(),
        "command": f"`{command}`",
        "streamcache": streamcache.__version__,
        "Python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    for program in _ASK:
        found[program] = _version(program)
    return found


class Others:
    """What other processes take of this machine since it was made: they spoil figures."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = self._seconds()

    def share(self) -> float:
        """Of all cores; the kernel's own threads count as others."""
        seconds = time.monotonic() - self._began
        return (self._seconds() - self._before) / seconds / (os.cpu_count() or 1)

    @staticmethod
    def _seconds() -> float:
        return processes.machine_seconds() - processes.cpu_seconds(os.getpid())


def markdown(known: Mapping[str, str]) -> str:
    """One list item per fact; the versions in one."""
    versions = [name for name in known if name in _VERSIONED]
    lines = [f"- {name}: {value}" for name, value in known.items() if name not in versions]
    lines.append("- versions: " + ", ".join(f"{name} {known[name]}" for name in versions))
    return "\n".join(lines)


def _version(program: str) -> str:
    path = programs.find(program)
    if path is None:
        return "not installed"
    done = subprocess.run(
        [path, *_ASK[program]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    match = re.search(r"\d+(\.\d+)+", done.stdout)
    return match[0] if match else "unknown"


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    with open("/proc/meminfo") as lines:
        return f"{int(next(lines).split()[1]) / 1024**2:.0f} GiB of memory"


def _commit() -> str:
    git = ["git", "-C", str(REPOSITORY)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} with changes" if changed else commit
