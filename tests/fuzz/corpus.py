"""The inputs that are kept: ``corpus/TARGET/NAME``, and the files of a real cache."""

from __future__ import annotations

import os
from pathlib import Path

from tests.fuzz import files

ROOT = Path(__file__).parent / "corpus"


def kept(target: str) -> list[bytes]:
    """The inputs of one target, as they are in the repository."""
    return [path.read_bytes() for path in sorted((ROOT / target).glob("*"))]


def real(target: str) -> list[bytes]:
    """What a real cache has in the file that the target damages; new in each process."""
    if target not in ("catalog", "map_file", "object_file"):
        return []
    made = files.template().cache
    if target == "catalog":
        return [Path(os.path.realpath(made / "catalog.sqlite")).read_bytes()]
    if target == "map_file":
        (path,) = (made / "partial").glob("*.map")
        return [b"\0" + path.read_bytes(), b"\1" + path.read_bytes()]
    (path,) = (made / "objects").glob("??/*")
    return [path.read_bytes()[:-1]]
