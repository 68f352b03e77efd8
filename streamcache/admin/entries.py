"""``/api/entries``, ``/api/entry``, ``/api/pins``: what is in the cache.

The catalog is read in worker threads, a page at a time, so a cache of a million objects holds
nobody up.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final, get_args

from streamcache.admin.answers import Answer, Json, Question, Refusal, only
from streamcache.admin.routes import Routes
from streamcache.admin.selecting import choice, selection_in
from streamcache.admin.sessions import Sessions
from streamcache.admin.subject import Subject
from streamcache.cache.entry import Entry
from streamcache.cache.listing import MOST, Direction, Listing, SortBy
from streamcache.cache.names import version_of
from streamcache.cache.selection import Selection

_PAGE: Final = 100


class Entries:
    """Answers for a subject."""

    def __init__(self, subject: Subject, sessions: Sessions) -> None:
        self._subject = subject
        self._sessions = sessions

    def add_to(self, routes: Routes) -> None:
        """Have these questions answered."""
        routes.add("GET", "/api/entries", self.entries)
        routes.add("GET", "/api/entry", self.entry)
        routes.add("GET", "/api/pins", self.pins)

    def entries(self, question: Question) -> Answer:
        """SWITCHES; a page of the objects."""
        query = question.query
        only(query, ("prefix", "glob", "sort", "order", "limit", "after", "sources"))
        if "prefix" in query or "glob" in query:
            selection = selection_in(query)
        else:
            selection = Selection.everything()
        sort: Any = choice(query.get("sort", "path"), "sort", get_args(SortBy))
        order: Any = choice(query.get("order", "asc"), "order", get_args(Direction))
        try:
            listing = Listing(
                selection, sort, order, _limit(query.get("limit")), query.get("after", "")
            )
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        sources = choice(query.get("sources", "own"), "sources", ("own", "all"))
        operations = self._subject.cache.operations
        page = operations.entries(listing, all_sources=sources == "all")
        rest = {
            "next": page.next or None,
            "count": page.count,
            "others": dataclasses.asdict(page.others),
        }
        entries = (shown(each, ours=operations.is_ours(each)) for each in page.entries)
        return Answer.listing("entries", entries, rest)

    def entry(self, question: Question) -> Answer:
        """SWITCHES; all that is known of one path, in all workers."""
        only(question.query, ("path", "local"))
        path = str(selection_in({"path": question.query.get("path", "")}))
        operations = self._subject.cache.operations
        known = operations.known(path)
        sessions = list(self._sessions.own(path))
        knowledge = {self._subject.name: None if known is None else dataclasses.asdict(known)}
        if question.local:
            return Answer.of({"sessions": sessions, "knowledge": knowledge})
        heard = self._subject.peers.ask("GET", "/api/entry", query={"path": path})
        for each in heard.values.values():
            sessions += each["sessions"]
            knowledge.update(each["knowledge"])
        return Answer.of(
            {
                "path": path,
                "entries": [shown(entry, ours=True) for entry in operations.entry(path)],
                "partials": [
                    {
                        "version": version_of(partial.name),
                        "size": partial.size,
                        "present": partial.present,
                        "on_disk": partial.on_disk,
                        "blocks": partial.on_disk,  # as 0.2.0 called it
                    }
                    for partial in operations.partials(path)
                ],
                "pinned": path in operations.pins(),
                "sessions": sessions,
                "knowledge": knowledge,
                "unanswered": heard.silent,
            }
        )

    def pins(self, question: Question) -> Answer:
        """SWITCHES; the paths that are pinned, in the cache or not."""
        only(question.query, ())
        return Answer.of({"paths": self._subject.cache.operations.pins()})


def shown(entry: Entry, *, ours: bool) -> Json:
    """An object as the API shows it."""
    return {
        "path": f"/{entry.path}",
        "version": entry.version,
        "size": entry.size,
        "on_disk": entry.on_disk,
        "blocks": entry.on_disk,  # as 0.2.0 called it
        "created": entry.created,
        "used": entry.used,
        "hits": entry.hits,
        "pinned": entry.pinned,
        "ours": ours,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return _PAGE
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refusal(400, f"limit must be a whole number from 1 to {MOST}")
    return int(text)
