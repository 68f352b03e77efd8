"""``/api/sessions``: the copies under way, with the picture of their blocks and readers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from streamcache.admin.answers import Answer, Json, Question, only
from streamcache.admin.routes import Routes
from streamcache.admin.subject import Subject
from streamcache.cache.picture import CopyPicture


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
        if question.local:
            return Answer.listing("sessions", self.own(), {"unanswered": ()})
        heard = self._subject.peers.ask("GET", "/api/sessions")
        others = (session for each in heard.values.values() for session in each["sessions"])
        return Answer.listing("sessions", chain(self.own(), others), {"unanswered": heard.silent})

    def own(self, path: str = "") -> Iterator[dict[str, Json]]:
        """Those of this worker, or of one path in it; each as it is when it is taken."""
        rates = self._subject.publishing.rates
        for copy in self._subject.cache.operations.copies(path):
            yield {
                **_shown(copy),
                "worker": self._subject.name,
                "rate": rates.of(copy.path.removeprefix("/")),
            }


def _shown(copy: CopyPicture) -> dict[str, Json]:
    """Not by ``asdict``, which copies each run."""
    return {
        "path": copy.path,
        "version": copy.version,
        "state": copy.state,
        "size": copy.size,
        "present": copy.present,
        "block": copy.block,
        "blocks": copy.blocks,
        "readers": [
            {"client": reader.client, "offset": reader.offset, "waits": reader.waits}
            for reader in copy.readers
        ],
        "started": copy.started,
    }
