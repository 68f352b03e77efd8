"""A file system that remembers all that was done to it, and what a power cut leaves of that."""

from .recorded import RecordedFS

__all__ = ["RecordedFS"]
