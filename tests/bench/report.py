"""Rows of figures, as Markdown and as JSON, and the block of a document that shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

BEGIN = "<!-- bench: written by bin/bench --markdown, not by hand -->"
END = "<!-- /bench -->"
_COLUMNS = (
    "scenario",
    "streamcache",
    "CPU s",
    "peer that counts, or ideal",
    "CPU s",
    "ratio",
    "aim",
    "met",
    "others, notes",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """What one server did: its figure, and the CPU seconds of all its processes meanwhile."""

    value: float
    cpu: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its reference; the aim is for the ratio, or for the figure itself."""

    scenario: str
    measured: float  # NaN: there is none, ``note`` says why
    unit: str = ""  # "ms", "s", "us", "/s", "GB/s", "s/GiB", "KB", "MB", "yes/no" or "" (a ratio)
    reference: float | None = None
    named: str = ""  # what the reference is
    aim: str = ""  # as it is printed
    at_most: float | None = None
    at_least: float | None = None
    of_ratio: bool = False  # the limits are for measured / reference
    note: str = ""
    cpu: float | None = None  # s, of all processes of the server; None: of the rows before, or none
    reference_cpu: float | None = None
    others: dict[str, Figure] = field(default_factory=dict)  # that do not count for the aim
    rounds: dict[str, list[float]] = field(default_factory=dict)  # of each server; JSON only

    @property
    def ratio(self) -> float | None:
        """measured / reference."""
        if not self.reference or math.isnan(self.measured):
            return None
        return self.measured / self.reference

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where there is none, or no figure."""
        figure = self.ratio if self.of_ratio else self.measured
        if figure is None or math.isnan(figure):
            return None
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or figure <= self.at_most) and (
            self.at_least is None or figure >= self.at_least
        )


def markdown(rows: Sequence[Row]) -> str:
    """A table."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        reference = "" if row.reference is None else f"{show(row.reference, row.unit)} {row.named}"
        others = [_other(name, figure, row.unit) for name, figure in row.others.items()]
        cells = (
            row.scenario,
            show(row.measured, row.unit),
            _seconds(row.cpu),
            reference,
            _seconds(row.reference_cpu),
            ratio,
            row.aim,
            met,
            "; ".join([*others, *([row.note] if row.note else [])]),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|").strip() for cell in cells) + " |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], **more: object) -> dict[str, object]:
    """The same for programs."""
    return {**more, "rows": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in rows]}


def show(value: float, unit: str) -> str:
    """A figure as a table shows it: "61.2 k/s", "40.1 ms", "yes"."""
    if math.isnan(value):
        return "-"
    if unit == "yes/no":
        return "yes" if value else "no"
    if unit == "/s":
        return f"{value / 1000:.1f} k/s" if value >= 1000 else f"{value:.1f} /s"
    if unit in ("us", "KB", "MB"):
        return f"{value:.1f} {unit}"
    if unit == "ms":
        return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms"
    return f"{value:.3f} {unit}" if unit else f"{value:.4f}"


def write_block(path: Path, text: str) -> None:
    """Put ``text`` between the two marks of the document. ValueError: it has none."""
    document = path.read_text()
    before, begin, rest = document.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN!r} and {END!r}")
    path.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}")


def _other(name: str, figure: Figure, unit: str) -> str:
    if math.isnan(figure.value):
        return f"{name}: {figure.note or 'no figure'}"
    details = [f"{_seconds(figure.cpu)} CPU s"] if figure.cpu is not None else []
    details += [figure.note] if figure.note else []
    return f"{name} {show(figure.value, unit)}" + (f" ({', '.join(details)})" if details else "")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
