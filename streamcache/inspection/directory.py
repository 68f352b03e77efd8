"""The directory that is looked through: its files, its keys, its catalog; what is wrong is told."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Final

from streamcache.cache import locks
from streamcache.cache.catalog import Catalog
from streamcache.cache.names import key_of, remove_foreign
from streamcache.cache.store import Store
from streamcache.errors import CacheError
from streamcache.inspection.findings import Finding, Kind, Repair, Report

MOMENT: Final = 0.3  # s in which who is at it has done what comes next


class CacheDirectory:
    """What all parts of an inspection share, from ``open`` to ``close``."""

    def __init__(
        self,
        root: str,
        *,
        repair: bool,
        found: Callable[[Finding], object],
        progress: Callable[[int, int], object],
    ) -> None:
        """See ``Inspection``."""
        self.report = Report()
        self.repair = repair
        self.progress = progress
        self.store = Store(root)
        self.catalog: Catalog | None = None  # if it can be used
        self._found = found

    def open(self) -> None:
        """Raises CacheError, CacheBusy, OSError."""
        self.store.join()

    def close(self) -> None:
        """Let go of it, and of the catalog."""
        if self.catalog is not None:
            self.catalog.close()
        self.store.close()

    def path(self, *parts: str) -> str:
        """Of a file in it."""
        return os.path.join(self.store.root, *parts)

    @property
    def rows(self) -> Catalog | None:
        """The catalog, if its rows are of all objects."""
        catalog = self.catalog
        return catalog if catalog is not None and catalog.complete else None

    @contextlib.contextmanager
    def key(self, name: str) -> Iterator[bool]:
        """Whether the key of this file is ours now; else somebody works with it."""
        with locks.key_held(self.store.lock, key_of(name)) as ours:
            if not ours:
                self.report.busy += 1
            yield ours

    def tell(self, finding: Finding, repair: Callable[[], bool] | None = None) -> None:
        """It is wrong; ``repair()`` makes it right, if that is asked for, and says whether."""
        if self.repair:
            done = False
            if repair is not None:
                with contextlib.suppress(CacheError, OSError):
                    done = repair()
            finding = dataclasses.replace(finding, repair=Repair.DONE if done else Repair.LEFT)
        self.report.findings.append(finding)
        self._found(finding)

    def tell_foreign(self, *parts: str, text: str = "not ours") -> None:
        """The file of that name, folder by folder, is none that we made."""
        path = self.path(*parts)

        def remove() -> bool:
            remove_foreign(path)
            return not os.path.lexists(path)

        # What lies beside our folders harms nobody.
        repair = remove if len(parts) > 1 else None
        self.tell(Finding(Kind.FOREIGN, os.path.join(*parts), text), repair)
