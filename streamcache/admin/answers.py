"""A question to the admin listener and its answer, as values; they know no socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

import gevent

Json = Any  # what json.dumps takes

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"

_PIECE: Final = 32  # items of a list that are written in one turn of the hub

Fields = tuple[tuple[str, str], ...]


class Refusal(Exception):
    """A question that is not answered: the status and one sentence that says why."""

    def __init__(self, status: int, why: str, fields: Fields = ()) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.fields = fields


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked. ``body`` is a JSON object, {} if there was none."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Json] = field(default_factory=dict)
    accept: str = ""
    rest: str = ""  # what the route leaves open: the ID of /api/warm/ID

    @property
    def local(self) -> bool:
        """Whether this process is asked for itself alone."""
        return self.query.get("local") == "1"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    body: bytes
    type: str = JSON
    status: int = 200
    fields: Fields = ()

    @classmethod
    def of(cls, value: Json, status: int = 200, fields: Fields = ()) -> Answer:
        """A JSON value."""
        return cls(json.dumps(value).encode() + b"\n", status=status, fields=fields)

    @classmethod
    def listing(cls, name: str, items: Iterable[Json], rest: Mapping[str, Json]) -> Answer:
        """SWITCHES now and then: a list, which may be long, under ``name``, and what else there is.

        ``items`` are made as they are wanted.
        """
        parts: list[str] = []
        for number, item in enumerate(items, 1):
            parts.append(json.dumps(item))
            if number % _PIECE == 0:
                gevent.sleep(0)
        return cls(f'{{"{name}": [{", ".join(parts)}], {json.dumps(rest)[1:]}\n'.encode())

    @classmethod
    def text(cls, words: str, status: int = 200) -> Answer:
        """A line of text."""
        return cls(words.encode() + b"\n", TEXT, status)


Ask = Callable[[Question], Answer]  # raises Refusal


def read_query(text: str) -> dict[str, str]:
    """The parameters of a URL; Refusal when one comes twice or the text is none."""
    try:
        # What is no UTF-8 may be a path on disk all the same.
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="surrogateescape"
        )
    except ValueError as error:
        raise Refusal(400, f"the query cannot be read: {error}") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refusal(400, "each parameter may be there once")
    if found.get("local", "1") != "1":
        raise Refusal(400, "local must be 1, or not be there")
    return found


def read_body(data: bytes) -> dict[str, Json]:
    """A JSON object; Refusal for anything else, and for one in which a name comes twice."""
    if not data:
        return {}
    try:
        value = json.loads(data, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refusal(400, "the body must be a JSON object")
    return value


def _each_once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refusal(400, "each member of the body may be there once")
    return found


def only(given: Mapping[str, Json], allowed: Iterable[str], what: str = "parameter") -> None:
    """Refuse what is not known: a mistyped "dry_run" must not purge."""
    names = list(allowed)
    for name in given:
        if name not in names:
            known = ", ".join(names) or "none"
            raise Refusal(400, f"there is no {what} {name!r}; allowed: {known}")
