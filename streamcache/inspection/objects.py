"""Objects: the files under ``objects/``, their rows in the catalog, their digests."""

from __future__ import annotations

import os
import secrets
import stat
import time
from typing import Final

from streamcache.cache import audit
from streamcache.cache.digests import SUFFIX, Digest, Digests
from streamcache.cache.entry import Entry, NewEntry
from streamcache.cache.names import bytes_on_disk, is_name
from streamcache.cache.partial import path_of
from streamcache.cache.stored import Fate
from streamcache.inspection.directory import MOMENT, CacheDirectory
from streamcache.inspection.findings import Finding, Kind
from streamcache.inspection.versions import SourceVersions

_LATER: Final = 2 * 10**9  # ns after it became an object that somebody wrote to it
_FOLDERS: Final = tuple(f"{number:02x}" for number in range(256))


class ObjectInspection:
    """A look at all objects, folder by folder."""

    def __init__(
        self, directory: CacheDirectory, versions: SourceVersions, digest: Digest | None
    ) -> None:
        """``digest``: compare blocks with their digests; None: do not."""
        self._directory = directory
        self._report = directory.report
        self._objects = directory.store.objects
        self._versions = versions
        self._digest = digest

    def run(self) -> None:
        """Raises CatalogError, OSError."""
        directory, report = self._directory, self._report
        total = 0 if directory.catalog is None else directory.catalog.usage()[1]
        there = set(os.listdir(directory.path("objects")))
        for folder in sorted(there.difference(_FOLDERS)):
            directory.tell_foreign("objects", folder)
        for folder in _FOLDERS:
            files = self._files(folder) if folder in there else []
            rows = {} if directory.rows is None else audit.rows_of(directory.rows, folder)
            for file in files:
                if is_name(file) and file.startswith(folder):
                    self._look_at_object(file, rows.pop(file, None))
                    directory.progress(report.objects, max(total, report.objects))
                elif not (is_name(file.removesuffix(SUFFIX)) and file.startswith(folder)):
                    directory.tell_foreign("objects", folder, file)
                elif file.removesuffix(SUFFIX) not in files:
                    self._look_at_digests(folder, file)
            for name, entry in rows.items():
                self._look_at_row(name, entry)

    def _files(self, folder: str) -> list[str]:
        path = self._directory.path("objects", folder)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            return sorted(os.listdir(path))
        self._directory.tell_foreign("objects", folder, text="no directory")
        return []

    def _look_at_row(self, name: str, entry: Entry) -> None:
        """One that had no file when the folder was listed."""
        with self._directory.key(name) as ours:
            catalog = self._directory.rows
            if not ours or catalog is None or os.path.lexists(self._objects.path(name)):
                return
            if name in catalog.leaving():
                return  # it is being evicted: the file goes first, then its row
            if catalog.get(name) is not None:
                finding = Finding(Kind.MISSING, name, "not there", entry.path)
                self._directory.tell(finding, lambda: catalog.remove([name]) >= 0)

    def _look_at_digests(self, folder: str, file: str) -> None:
        """They had no object when the folder was listed; who evicts one removes them last."""
        time.sleep(MOMENT)
        with self._directory.key(file) as ours:
            path = self._objects.path(file.removesuffix(SUFFIX))
            if ours and os.path.lexists(path + SUFFIX) and not os.path.lexists(path):
                text = "digests of no object"
                self._directory.tell_foreign("objects", folder, file, text=text)

    def _look_at_object(self, name: str, entry: Entry | None) -> None:
        self._report.objects += 1
        self._report.bytes += bytes_on_disk(self._objects.path(name))
        if self._judge(name, entry) is None and self._rot(name) is None:
            return
        with self._directory.key(name) as ours:
            if not ours:
                return
            rows = self._directory.rows
            entry = None if rows is None else rows.get(name)
            finding = self._judge(name, entry) or self._rot(name)
            if finding is not None:
                self._directory.tell(finding, lambda: self._repair(finding))

    def _judge(self, name: str, entry: Entry | None) -> Finding | None:
        """What is wrong with the object; None: nothing, or it is not there any more."""
        file = self._objects.path(name)
        try:
            status = os.lstat(file)
        except FileNotFoundError:
            return None
        path = entry.path if entry is not None and entry.path else path_of(file)
        if not stat.S_ISREG(status.st_mode):
            return Finding(Kind.DAMAGED, name, "no file", path)
        if entry is not None:
            if entry.size != status.st_size:
                text = f"{status.st_size} bytes, {entry.size} expected"
                return Finding(Kind.DAMAGED, name, text, path)
            later = status.st_mtime_ns - entry.created * 1e9
            # A write sets both times; of the copy's own, one is the source's.
            if later > _LATER > abs(status.st_mtime_ns - status.st_ctime_ns):
                return Finding(Kind.DAMAGED, name, "somebody has written to it", path)
        if path and (finding := self._versions.compare(name, path, status)) is not None:
            return finding
        if self._directory.rows is not None:
            on_disk = status.st_blocks * 512 + bytes_on_disk(file + SUFFIX)
            if entry is None:
                return Finding(Kind.UNLISTED, name, "the catalog does not know it", path)
            if entry.on_disk != on_disk:
                text = f"{on_disk} bytes on disk, {entry.on_disk} counted"
                return Finding(Kind.ACCOUNT, name, text, path)
        return None

    def _rot(self, name: str) -> Finding | None:
        """Blocks that are not what their digests say."""
        if self._digest is None:
            return None
        file = self._objects.path(name)
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None  # it went, or is none
        try:
            size = os.fstat(fd).st_size
            digests = Digests.read(file + SUFFIX, size)
            if digests is None or not all(digests.recorded):
                self._report.undigested += bool(size)
            else:
                self._report.digested += 1
            if digests is None:
                return None
            count = len(digests.recorded)
            wrong = digests.wrong(fd, 0, count, size, self._digest)
        except OSError as error:
            return Finding(Kind.DAMAGED, name, f"cannot be read: {error.strerror}", path_of(file))
        finally:
            os.close(fd)
        if not wrong:
            return None
        text = f"{len(wrong)} of {count} blocks are not what was written"
        return Finding(Kind.DAMAGED, name, text, path_of(file))

    def _repair(self, finding: Finding) -> bool:
        """Enter what is sound, take away what is not. The key is ours."""
        name, catalog = finding.name, self._directory.catalog
        if finding.kind in (Kind.UNLISTED, Kind.ACCOUNT):
            stored = self._objects.find(name)
            if catalog is None or stored is None:
                return False
            size = stored.version.size
            catalog.add(NewEntry(name, finding.path, size, stored.on_disk, stored.stored))
            return True
        trash = f"{name}.{secrets.token_hex(4)}"
        fate, on_disk = self._objects.remove(name, trash)
        if catalog is not None:
            if fate is Fate.TRASHED:
                catalog.trashed(name, trash, on_disk)
            else:
                catalog.remove([name])
        return not os.path.lexists(self._objects.path(name))
