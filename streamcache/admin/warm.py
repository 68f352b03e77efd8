"""``/api/warm``: files that are brought into the cache before anybody asks for them.

A job runs in the worker that was asked to begin it, and ends with it; any worker tells of all.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from streamcache.admin.answers import Answer, Json, Question, Refusal, only
from streamcache.admin.routes import Routes
from streamcache.admin.selecting import WAYS, checked_text, flag, number, selection_in
from streamcache.admin.subject import Subject
from streamcache.cache.warmorder import AT_ONCE, WarmOrder
from streamcache.errors import TooManyJobs

_PATH: Final = "/api/warm"
_MOST_SHOWN: Final = 100  # failures of a job in the list of all


class Warm:
    """Answers for a subject."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def add_to(self, routes: Routes) -> None:
        """Have these questions answered."""
        routes.add("POST", _PATH, self.begin)
        routes.add("GET", _PATH, self.jobs)
        routes.add("GET", f"{_PATH}/", self.job)
        routes.add("DELETE", f"{_PATH}/", self.cancel)

    def begin(self, question: Question) -> Answer:
        """Begin a job in this worker."""
        body = question.body
        only(question.query, ())
        only(
            body,
            (*WAYS, "paths", "max_bandwidth", "at_once", "pin", "dry_run", "timeout"),
            "member",
        )
        paths: tuple[str, ...] = ()
        named = [name for name in (*WAYS, "paths") if name in body]
        if len(named) != 1:
            raise Refusal(400, "name the files with exactly one of paths, path, prefix and glob")
        if "paths" in body:
            paths = _paths(body["paths"])
        try:
            order = WarmOrder(
                selection=None if paths else selection_in(body),
                paths=paths,
                max_bandwidth=number(body, "max_bandwidth", 0),
                at_once=number(body, "at_once", AT_ONCE),
                pin=flag(body, "pin"),
                dry_run=flag(body, "dry_run"),
                timeout=number(body, "timeout", 0),
            )
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        try:
            job = self._subject.cache.operations.warm(order)
        except TooManyJobs as error:
            raise Refusal(409, str(error)) from None
        return Answer.of({"id": job.id}, 202, (("Location", f"{_PATH}/{job.id}"),))

    def jobs(self, question: Question) -> Answer:
        """SWITCHES; those of all workers, the oldest first."""
        only(question.query, ("local",))
        found, silent = self._all(local=question.local)
        for job in found:
            job["failed"] = job["failed"][:_MOST_SHOWN]
        return Answer.of({"jobs": found, "unanswered": silent})

    def job(self, question: Question) -> Answer:
        """SWITCHES; one of them."""
        only(question.query, ("local",))
        job = self._subject.cache.operations.warm_jobs.get(question.rest)
        if job is not None:
            return Answer.of(self._shown(question.rest))
        return Answer.of(self._elsewhere("GET", question))

    def cancel(self, question: Question) -> Answer:
        """SWITCHES; end it, and tell how far it came. What it copied stays."""
        only(question.query, ("local",))
        job = self._subject.cache.operations.warm_jobs.get(question.rest)
        if job is not None:
            job.cancel()
            return Answer.of(self._shown(question.rest))
        return Answer.of(self._elsewhere("DELETE", question))

    def _all(self, *, local: bool) -> tuple[list[dict[str, Json]], tuple[str, ...]]:
        jobs = self._subject.cache.operations.warm_jobs
        found = [self._shown(id_) for id_ in jobs]
        silent: tuple[str, ...] = ()
        if not local:
            heard = self._subject.peers.ask("GET", _PATH)
            silent = heard.silent
            for each in heard.values.values():
                found += each["jobs"]
        found.sort(key=lambda job: (job["started"], job["id"]))
        return found, silent

    def _elsewhere(self, method: str, question: Question) -> Json:
        """The answer of the worker that has this job. Switches."""
        if not question.local:
            found, silent = self._all(local=False)
            for job in found:
                if job["id"] == question.rest:
                    heard = self._subject.peers.ask(method, question.path, whom=job["worker"])
                    for answer in heard.values.values():
                        return answer
            if silent:
                raise Refusal(503, f"no answer from {', '.join(silent)}, which may have this job")
        raise Refusal(404, f"there is no job {question.rest!r}")

    def _shown(self, id_: str) -> dict[str, Json]:
        status = self._subject.cache.operations.warm_jobs[id_].status
        return {**dataclasses.asdict(status), "worker": self._subject.name}


def _paths(value: Json) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise Refusal(400, "paths must be a list of paths, and not empty")
    return tuple(checked_text(each, "each of paths") for each in value)
