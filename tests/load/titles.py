"""The titles a load test plays: names and sizes; their bytes follow from the names."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

INDEX = "titles.json"  # in the root of the served directory


@dataclass(frozen=True, slots=True)
class Title:
    """One file. A premiere is asked for by a crowd, all at once, while it is cold."""

    name: str
    size: int
    premiere: bool = False


def dumps(titles: list[Title]) -> str:
    """The text of the index."""
    return json.dumps([asdict(title) for title in titles], indent=1) + "\n"


def loads(text: str | bytes) -> list[Title]:
    """The titles of an index."""
    return [Title(**fields) for fields in json.loads(text)]
