"""All looks at a cache directory, in their order. Blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from streamcache.cache.digests import Digest
from streamcache.inspection.catalog import inspect_catalog, inspect_totals
from streamcache.inspection.directory import CacheDirectory
from streamcache.inspection.findings import Finding, Report
from streamcache.inspection.layout import inspect_layout
from streamcache.inspection.objects import ObjectInspection
from streamcache.inspection.partials import PartialInspection
from streamcache.inspection.trash import inspect_trash
from streamcache.inspection.versions import SourceVersions
from streamcache.source.base import Source


class Inspection:
    """One look; ``with`` it open, ``run`` once."""

    def __init__(
        self,
        root: str,
        *,
        source: Source | None = None,
        identity: str = "mtime",
        digest: Digest | None = None,
        repair: bool = False,
        found: Callable[[Finding], object] = lambda finding: None,
        progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> None:
        """``source``: compare versions with it; ``digest``: compare blocks with their digests.
        ``found`` hears of each finding at once, ``progress(done, total)`` counts objects.
        """
        directory = CacheDirectory(root, repair=repair, found=found, progress=progress)
        versions = SourceVersions(directory, source, identity)
        self.report = directory.report
        self._directory = directory
        self._objects = ObjectInspection(directory, versions, digest)
        self._partials = PartialInspection(directory, digest)

    def __enter__(self) -> Self:
        """Raises CacheError, CacheBusy, OSError."""
        self._directory.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.close()

    def expected_mount(self, source: str, now: str) -> str:
        """See ``Store.seen_mount``."""
        return self._directory.store.seen_mount(source, now)

    def run(self) -> Report:
        """Look at everything. Blocks. Raises CacheError, OSError."""
        if inspect_layout(self._directory):
            inspect_catalog(self._directory)
            self._objects.run()
            self._partials.run()
            inspect_trash(self._directory)
            inspect_totals(self._directory)
        self.report.finished = True
        return self.report
