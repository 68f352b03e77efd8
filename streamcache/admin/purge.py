"""``/api/purge``, ``/api/pin``, ``/api/unpin``: what is to go, and what is to stay.

A purge is done here and then in the other workers, which have sessions and open files of their own;
pins are those of the cache directory, so one worker is enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, get_args

from streamcache.admin.answers import Answer, Question, Refusal, only
from streamcache.admin.routes import Routes
from streamcache.admin.selecting import WAYS, choice, flag, selection_in, text
from streamcache.admin.subject import Subject
from streamcache.cache.operations import Pinned, PurgeMode
from streamcache.cache.selection import Selection
from streamcache.errors import NoSpace

PATIENCE: Final = 30.0  # s that another worker gets for its part of a purge


class Purge:
    """Answers for a subject."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def add_to(self, routes: Routes) -> None:
        """Have these questions answered."""
        routes.add("POST", "/api/purge", self.purge)
        routes.add("POST", "/api/pin", self.pin)
        routes.add("POST", "/api/unpin", self.unpin)

    def purge(self, question: Question) -> Answer:
        """SWITCHES; in all workers."""
        body = question.body
        only(question.query, ("local",))
        only(body, (*WAYS, "mode", "dry_run"), "member")
        mode: Any = "hard"
        if "mode" in body:
            mode = choice(text(body, "mode"), "mode", get_args(PurgeMode))
        dry_run = flag(body, "dry_run")
        purged = self._subject.cache.operations.purge(
            selection_in(body), mode=mode, dry_run=dry_run, repeated=question.local
        )
        told = {**dataclasses.asdict(purged), "unanswered": ()}
        if not (question.local or dry_run):
            # What they still had open or were copying; the objects they find gone.
            heard = self._subject.peers.ask("POST", "/api/purge", body=body, patience=PATIENCE)
            others = heard.values.values()
            told["removed"] += sum(each["removed"] for each in others)
            told["bytes"] += sum(each["bytes"] for each in others)
            told["matched"] = max(told["matched"], told["removed"])
            told["unanswered"] = heard.silent
        return Answer.of(told)

    def pin(self, question: Question) -> Answer:
        """SWITCHES; from now on, over restarts."""
        return self._changed(question, self._subject.cache.operations.pin)

    def unpin(self, question: Question) -> Answer:
        """SWITCHES; the opposite."""
        return self._changed(question, self._subject.cache.operations.unpin)

    def _changed(self, question: Question, change: Callable[[Selection], Pinned]) -> Answer:
        only(question.query, ())
        only(question.body, WAYS, "member")
        try:
            return Answer.of(dataclasses.asdict(change(selection_in(question.body))))
        except NoSpace as error:
            raise Refusal(409, str(error)) from None
