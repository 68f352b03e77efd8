"""What is wrong in a cache directory, as a value, and what was looked at. Any thread."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Kind(enum.Enum):
    """What sort of thing is wrong."""

    LAYOUT = "layout"  # a folder of ours is missing, or is none
    FOREIGN = "foreign"  # we did not make it
    DAMAGED = "damaged"  # an object is not what was written
    OUTDATED = "outdated"  # the source has another version
    GONE = "gone"  # the source has no such file any more
    UNLISTED = "unlisted"  # an object that the catalog does not know
    MISSING = "missing"  # an object that only the catalog knows
    ACCOUNT = "account"  # what is counted is not what lies there
    PARTIAL = "partial"  # a partial that cannot be continued
    TRASH = "trash"  # nobody reads it, and it is there still
    CATALOG = "catalog"  # damaged, or not there
    SOURCE = "source"  # does not answer, so nothing could be compared with it


class Repair(enum.Enum):
    """What became of it."""

    NONE = "none"  # it was not asked for
    DONE = "done"
    LEFT = "left"  # there is none, or it could not be done now


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    name: str  # in the cache directory: of an object, or a path
    text: str  # what, in words
    path: str = ""  # at the source, where that is known: "a/b.mp4"
    repair: Repair = Repair.NONE

    @property
    def shown(self) -> str:
        """The path as clients and the log have it: "/a/b.mp4"; "": it is not known."""
        return f"/{self.path}" if self.path else ""


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found. Bytes are bytes on disk."""

    objects: int = 0
    bytes: int = 0
    partials: int = 0
    compared: int = 0  # objects, with the source
    digested: int = 0  # objects all of whose blocks were compared with digests
    undigested: int = 0  # objects with blocks that have none, if digests were asked for
    busy: int = 0  # objects and partials that others were working on
    finished: bool = False
    findings: list[Finding] = field(default_factory=list)

    @property
    def repaired(self) -> int:
        """Findings that are none any more."""
        return sum(finding.repair is Repair.DONE for finding in self.findings)
