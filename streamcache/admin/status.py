"""The server at a glance: its health, its status, its last minutes; and how to end it.

All but the history come from the board: they need no answer of another worker.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Final

from streamcache import __version__
from streamcache.admin.answers import Answer, Json, Question, only
from streamcache.admin.board import Worker
from streamcache.admin.publishing import latest
from streamcache.admin.routes import Routes
from streamcache.admin.subject import Subject

STATES: Final = ("running", "hanging", "dead", "ended")
LATE: Final = 5.0  # s since a worker wrote to the board, after which it counts as hanging


class Status:
    """Answers for a subject."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def add_to(self, routes: Routes) -> None:
        """Have these questions answered."""
        routes.add("GET", "/healthz", self.health)
        routes.add("GET", "/readyz", self.ready)
        routes.add("GET", "/api/status", self.status)
        routes.add("GET", "/api/history", self.history)
        routes.add("POST", "/api/drain", self.drain)

    def health(self, _: Question) -> Answer:
        """The hub turns: it ran this."""
        return Answer.text("ok")

    def ready(self, _: Question) -> Answer:
        """Whether new clients should come."""
        if self._subject.draining_since() is not None:
            return Answer.text("draining", 503)
        return Answer.text("ready")

    def drain(self, question: Question) -> Answer:
        """End as after SIGTERM; asked twice it changes nothing."""
        only(question.query, ())
        only(question.body, (), "member")
        self._subject.drain()
        return Answer.of({"draining": True}, 202)

    def history(self, question: Question) -> Answer:
        """The last ten minutes, from the worker that remembers most."""
        only(question.query, ("local",))
        samples = [dataclasses.asdict(sample) for sample in self._subject.publishing.history]
        if not question.local:
            heard = self._subject.peers.ask("GET", "/api/history")
            samples = max((samples, *(each["samples"] for each in heard.values.values())), key=len)
        return Answer.of({"samples": samples})

    def status(self, question: Question) -> Answer:
        """Everything that is one number."""
        only(question.query, ())
        subject = self._subject
        board, config = subject.board, subject.cache.config
        now, workers, since = time.time(), board.workers(), subject.draining_since()
        known = latest(workers)
        living = [worker for worker in workers if worker.pid]
        totals = dataclasses.asdict(board.totals())
        failing = [worker.name for worker in living if not worker.disk_normal]
        # The others' reasons are in their logs; and ours may be newer than what the board says.
        reason = subject.cache.statistics().disk_reason if subject.name in failing else ""
        return Answer.of(
            {
                "version": __version__,
                "pid": os.getppid() if len(workers) > 1 else os.getpid(),
                "url": subject.server.url,
                "started": board.born,
                "uptime": max(0.0, now - board.born),
                "draining": since is not None,
                "draining_since": since,
                "workers": [_shown(worker, draining=since is not None) for worker in workers],
                "source": {
                    "path": config.source.path,
                    "answers": all(worker.source_answers for worker in living),
                    "stuck": sum(worker.source_stuck for worker in living),
                },
                "cache": {
                    "dir": config.cache.dir,
                    "usage": known.usage,
                    "reserved": known.reserved,
                    "limit": known.limit,
                    "objects": known.objects,
                    "disk": {
                        "normal": not failing,
                        "failing": failing,
                        "reason": reason,
                        "stuck": sum(worker.disk_stuck for worker in living),
                    },
                    "high_watermark": config.cache.high_watermark,
                    "low_watermark": config.cache.low_watermark,
                },
                "totals": totals,
            }
        )


def state_of(worker: Worker, *, draining: bool) -> str:
    """One of ``STATES``. While the server drains nobody follows who has ended."""
    if not worker.pid:
        return "ended" if draining else "dead"
    return "running" if time.monotonic() - worker.wrote < LATE else "hanging"


def _shown(worker: Worker, *, draining: bool) -> Json:
    told: dict[str, Json] = {"name": worker.name, "state": state_of(worker, draining=draining)}
    if not worker.pid:
        return told
    return {
        **told,
        "pid": worker.pid,
        "started": worker.born,
        "seen": worker.seen,
        "connections": worker.connections,
        "copies": worker.copies,
        "hub_lag": worker.hub_lag,
        "source_answers": worker.source_answers,
        "disk_normal": worker.disk_normal,
    }
