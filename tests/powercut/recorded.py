"""The handle a test holds on the recorded file system; and a state of it as a real directory."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.powercut.history import PAGE, File, Record, Tree
from tests.slowfs import mounting

REPOSITORY = Path(__file__).resolve().parents[2]


class RecordedFS:
    """An empty file system in memory, served by a process of its own; it goes with it.

    Locks, memory maps and ``sendfile`` work as on a disk, between processes too.
    """

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="powercut-")
        self.path = Path(self._directory, "mnt")
        self.path.mkdir()
        self._log = Path(self._directory, "log")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.powercut", str(self.path), str(self._log)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._process.stdout.close()
        if not line:
            self.unmount()
            raise OSError("the file system did not start; its stderr says why")

    def __enter__(self) -> RecordedFS:
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()
        shutil.rmtree(self._directory, ignore_errors=True)

    def unmount(self) -> None:
        """Its process ends, and the record is whole. Idempotent."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if mounting.device(str(self.path.resolve())) is not None:  # it was killed
            mounting.unmount(str(self.path))

    def records(self) -> list[Record]:
        """All that was done to it, once it is unmounted."""
        found = []
        with open(self._log, "rb") as log, contextlib.suppress(EOFError):
            while True:
                found.append(pickle.load(log))
        return found


def lay_out(tree: Tree, at: Path) -> None:
    """Make a real directory of it, holes and modification times as they are."""
    at.mkdir(mode=0o700)
    for name, node in tree.items():
        path = at / name
        if isinstance(node, str):
            path.symlink_to(node)
        elif isinstance(node, File):
            _write(node, path)
        else:
            lay_out(node, path)


def _write(file: File, path: Path) -> None:
    with open(path, "wb", buffering=0) as out:
        out.truncate(len(file.data))
        for start in range(0, len(file.data), PAGE):
            page = file.data[start : start + PAGE]
            if any(page):
                os.pwrite(out.fileno(), page, start)
    os.utime(path, ns=(file.mtime_ns, file.mtime_ns))  # of a mere write none is recorded: 1970
