"""``Operations``: what an operator does to a cache that runs: look, purge, pin, warm.

Hub's thread; greenlets are those of warm jobs (``warming.py``). The cache directory is that of all
processes that share it, while sessions, what is known of the source, and open files are those of
this process. So what was asked of one is to be asked of the others too, after it: they find
nothing more on the disk, and let go of what they have open. Other sources' files in a shared
directory can be listed, and are never touched.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from streamcache.cache.entry import Entry
from streamcache.cache.freshness import Freshness
from streamcache.cache.ledger import Ledger
from streamcache.cache.listing import Listing, Page
from streamcache.cache.names import key_for, key_of
from streamcache.cache.partials import Idle, Leftover
from streamcache.cache.picture import CopyPicture, picture_of
from streamcache.cache.provider import Provider
from streamcache.cache.removal import Removal
from streamcache.cache.resources import Resources
from streamcache.cache.selection import Selection
from streamcache.cache.warming import WarmJob
from streamcache.cache.warmorder import WarmOrder
from streamcache.errors import CacheError, NoSpace, TooManyJobs

PurgeMode = Literal["hard", "soft"]

_PIECE = 250  # entries between two switches
_BATCH = 64  # objects that are removed together
_JOBS = 20  # that have ended, and can still be asked about
_MOST_JOBS = 20  # that run: each has greenlets and a list of paths

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Purged:
    """Objects and partials that were meant, those that are gone, and the bytes of these on disk.

    In a dry run ``removed`` and ``bytes`` are what would go.
    """

    matched: int
    removed: int
    bytes: int
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Pinned:
    """Objects that this keeps, or lets go, and the paths whose pins were set, or taken away."""

    matched: int
    paths: int


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What this process knows of a path from the source."""

    version: str | None  # None: there is no such file
    fresh_for: float  # s from now; 0: it is asked before the next use
    failing_for: float | None  # s since when the source could not be asked; None: it could


