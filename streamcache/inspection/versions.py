"""The versions of objects, compared with what the source has now."""

from __future__ import annotations

import os
from typing import Final

from streamcache.cache.names import key_for, key_of, version_of
from streamcache.cache.stored import is_untouched
from streamcache.errors import AccessDenied, NotFound, SourceUnavailable
from streamcache.inspection.directory import CacheDirectory
from streamcache.inspection.findings import Finding, Kind
from streamcache.source.base import Source, Version

_SILENT: Final = 3  # files in a row that the source says nothing of: it is asked no more


class SourceVersions:
    """What the source has, as long as it answers."""

    def __init__(self, directory: CacheDirectory, source: Source | None, identity: str) -> None:
        """``source``: None, nothing is compared; ``identity`` as in ``source.identity``."""
        self._directory = directory
        self._source = source
        self._identity = identity
        self._unanswered = 0  # files in a row

    def compare(self, name: str, path: str, status: os.stat_result) -> Finding | None:
        """An object with what is under its path ("a/b.mp4"); None: nothing is wrong, as far as
        the source says.
        """
        source = self._source
        if source is None or key_for(source.id, self._identity, path) != key_of(name):
            return None  # of another source
        try:
            file = source.open(path)
        except NotFound:
            self._unanswered = 0
            return Finding(Kind.GONE, name, "the source has no such file", path)
        except (SourceUnavailable, AccessDenied) as error:
            self._unanswered += isinstance(error, SourceUnavailable)
            if self._unanswered >= _SILENT:
                self._source = None
                self._directory.tell(
                    Finding(Kind.SOURCE, f"/{path}", f"does not answer: {error}", path)
                )
            return None
        self._unanswered = 0
        version = file.version
        file.close()
        self._directory.report.compared += 1
        if version.id != version_of(name):
            return Finding(Kind.OUTDATED, name, "the source has another version", path)
        if not is_untouched(status, version):
            return Finding(Kind.DAMAGED, name, _difference(status, version), path)
        return None


def _difference(status: os.stat_result, version: Version) -> str:
    if status.st_size != version.size:
        return f"{status.st_size} bytes, {version.size} expected"
    return "somebody has written to it"
