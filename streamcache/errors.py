"""The exception tree. It knows no HTTP: the server maps it to status codes in one table."""

from __future__ import annotations


class StreamCacheError(Exception):
    """Base of every error that streamcache raises on purpose."""


class ConfigError(StreamCacheError):
    """Settings that cannot be used; of each a message names where it stands and what is allowed."""

    def __str__(self) -> str:
        """All messages in one line; each of them is one of ``args``."""
        return "; ".join(map(str, self.args))


class SourceError(StreamCacheError, OSError):
    """The source could not be opened or read."""


class NotFound(SourceError, FileNotFoundError):
    """The source has no regular file of that name."""


class AccessDenied(SourceError, PermissionError):
    """The source refuses us, or the path leads out of the source's root."""


class SourceUnavailable(SourceError):
    """The source fails (EIO, ESTALE, unmounted ...): says nothing about the file itself."""


class SourceTimeout(SourceUnavailable, TimeoutError):
    """The source did not answer within ``source.timeout``."""


class SourceBusy(SourceUnavailable):
    """Too many calls wait for a thread already, to ask the source or for other work; try again."""


class SourceChanged(StreamCacheError):
    """The file is no longer the version that this handle was opened on (invariant I8)."""


class CacheError(StreamCacheError):
    """The cache directory cannot be used; a request is then served from the source (I15)."""


class CacheForeign(CacheError):
    """The directory has what is not ours, so it is left alone; says what is allowed."""


class CacheInUse(CacheError):
    """Other processes use this cache directory, and not with our settings."""


class CacheBusy(CacheError):
    """Another process holds a lock of the cache for too long: it was stopped, perhaps."""


class TooManyJobs(CacheError):
    """As many warm jobs run as may."""


class NoSpace(CacheError):
    """Room could not be made for a copy."""


class Closed(StreamCacheError):
    """The cache, session or handle was closed."""
