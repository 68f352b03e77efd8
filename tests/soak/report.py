"""The table at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.soak.findings import Findings


@dataclass(slots=True)
class Report:
    """Figures beside what is allowed; what is not allowed is a finding."""

    findings: Findings
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def say(self, what: str, figure: object) -> None:
        """A figure that may be anything."""
        self.rows.append((what, str(figure), ""))

    def most(self, what: str, figure: float, limit: float, unit: str = "", digits: int = 0) -> None:
        """A figure that has an upper limit."""
        self._bounded(what, figure, limit, "at most", unit, digits, failed=figure > limit)

    def least(self, what: str, figure: float, limit: float) -> None:
        """A figure that has a lower one: less of it was no storm."""
        self._bounded(what, figure, limit, "at least", "", 0, failed=figure < limit)

    def _bounded(
        self,
        what: str,
        figure: float,
        limit: float,
        word: str,
        unit: str,
        digits: int,
        failed: bool,
    ) -> None:
        shown = f"{figure:.{digits}f}{unit}"
        allowed = f"{word} {limit:.{digits}f}{unit}"
        if failed:
            self.findings.add(f"{what}: {shown}, allowed is {allowed}")
            shown = f"**{shown}**"
        self.rows.append((what, shown, allowed))

    def markdown(self) -> str:
        """A table."""
        rows = [("watched", "seen", "allowed"), *self.rows]
        lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
        return "\n".join([lines[0], "|---|---|---|", *lines[1:]])
