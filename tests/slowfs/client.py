"""The handle a test holds on the slow file system: mounts it, tells it, asks it, unmounts it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from . import mounting
from .model import OPERATIONS

REPOSITORY = Path(__file__).resolve().parents[2]


class SlowFSError(Exception):
    """It could not be mounted, or refused a command."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Operations that reached the file system since the last reset, and what they did."""

    lookups: int
    getattrs: int
    opens: int
    reads: int
    directory_reads: int
    writes: int
    bytes_read: int  # bytes delivered; the kernel asks for whole pages, the end of a file is short
    errors: int  # operations that a fault made fail
    hanging: int  # operations that hang now
    open_files: int  # opens that were not closed yet


@dataclass(frozen=True, slots=True, order=True)
class Read:
    """One delivered read, as the kernel asked for it."""

    offset: int
    length: int
    inode: int  # tells the versions of a replaced file apart
    at: float  # when it was delivered, time.monotonic()


class SlowFS:
    """A mount of ``backing`` that is as slow and as faulty as told.

    It is served by a process of its own, so a test's hub may block on it; every call here is a
    short exchange over a unix socket and never touches the mount. Speeds are in seconds and
    bytes per second, see ``model.Speed``. If this process dies, the mount goes with it.
    """

    def __init__(
        self,
        backing: str | os.PathLike[str] | None = None,
        *,
        read_ahead: int = mounting.MAX_READ,
        writable: bool = False,
        **speed: float,
    ) -> None:
        """``backing`` None: an empty directory of its own, which goes with the mount.

        ``writable``: through this mount alone, files may be changed.
        """
        reason = mounting.unsupported()
        if reason is not None:
            raise SlowFSError(reason)
        self._directory = tempfile.mkdtemp(prefix="slowfs-")
        self.backing = Path(backing) if backing is not None else Path(self._directory, "backing")
        self.path = Path(self._directory, "mnt")
        self.path.mkdir()
        if backing is None:
            self.backing.mkdir()
        self._control = os.path.join(self._directory, "control")
        # Standard output and error go where they keep no descriptor of this process open.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.slowfs",
                "--parent",
                f"--control={self._control}",
                f"--read-ahead={read_ahead}",
                *(["--writable"] if writable else []),
                str(self.backing),
                str(self.path),
            ],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._process.stdout.close()
        if not line:
            self.unmount()
            raise SlowFSError("the file system did not start; its stderr says why")
        self.read_ahead: int | None = json.loads(line)["read_ahead"]  # bytes, None: unknown
        if speed:
            self.set(**speed)

    def __enter__(self) -> SlowFS:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.unmount()

    def __repr__(self) -> str:
        state = "mounted" if self._process.poll() is None else "unmounted"
        return f"<SlowFS {self.path} of {self.backing} {state}>"

    @property
    def pid(self) -> int:
        """The process that serves the mount."""
        return self._process.pid

    def set(self, **speed: float) -> None:
        """Change ``latency``, ``meta_latency``, ``bandwidth``, ``attr_timeout``,
        ``entry_timeout``, ``keep_cache`` or ``direct``; operations that are waiting keep theirs.
        """
        self._ask("set", **speed)

    def fault(
        self,
        kind: str,
        path: str | None = None,
        *,
        operations: tuple[str, ...] = OPERATIONS,
        times: int | None = None,
        skip: int = 0,
        start: int = 0,
        stop: int | None = None,
        size: int = 0,
        seconds: float = 0.0,
        existing: bool = False,
    ) -> int:
        """From now on, operations that match have this fault; its number, for ``release``.

        ``kind`` is an errno name ("EIO", "ESTALE", "EACCES"), "hang" (until released),
        "truncate" (files seem to end at ``size``) or "delay" (``seconds`` more). ``path`` is a
        glob over paths relative to the root, None for all; ``start`` and ``stop`` select reads
        and writes that touch those bytes; ``skip`` lets that many pass first, ``times`` limits
        the hits; ``existing`` limits it to files that are open already. The kernel repeats a
        path walk once after ESTALE.
        """
        return self._ask(
            "fault",
            kind=kind,
            path=path,
            operations=list(operations),
            times=times,
            skip=skip,
            start=start,
            stop=stop,
            size=size,
            seconds=seconds,
            existing=existing,
        )

    def release(self, number: int | None = None) -> None:
        """End one fault, or all; what hangs because of it goes on."""
        self._ask("release", number=number)

    def counters(self, path: str | None = None) -> Counters:
        """What was asked of one path ("a/b.mp4"), or of all."""
        return Counters(**self._ask("counters", path=path))

    def reads(self, path: str) -> list[Read]:
        """The delivered reads of a path, in the order of delivery."""
        return [Read(*fields) for fields in self._ask("log", path=path)]

    def paths_read(self) -> list[str]:
        """The paths of which something was read."""
        return self._ask("paths")

    def repeated(self, path: str) -> int:
        """Bytes of a path that were read again: 0 when each source byte was read once."""
        repeated = 0
        last: tuple[int, int] = (-1, 0)  # inode, end of what was read of it
        for read in sorted(self.reads(path), key=lambda read: (read.inode, read.offset)):
            end = read.offset + read.length
            known = last[1] if last[0] == read.inode else 0
            repeated += max(0, min(known, end) - read.offset)
            last = (read.inode, max(known, end))
        return repeated

    def reset(self) -> None:
        """Set all counters to zero and empty the logs."""
        self._ask("reset")

    def drop_cache(self) -> None:
        """Make the page cache cold: the next open of each file finds no page of it.

        Descriptors that are open already keep their pages until then. (Opens of changed files
        are always cold, and with ``keep_cache=False`` all are.)
        """
        self._ask("drop_cache")

    def unmount(self) -> None:
        """Take it off the tree and end its process; whoever waits for it gets an error."""
        # The descriptor of /dev/fuse goes with the process, which ends all that hangs.
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        if mounting.device(str(self.path.resolve())) is not None:  # it was killed
            mounting.unmount(str(self.path))
        shutil.rmtree(self._directory, ignore_errors=True)

    def _ask(self, command: str, **fields: object):
        message = json.dumps({"command": command, **fields}).encode() + b"\n"
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(30)
            try:
                peer.connect(self._control)
            except OSError as error:
                raise SlowFSError(f"{self!r} does not answer: {error}") from error
            peer.sendall(message)
            with peer.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        if "error" in answer:
            raise SlowFSError(answer["error"])
        return answer["result"]
