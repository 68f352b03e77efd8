"""A look through a whole cache directory: is everything what it should be?

Blocks; for a program of its own, without a hub (``streamcache verify``). Servers may use the
directory meanwhile: this is one more process that shares it. What looks wrong is looked at again
under the lock of its key, so that what somebody is just doing is not taken for damage, and repaired
there. Without ``repair`` nothing is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Final, Self

from streamcache.cache import audit, locks
from streamcache.cache.account import Reserved
from streamcache.cache.catalog import Catalog, Entry, NewEntry
from streamcache.cache.database import (
    CatalogCorrupt,
    CatalogError,
    CatalogReplaced,
    Database,
    set_aside,
    take_lock,
)
from streamcache.cache.digests import SUFFIX, Digest, Digests
from streamcache.cache.findings import Finding, Kind, Repair, Report
from streamcache.cache.names import blocks_of, is_name, key_for, key_of, remove_foreign
from streamcache.cache.partial import PartialHeader, path_of
from streamcache.cache.partials import Idle, Leftover
from streamcache.cache.policy import POLICIES
from streamcache.cache.store import Store
from streamcache.cache.stored import Fate, is_untouched
from streamcache.errors import AccessDenied, CacheError, NotFound, SourceUnavailable
from streamcache.source.base import Source, Version

_LOCK_WAIT: Final = 2.0  # s for a key, which is held for moments only
_YOUNG: Final = 60.0  # s that a reservation may be without files: its session waits for its lock
_LATER: Final = 2 * 10**9  # ns after it became an object that somebody wrote to it
_MOMENT: Final = 0.3  # s in which who is at it has done what comes next
_SILENT: Final = 3  # files in a row that the source says nothing of: it is asked no more
_PIECE: Final = 16  # blocks that are compared with their digests between two signs of life
_OURS: Final = frozenset(
    {"format", "lock", "evictor", "mounts", "mounts.new", "probe", "catalog.lock"}
)
_FOLDERS: Final = ("objects", "partial", "trash", "pins")


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
        self.report = Report()
        self._store = Store(root)
        self._catalog: Catalog | None = None
        self._source = source
        self._identity = identity
        self._digest = digest
        self._repair = repair
        self._found = found
        self._progress = progress
        self._unanswered = 0  # files in a row

    def __enter__(self) -> Self:
        """Raises CacheError, CacheBusy, OSError."""
        self._store.join()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._catalog is not None:
            self._catalog.close()
        self._store.close()

    def expected_mount(self, source: str, now: str) -> str:
        """See ``Store.seen_mount``."""
        return self._store.seen_mount(source, now)

    def run(self) -> Report:
        """Look at everything. Blocks. Raises CacheError, OSError."""
        if self._look_at_layout():
            self._open_catalog()
            self._look_at_objects()
            self._look_at_partials()
            self._look_at_trash()
            self._look_at_totals()
        self.report.finished = True
        return self.report

    # -- findings

    def _tell(self, finding: Finding, repair: Callable[[], bool] | None = None) -> None:
        """It is wrong; ``repair()`` makes it right, if that is asked for, and says whether."""
        if self._repair:
            done = False
            if repair is not None:
                with contextlib.suppress(CacheError, OSError):
                    done = repair()
            finding = dataclasses.replace(finding, repair=Repair.DONE if done else Repair.LEFT)
        self.report.findings.append(finding)
        self._found(finding)

    def _foreign(self, *parts: str, text: str = "not ours") -> None:
        path = os.path.join(self._store.root, *parts)
        name = os.path.join(*parts)

        def remove() -> bool:
            remove_foreign(path)
            return not os.path.lexists(path)

        # What lies beside our folders harms nobody.
        self._tell(Finding(Kind.FOREIGN, name, text), remove if len(parts) > 1 else None)

    @contextlib.contextmanager
    def _key(self, name: str) -> Iterator[bool]:
        with locks.key_held(self._store.lock, key_of(name), _LOCK_WAIT) as ours:
            if not ours:
                self.report.busy += 1
            yield ours

    # -- the directory, the catalog

    def _look_at_layout(self) -> bool:
        """Whether there is more to look at."""
        root, whole = self._store.root, True
        for folder in _FOLDERS:
            try:
                kind = os.lstat(os.path.join(root, folder)).st_mode
            except FileNotFoundError:
                if folder != "pins":  # came with a later version
                    self._tell(Finding(Kind.LAYOUT, folder, "missing"), self._made(folder))
                    whole = whole and os.path.isdir(os.path.join(root, folder))
                continue
            if not stat.S_ISDIR(kind):
                self._tell(Finding(Kind.LAYOUT, folder, "no directory"))
                whole = False
        for file in sorted(os.listdir(root)):
            if file not in _OURS and file not in _FOLDERS and not file.startswith("catalog"):
                self._foreign(file)
        return whole

    def _made(self, folder: str) -> Callable[[], bool]:
        def make() -> bool:
            os.mkdir(os.path.join(self._store.root, folder), 0o700)
            return True

        return make

    def _open_catalog(self) -> None:
        path = os.path.join(self._store.root, "catalog.sqlite")
        try:
            database = Database(path)
        except CatalogReplaced:
            text = "not there; a server makes it anew from the objects"
            self._tell(Finding(Kind.CATALOG, "catalog.sqlite", text))
            return
        except CatalogCorrupt as error:
            self._tell(Finding(Kind.CATALOG, "catalog.sqlite", str(error)), self._set_aside(path))
            return
        except CatalogError as error:
            self._tell(Finding(Kind.CATALOG, "catalog.sqlite", str(error)))
            return
        try:
            state = database.state
            policy = next((name for name in POLICIES if name == state.policy), None)
            if policy is None:
                raise CatalogCorrupt(f"{path}: unknown policy {state.policy!r}")
            self._catalog = Catalog(database, policy, max(1, state.size))
            problem = audit.damage(self._catalog)
        except CatalogError as error:
            problem = str(error)
        if problem:
            if self._catalog is None:
                database.close()
            self._lose_catalog(problem)

    def _lose_catalog(self, problem: str) -> None:
        """It cannot be used: a server finds that out, and makes another."""
        if self._catalog is not None:
            self._catalog.close()
        self._catalog = None
        path = os.path.join(self._store.root, "catalog.sqlite")
        self._tell(Finding(Kind.CATALOG, "catalog.sqlite", problem), self._set_aside(path))

    def _set_aside(self, path: str) -> Callable[[], bool]:
        def aside() -> bool:
            lock = take_lock(os.path.join(self._store.root, "catalog.lock"))
            if lock < 0:
                return False  # somebody is at it
            try:
                set_aside(path)
            finally:
                os.close(lock)
            return True

        return aside

    @property
    def _rows(self) -> Catalog | None:
        """The catalog, if its rows are of all objects."""
        catalog = self._catalog
        return catalog if catalog is not None and catalog.complete else None

    # -- objects

    def _look_at_objects(self) -> None:
        total = 0 if self._catalog is None else self._catalog.usage()[1]
        base = os.path.join(self._store.root, "objects")
        folders = set(os.listdir(base))
        for folder in sorted(folders - {f"{number:02x}" for number in range(256)}):
            self._foreign("objects", folder)
        for number in range(256):
            folder = f"{number:02x}"
            files: list[str] = []
            path = os.path.join(base, folder)
            if folder in folders:
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    files = sorted(os.listdir(path))
                else:
                    self._foreign("objects", folder, text="no directory")
            rows = {} if self._rows is None else audit.rows_of(self._rows, folder)
            for file in files:
                if is_name(file) and file.startswith(folder):
                    self._look_at_object(file, rows.pop(file, None))
                    self._progress(self.report.objects, max(total, self.report.objects))
                elif not (is_name(file.removesuffix(SUFFIX)) and file.startswith(folder)):
                    self._foreign("objects", folder, file)
                elif file.removesuffix(SUFFIX) not in files:
                    self._look_at_digests(folder, file)
            for name, entry in rows.items():
                self._look_at_row(name, entry)

    def _look_at_row(self, name: str, entry: Entry) -> None:
        """One that had no file when the folder was listed."""
        with self._key(name) as ours:
            catalog = self._rows
            if not ours or catalog is None or os.path.lexists(self._store.objects.path(name)):
                return
            if name in catalog.leaving():
                return  # it is being evicted: the file goes first, then its row
            if catalog.get(name) is not None:
                finding = Finding(Kind.MISSING, name, "not there", entry.path)
                self._tell(finding, lambda: catalog.remove([name]) >= 0)

    def _look_at_digests(self, folder: str, file: str) -> None:
        """They had no object when the folder was listed; who evicts one removes them last."""
        time.sleep(_MOMENT)
        with self._key(file) as ours:
            path = self._store.objects.path(file.removesuffix(SUFFIX))
            if ours and os.path.lexists(path + SUFFIX) and not os.path.lexists(path):
                self._foreign("objects", folder, file, text="digests of no object")

    def _look_at_object(self, name: str, entry: Entry | None) -> None:
        self.report.objects += 1
        self.report.bytes += blocks_of(self._store.objects.path(name))
        if self._judge(name, entry) is None and self._rot(name) is None:
            return
        with self._key(name) as ours:
            if not ours:
                return
            entry = None if self._rows is None else self._rows.get(name)
            finding = self._judge(name, entry) or self._rot(name)
            if finding is not None:
                self._tell(finding, lambda: self._repair_object(finding))

    def _judge(self, name: str, entry: Entry | None) -> Finding | None:
        """What is wrong with the object; None: nothing, or it is not there any more."""
        file = self._store.objects.path(name)
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
        if path and (finding := self._compare(name, path, status)) is not None:
            return finding
        if self._rows is not None:
            blocks = status.st_blocks * 512 + blocks_of(file + SUFFIX)
            if entry is None:
                return Finding(Kind.UNLISTED, name, "the catalog does not know it", path)
            if entry.blocks != blocks:
                text = f"{blocks} bytes on disk, {entry.blocks} counted"
                return Finding(Kind.ACCOUNT, name, text, path)
        return None

    def _compare(self, name: str, path: str, status: os.stat_result) -> Finding | None:
        """With what the source has under this path."""
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
                self._tell(Finding(Kind.SOURCE, path, f"does not answer: {error}", path))
            return None
        self._unanswered = 0
        version = file.version
        file.close()
        self.report.compared += 1
        if version.id != name.partition(".")[2]:
            return Finding(Kind.OUTDATED, name, "the source has another version", path)
        if not is_untouched(status, version):
            return Finding(Kind.DAMAGED, name, _difference(status, version), path)
        return None

    def _rot(self, name: str) -> Finding | None:
        """Blocks that are not what their digests say."""
        if self._digest is None:
            return None
        file = self._store.objects.path(name)
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None  # it went, or is none
        try:
            size = os.fstat(fd).st_size
            digests = Digests.read(file + SUFFIX, size)
            if digests is None or not all(digests.recorded):
                self.report.undigested += bool(size)
            else:
                self.report.digested += 1
            wrong = [] if digests is None else list(self._wrong(digests, fd, size))
        except OSError as error:
            return Finding(Kind.DAMAGED, name, f"cannot be read: {error.strerror}", path_of(file))
        finally:
            os.close(fd)
        if not wrong:
            return None
        text = f"{len(wrong)} of {len(digests.recorded) if digests else 0} blocks are not what"
        return Finding(Kind.DAMAGED, name, f"{text} was written", path_of(file))

    def _wrong(self, digests: Digests, fd: int, size: int) -> Iterator[int]:
        assert self._digest is not None
        count = len(digests.recorded)
        for start in range(0, count, _PIECE):
            stop = min(start + _PIECE, count)
            yield from digests.wrong(fd, start, stop, size, self._digest)

    def _repair_object(self, finding: Finding) -> bool:
        """Enter what is sound, take away what is not. The key is ours."""
        name, catalog = finding.name, self._catalog
        if finding.kind in (Kind.UNLISTED, Kind.ACCOUNT):
            stored = self._store.objects.find(name)
            if catalog is None or stored is None:
                return False
            size = stored.version.size
            catalog.add(NewEntry(name, finding.path, size, stored.blocks, stored.stored))
            return True
        trash = f"{name}.{secrets.token_hex(4)}"
        fate, blocks = self._store.objects.remove(name, trash)
        if catalog is not None:
            if fate is Fate.TRASHED:
                catalog.trashed(name, trash, blocks)
            else:
                catalog.remove([name])
        return not os.path.lexists(self._store.objects.path(name))

    # -- partials

    def _look_at_partials(self) -> None:
        names = set()
        for file in sorted(os.listdir(os.path.join(self._store.root, "partial"))):
            name, _, suffix = file.rpartition(".")
            if suffix in ("map", "data", "sums") and is_name(name):
                names.add(name)
            else:
                self._foreign("partial", file)
        rows: dict[str, Reserved] = {}
        if self._rows is not None:
            rows = {row.name: row for row in self._rows.account.reservations(-1)}
        for name in sorted({*names, *rows}):
            self.report.partials += name in names
            with self._key(name) as ours:
                if ours:
                    self._look_at_partial(name)

    def _look_at_partial(self, name: str) -> None:
        """The key is ours, so nobody begins or ends with it."""
        folder, account = self._store.partials, None
        if self._rows is not None:
            account = self._rows.account
        idle = folder.look(name)
        generation = 0 if account is None else account.generation(name)
        row = None
        if account is not None:
            row = next((row for row in account.reservations(-1) if row.name == name), None)
        finding = None
        if idle is None and folder.is_there(name):
            return  # somebody works on it
        if idle is None and os.path.lexists(folder.data(name)):
            finding = Finding(Kind.PARTIAL, name, "no map says what is in it")
        elif idle is None:
            if row is not None and time.time() - row.used > _YOUNG:
                finding = Finding(Kind.ACCOUNT, name, f"{row.bytes} bytes reserved for no partial")
        elif idle.kind is Leftover.JOURNAL:
            finding = Finding(Kind.PARTIAL, name, "a map without a copy", idle.path)
        elif idle.kind is Leftover.UNSOUND:
            text = "cannot be continued (of another boot of the machine, or damaged)"
            finding = Finding(Kind.PARTIAL, name, text, idle.path)
        elif self._is_rotten(name, idle):
            text = "blocks are not what was written"
            finding = Finding(Kind.DAMAGED, name, text, idle.path)
        elif account is not None and (row is None or row.bytes < idle.blocks):
            counted = 0 if row is None else row.bytes
            text = f"{idle.blocks} bytes on disk, {counted} counted"
            finding = Finding(Kind.ACCOUNT, name, text, idle.path)
        if finding is None:
            return

        def repair() -> bool:
            if finding.kind is Kind.ACCOUNT and row is not None:
                blocks = folder.settle(name)
            else:
                blocks = folder.remove(name)
            if blocks is not None and account is not None and generation:
                account.settle(name, generation, blocks)
            return blocks is not None

        self._tell(finding, repair)

    def _is_rotten(self, name: str, idle: Idle) -> bool:
        """Whether present blocks are not what their digests say."""
        if self._digest is None:
            return False
        folder = self._store.partials
        with open(folder.map_path(name), "rb") as file:
            raw = file.read()
        header, start = PartialHeader.decode(raw)
        digests = Digests.read(folder.sums(name), header.size)
        if digests is None:
            return False
        there = tuple(
            digest if present else 0
            for digest, present in zip(digests.recorded, raw[start:], strict=True)
        )
        with open(folder.data(name), "rb") as data:
            return any(self._wrong(Digests(there), data.fileno(), header.size))

    # -- trash, totals

    def _look_at_trash(self) -> None:
        suspects = self._suspects()
        if suspects:
            time.sleep(_MOMENT)  # whose last reader has just left is removed in a moment
            again = self._suspects()
            for file in sorted(suspects.keys() & again.keys()):
                finding = Finding(Kind.TRASH, f"trash/{file}", again[file])
                self._tell(finding, partial(self._empty, file))

    def _suspects(self) -> dict[str, str]:
        """What is in trash/, or counted there, and should not be; and why."""
        rows = {}
        if self._rows is not None:
            rows = {row.file: row.blocks for row in self._rows.account.trash()}
        there = set(os.listdir(os.path.join(self._store.root, "trash")))
        found = {file: f"{rows[file]} bytes counted for it" for file in rows.keys() - there}
        return found | {
            file: "nobody reads it" for file in there if not self._store.objects.is_read(file)
        }

    def _empty(self, file: str) -> bool:
        gone = self._store.objects.empty_trash([file])
        if gone and self._catalog is not None:
            self._catalog.account.free_trash(file)
        return bool(gone)

    def _look_at_totals(self) -> None:
        if self._rows is None:
            return
        wrong = audit.wrong_totals(self._rows, repair=self._repair)
        if wrong:
            self._tell(Finding(Kind.ACCOUNT, "catalog.sqlite", wrong), lambda: True)


def _difference(status: os.stat_result, version: Version) -> str:
    if status.st_size != version.size:
        return f"{status.st_size} bytes, {version.size} expected"
    return "somebody has written to it"
