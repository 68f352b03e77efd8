"""What the slow file system is told and what it tells: speed, faults, counts. No system calls."""

from __future__ import annotations

import errno
import fnmatch
from dataclasses import asdict, dataclass, field

READING = ("lookup", "getattr", "readlink", "open", "read", "opendir", "readdir")
WRITING = ("create", "write", "fsync", "setattr", "mkdir", "symlink", "unlink", "rmdir", "rename")
OPERATIONS = (*READING, *WRITING)


@dataclass(slots=True)
class Speed:
    """How slow it is; every field can be changed while the file system is in use."""

    latency: float = 0.020  # s per READ, parallel
    meta_latency: float = 0.005  # s per LOOKUP, GETATTR, OPEN and the other operations, parallel
    bandwidth: float = 20 * 1024 * 1024  # bytes/s for all readers together; 0: no limit
    attr_timeout: float = 0.0  # s the kernel keeps attributes
    entry_timeout: float = 0.0  # s the kernel keeps names
    keep_cache: bool = True  # an open of an unchanged file finds the kernel's pages of it again
    direct: bool = False  # the kernel keeps no pages of what is opened: a byte read twice counts so

    def update(self, changes: dict[str, float]) -> None:
        """Change some fields; ValueError for a name that is none."""
        known = asdict(self)
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"no such setting: {name} (known: {', '.join(known)})")
            setattr(self, name, type(known[name])(value))


class Pipe:
    """One serial transfer after the other, at a fixed rate, on a virtual clock.

    The clock makes the rate exact: a transfer starts when the one before it ended by the
    reckoning, however late this process woke up for that.
    """

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free = 0.0

    def book(self, now: float, size: int, bandwidth: float) -> float:
        """When ``size`` bytes that are ready at ``now`` have passed."""
        if not size or not bandwidth:
            return now
        self._free = max(now, self._free) + size / bandwidth
        return self._free


@dataclass(slots=True)
class Fault:
    """What happens to the operations that match."""

    kind: str  # an errno name, "hang", "truncate" or "delay"
    number: int = 0
    path: str | None = None  # glob over the path relative to the root; None: everything
    operations: tuple[str, ...] = OPERATIONS
    times: int | None = None  # matches until it wears off; None: for ever
    skip: int = 0  # matches that pass before the first hit
    start: int = 0  # reads and writes only: those that touch a byte of [start, stop)
    stop: int | None = None
    size: int = 0  # "truncate": the size that files seem to have
    seconds: float = 0.0  # "delay"
    handles_until: int | None = None  # only handles opened so far (ESTALE of a restarted server)

    @property
    def error(self) -> int:
        """The errno this fault answers with; 0 for the kinds that are none."""
        return 0 if self.kind in KINDS else getattr(errno, self.kind)

    def hits(
        self, operation: str, path: str, handle: int | None, extent: tuple[int, int] | None
    ) -> bool:
        """Whether it applies to this operation; counts the match."""
        if operation not in self.operations or self.times == 0:
            return False
        if self.path is not None and not fnmatch.fnmatchcase(path, self.path):
            return False
        if self.handles_until is not None and (handle is None or handle > self.handles_until):
            return False
        if extent is not None and not self._touches(*extent):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def _touches(self, start: int, stop: int) -> bool:
        return stop > self.start and (self.stop is None or start < self.stop)


KINDS = ("hang", "truncate", "delay")


@dataclass(slots=True)
class Counts:
    """Operations that arrived, and bytes that left."""

    lookups: int = 0
    getattrs: int = 0
    opens: int = 0
    reads: int = 0
    directory_reads: int = 0
    writes: int = 0
    bytes_read: int = 0
    errors: int = 0  # answered with the errno of a fault
    log: list[tuple[int, int, int, float]] = field(default_factory=list)  # see client.Read

    def arrived(self, operation: str) -> None:
        """Count one operation."""
        name = _COUNTED.get(operation)
        if name is not None:
            setattr(self, name, getattr(self, name) + 1)


_COUNTED = {
    "lookup": "lookups",
    "getattr": "getattrs",
    "open": "opens",
    "write": "writes",
    "read": "reads",
    "readdir": "directory_reads",
}