class Operations:
    """Made by ``StreamCache.operations``; the methods say whether they switch."""

    def __init__(
        self,
        resources: Resources,
        ledger: Ledger,
        freshness: Freshness,
        removal: Removal,
        provider: Provider,
        why_no_copies: Callable[[], str],
    ) -> None:
        """``why_no_copies``: what keeps all files from being copied now, in words; "": nothing."""
        self._jobs: dict[str, WarmJob] = {}
        self._why_no_copies = why_no_copies
        self._r = resources
        self._ledger = ledger
        self._freshness = freshness
        self._removal = removal
        self._provider = provider

    def __repr__(self) -> str:
        return f"<Operations {self._r.source!r}>"

    # -- look

    def entries(self, listing: Listing, *, all_sources: bool = False) -> Page:
        """A page of the objects in the cache directory: those of our source, or all. Switches.

        Raises CatalogError.
        """
        if all_sources:
            return self._ledger.page(listing)
        source, identity = self._r.source.id, self._r.config.source.identity
        return self._ledger.page(listing, source, partial(key_for, source, identity))

    def is_ours(self, entry: Entry) -> bool:
        """Whether it is of our source, and found by its path. Does not switch."""
        return self._is_ours(entry.key, entry.path, Selection.everything())

    def entry(self, path: str) -> tuple[Entry, ...]:
        """The objects of a path ("/a/b.mp4"): one, or none, or old versions that are being read.

        Switches. Raises CatalogError; ValueError: this is no path.
        """
        found = [entry for entries in self._ours(Selection.of(path=path)) for entry in entries]
        return tuple(found)

    def partials(self, path: str) -> tuple[Idle, ...]:
        """What is left of a copy of a path ("/a/b.mp4") that nobody works on, to be gone on with.

        Nothing of a key that is being worked on, or of a disk that does not answer. Switches.
        Raises CatalogError, OSError.
        """
        key = self._provider.key(path.removeprefix("/"))
        names = self._ledger.reserved(key)
        if not names or (lock := self._r.keys.try_acquire(key)) is None:
            return ()
        with lock:
            try:
                found = [self._r.health.call(self._r.store.partials.look, name) for name in names]
            except TimeoutError:
                return ()
        return tuple(each for each in found if each is not None and each.kind is Leftover.PARTIAL)

    def known(self, path: str) -> Knowledge | None:
        """What the source said of a path last; None: nothing. Does not switch."""
        known, now = self._freshness.known(path.removeprefix("/")), time.monotonic()
        if known is None:
            return None
        return Knowledge(
            version=None if known.version is None else known.version.id,
            fresh_for=max(0.0, known.until - now),
            failing_for=None if known.failing_since is None else now - known.failing_since,
        )

    def copies(self, path: str = "") -> Iterator[CopyPicture]:
        """The copies of this process, or of one path, that are under way or still read.

        Each is pictured when it is taken. Does not switch.
        """
        detached = (session for session in self._provider.copies.ending if session.readers)
        wanted = path.removeprefix("/")
        sessions = [
            session
            for session in (*self._provider.copies.sessions.values(), *detached)
            if wanted in ("", session.path)
        ]
        return map(picture_of, sorted(sessions, key=lambda session: session.path))

    # -- purge

    def purge(
        self,
        selection: Selection,
        *,
        mode: PurgeMode = "hard",
        dry_run: bool = False,
        repeated: bool = False,
    ) -> Purged:
        """Take these files out of the cache, or have them asked for again before the next use.

        "hard": objects and partials go, copies under way end as if their files had changed. Who
        reads goes on with the version and the bytes that he has, or is cut where a copy cannot go
        on; nobody joins. A pin of the path stays. "soft": what is there stays, and the source is
        asked before it is used again. ``repeated``: another process was asked first, so a line in
        the log is for what only this one had. Switches. Raises CatalogError, OSError.
        """
        if mode not in get_args(PurgeMode):
            raise ValueError(f"mode {mode!r} is not one of {', '.join(get_args(PurgeMode))}")
        if mode == "soft":
            return self._soft_purge(selection, dry_run=dry_run, repeated=repeated)
        running: dict[str, str] = {}
        if not dry_run:
            # First of all: from here on nothing new is joined or answered with what is to go.
            running = self._provider.copies.outdate_paths(selection.matches)
            self._expire(selection)
        matched = removed = freed = 0
        for entries in self._ours(selection):
            gone = entries if dry_run else self._remove(entries)
            matched += len(entries)
            removed += len(gone)
            freed += sum(entry.on_disk for entry in gone)
        for name, path, reserved in self._partials(selection, running):
            matched += 1
            if dry_run or self._purge(name, path):
                removed += 1
                freed += reserved
        if not dry_run:
            self._r.objects.let_go_of_missing()
            if matched or not repeated:
                log.info(
                    "purged files=%r matched=%d removed=%d bytes=%d",
                    *(str(selection), matched, removed, freed),
                )
        return Purged(matched, removed, freed, dry_run)

    def _soft_purge(self, selection: Selection, *, dry_run: bool, repeated: bool) -> Purged:
        if not dry_run:
            self._expire(selection)
            if not repeated:
                log.info("purged files=%r mode=%s", str(selection), "soft")
        return Purged(sum(map(len, self._ours(selection))), 0, 0, dry_run)

    def _expire(self, selection: Selection) -> None:
        """Does not switch: 100,000 paths take some 20 ms."""
        self._freshness.expire(filter(selection.matches, self._freshness.paths()))

    def _remove(self, entries: list[Entry]) -> list[Entry]:
        """Those that are gone. Switches."""
        gone: set[str] = set()
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            names = [entry.name for entry in batch]
            # As the Evictor does it: one that is published anew meanwhile keeps its row.
            self._ledger.choose(names)
            unread = self._r.objects.evict(names)
            self._ledger.chosen_are_gone(unread)
            gone.update(unread)
            held = [entry for entry in batch if entry.name not in gone]
            gone.update(entry.name for entry in held if self._purge(entry.name, entry.path))
        return [entry for entry in entries if entry.name in gone]

    def _purge(self, name: str, path: str) -> bool:
        try:
            return self._removal.purge(name)
        except CacheError as error:
            log.warning("not purged path=%r name=%s error=%s", f"/{path}", name, error)
            return False

    def _partials(
        self, selection: Selection, running: dict[str, str]
    ) -> list[tuple[str, str, int]]:
        """Names and paths of partials that are meant, and what is reserved for them. Switches.

        ``running``: {name: path} of sessions of ours that were copying, in the end into no partial.
        """
        found = []
        key = None if selection.path is None else self._provider.key(selection.path)
        for row in self._ledger.reservations():
            if selection.path is not None:
                path = selection.path
                is_meant = key_of(row.name) == key
            elif row.name in running:
                path = running[row.name]
                is_meant = True
            else:
                path = self._r.disk.call(self._r.store.partials.path, row.name)
                ours = self._provider.key(path) == key_of(row.name)
                is_meant = ours and selection.matches(path)
            if is_meant:
                found.append((row.name, path, row.bytes))
        return found

    # -- pin

    def pin(self, selection: Selection) -> Pinned:
        """Keep the objects of these paths from being evicted, in whichever version, for good.

        A path need not be in the cache yet; with a prefix or glob those are meant that are. Kept
        over restarts and the loss of the catalog (``pins/``). Switches. Raises NoSpace when too
        little would be left that may be evicted, CatalogError, OSError.
        """
        more = 0
        for entries in self._ours(selection):
            more += sum(entry.on_disk for entry in entries if not entry.pinned)
        most = int(self._r.config.cache.low_watermark * self._r.space.limit)
        if more and (total := self._ledger.pinned_bytes() + more) > most:
            raise NoSpace(
                f"{total} bytes would be pinned; at most {most} (cache.low_watermark of cache.size)"
                " may be, so that there is something to evict"
            )
        matched = paths = 0
        for pins in self._to_pin(selection):
            matched += self._ledger.pin(pins)
            paths += len(pins)
        log.info("pinned files=%r objects=%d paths=%d", str(selection), matched, paths)
        return Pinned(matched, paths)

    def _to_pin(self, selection: Selection) -> Iterator[dict[str, str]]:
        """{key: path} in pieces, so that the catalog is never held for long. Switches."""
        if selection.path is not None:
            yield {self._provider.key(selection.path): selection.path}
            return
        last = ""  # versions of one path come one after the other
        for entries in self._ours(selection):
            if pins := {entry.key: entry.path for entry in entries if entry.key != last}:
                yield pins
                last = entries[-1].key

    def unpin(self, selection: Selection) -> Pinned:
        """Let these paths be evicted again. Switches. Raises CatalogError, OSError."""
        found = self._ledger.pins()
        if selection.path is not None:  # also if its pin does not say its path
            keys = [key for key in [self._provider.key(selection.path)] if key in found]
        else:
            keys = [
                key
                for key, path in found.items()
                if selection.matches(path) and self._is_ours(key, path, selection)
            ]
        matched = 0
        for start in range(0, len(keys), _PIECE):
            matched += self._ledger.unpin(keys[start : start + _PIECE])
        log.info("unpinned files=%r objects=%d paths=%d", str(selection), matched, len(keys))
        return Pinned(matched, len(keys))

    def pins(self) -> tuple[str, ...]:
        """The pinned paths ("/a/b.mp4") in their order. Switches. Raises CatalogError."""
        pins, everything = self._ledger.pins(), Selection.everything()
        ours = (path for key, path in pins.items() if self._is_ours(key, path, everything))
        return tuple(sorted(f"/{path}" for path in ours))

    # -- warm

    def warm(self, order: WarmOrder) -> WarmJob:
        """Begin to bring files into the cache that nobody asks for yet. Does not switch.

        Of the files that the source has, in this process; see ``warming.py`` for what it may take.
        A job ends with the cache. Raises TooManyJobs.
        """
        if sum(one.state == "running" for one in self._jobs.values()) >= _MOST_JOBS:
            raise TooManyJobs(f"{_MOST_JOBS} warm jobs run already; wait for one, or cancel it")
        job = WarmJob(
            secrets.token_hex(6),
            order,
            resources=self._r,
            provider=self._provider,
            pin=lambda path: self.pin(Selection.of(path=path)),
            why_no_copies=self._why_no_copies,
        )
        self._jobs[job.id] = job
        ended = [one.id for one in self._jobs.values() if one.state != "running"]
        for old in ended[: max(0, len(ended) - _JOBS)]:
            del self._jobs[old]
        return job

    @property
    def warm_jobs(self) -> Mapping[str, WarmJob]:
        """Those that run, and the last ones that ended, by their id; the oldest first."""
        return self._jobs

    def close(self) -> None:
        """End all jobs. Switches."""
        for job in list(self._jobs.values()):
            job.cancel()

    # -- inside

    def _ours(self, selection: Selection) -> Iterator[list[Entry]]:
        """The entries of our source that are meant, in pieces. Switches between them."""
        after = ""
        while True:
            found, after = self._ledger.entries(Listing(selection, limit=_PIECE, after=after))
            yield [one for one in found if self._is_ours(one.key, one.path, selection)]
            if not after:
                return

    def _is_ours(self, key: str, path: str, selection: Selection) -> bool:
        """One whose path was lost with a catalog is meant if all are."""
        return key == self._provider.key(path) or (not path and selection.is_everything)
