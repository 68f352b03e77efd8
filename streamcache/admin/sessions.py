"""``/api/sessions``: the copies under way, with the picture of their blocks and readers."""

from __future__ import annotations

import dataclasses

from streamcache.admin.answers import Answer, Json, Question, only
from streamcache.admin.routes import Routes
from streamcache.admin.subject import Subject


class Sessions:
    """Answers for a subject."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def add_to(self, routes: Routes) -> None:
        """Have these questions answered."""
        routes.add("GET", "/api/sessions", self.sessions)

    def sessions(self, question: Question) -> Answer:
        """SWITCHES; those of all workers. A file may have one in each: they share its blocks."""
        only(question.query, ("local",))
        found = self.own()
        silent: tuple[str, ...] = ()
        if not question.local:
            heard = self._subject.peers.ask("GET", "/api/sessions")
            silent = heard.silent
            for each in heard.values.values():
                found += each["sessions"]
        found.sort(key=lambda session: (session["path"], session["worker"]))
        return Answer.of({"sessions": found, "unanswered": silent})

    def own(self) -> list[dict[str, Json]]:
        """Those of this worker. Does not switch."""
        rates = self._subject.publishing.rates
        return [
            {
                **dataclasses.asdict(copy),
                "worker": self._subject.name,
                "rate": rates.of(copy.path.removeprefix("/")),
            }
            for copy in self._subject.cache.operations.copies()
        ]
