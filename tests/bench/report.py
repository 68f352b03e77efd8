"""Rows of figures, as Markdown and as JSON."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its reference; the aim is for the ratio, or for the figure itself."""

    scenario: str
    measured: float
    unit: str = ""  # "ms", "s", "GB/s" or "" (a ratio, or yes = 1 and no = 0)
    reference: float | None = None
    named: str = ""  # what the reference is
    aim: str = ""  # as it is printed
    at_most: float | None = None
    at_least: float | None = None
    of_ratio: bool = False  # the limits are for measured / reference
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """measured / reference."""
        return self.measured / self.reference if self.reference else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where there is none."""
        figure = self.ratio if self.of_ratio else self.measured
        if figure is None or (self.at_most is None and self.at_least is None):
            return None
        return (self.at_most is None or figure <= self.at_most) and (
            self.at_least is None or figure >= self.at_least
        )


def markdown(rows: list[Row]) -> str:
    """A table."""
    lines = [
        "| cold | measured | ideal or reference of the same run | ratio | aim | met |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        measured = _figure(row.measured, row.unit) + (f" ({row.note})" if row.note else "")
        reference = "" if row.reference is None else _figure(row.reference, row.unit)
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        cells = (row.scenario, measured, f"{reference} {row.named}", ratio, row.aim, met)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(rows: list[Row], **more: object) -> dict:
    """The same for programs, with the machine it ran on."""
    return {
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load": os.getloadavg(),
        },
        **more,
        "rows": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in rows],
    }


def _figure(value: float, unit: str) -> str:
    if unit == "ms":
        return f"{value:.1f} ms"
    if unit == "yes/no":
        return "yes" if value else "no"
    return f"{value:.3f} {unit}" if unit else f"{value:.4f}"
