"""A slow, faulty network file system for tests: a FUSE pass-through in a process of its own."""

from .client import Counters, Read, SlowFS, SlowFSError
from .mounting import unsupported

__all__ = ["Counters", "Read", "SlowFS", "SlowFSError", "unsupported"]
