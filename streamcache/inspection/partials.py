"""Partials: the files under ``partial/``, and what is reserved for them."""

from __future__ import annotations

import os
import time
from typing import Final

from streamcache.cache.account import Account, Reserved
from streamcache.cache.digests import Digest, Digests
from streamcache.cache.names import is_name
from streamcache.cache.partial import PartialHeader
from streamcache.cache.partials import Idle, Leftover
from streamcache.inspection.directory import CacheDirectory
from streamcache.inspection.findings import Finding, Kind

_YOUNG: Final = 60.0  # s that a reservation may be without files: its session waits for its lock


class PartialInspection:
    """A look at all partials that nobody works on."""

    def __init__(self, directory: CacheDirectory, digest: Digest | None) -> None:
        """``digest``: compare present blocks with their digests; None: do not."""
        self._directory = directory
        self._partials = directory.store.partials
        self._digest = digest

    def run(self) -> None:
        """Raises CatalogError, OSError."""
        directory, names = self._directory, set()
        for file in sorted(os.listdir(directory.path("partial"))):
            name, _, suffix = file.rpartition(".")
            if suffix in ("map", "data", "sums") and is_name(name):
                names.add(name)
            else:
                directory.tell_foreign("partial", file)
        reserved = set()
        if directory.rows is not None:
            reserved = {row.name for row in directory.rows.account.reservations(-1)}
        for name in sorted(names | reserved):
            directory.report.partials += name in names
            with directory.key(name) as ours:
                if ours:
                    self._look_at_partial(name)

    def _look_at_partial(self, name: str) -> None:
        """The key is ours, so nobody begins or ends with it."""
        folder, rows = self._partials, self._directory.rows
        account = None if rows is None else rows.account
        idle = folder.look(name)
        generation = 0 if account is None else account.generation(name)
        row = None
        if account is not None:
            row = next((row for row in account.reservations(-1) if row.name == name), None)
        if idle is not None:
            finding = self._judge(idle, account, row)
        elif folder.is_there(name):
            return  # somebody works on it
        else:
            finding = self._judge_without_map(name, row)
        if finding is None:
            return

        def repair() -> bool:
            if finding.kind is Kind.ACCOUNT and row is not None:
                on_disk = folder.settle(name)
            else:
                on_disk = folder.remove(name)
            if on_disk is not None and account is not None and generation:
                account.settle(name, generation, on_disk)
            return on_disk is not None

        self._directory.tell(finding, repair)

    def _judge(self, idle: Idle, account: Account | None, row: Reserved | None) -> Finding | None:
        """What is wrong with the partial, or with the ``row`` that counts it; None: nothing."""
        name, path = idle.name, idle.path
        if idle.kind is Leftover.JOURNAL:
            return Finding(Kind.PARTIAL, name, "a map without a copy", path)
        if idle.kind is Leftover.UNSOUND:
            text = "cannot be continued (of another boot of the machine, or damaged)"
            return Finding(Kind.PARTIAL, name, text, path)
        if self._is_rotten(name):
            return Finding(Kind.DAMAGED, name, "blocks are not what was written", path)
        if account is not None and (row is None or row.bytes < idle.on_disk):
            counted = 0 if row is None else row.bytes
            text = f"{idle.on_disk} bytes on disk, {counted} counted"
            return Finding(Kind.ACCOUNT, name, text, path)
        return None

    def _judge_without_map(self, name: str, row: Reserved | None) -> Finding | None:
        if os.path.lexists(self._partials.data(name)):
            return Finding(Kind.PARTIAL, name, "no map says what is in it")
        if row is not None and time.time() - row.used > _YOUNG:
            return Finding(Kind.ACCOUNT, name, f"{row.bytes} bytes reserved for no partial")
        return None

    def _is_rotten(self, name: str) -> bool:
        """Whether present blocks are not what their digests say."""
        if self._digest is None:
            return False
        folder = self._partials
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
            return bool(
                Digests(there).wrong(data.fileno(), 0, len(there), header.size, self._digest)
            )
