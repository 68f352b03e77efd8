"""The table, the JSON beside it, and the block of a document."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.bench.report import BEGIN, END, Figure, Row, as_json, markdown, show, write_block


def cells(row: Row) -> list[str]:
    line = markdown([row]).splitlines()[2]
    return [cell.strip() for cell in line.strip("|").split(" |")]


def test_a_row_shows_figures_ratio_and_aim() -> None:
    row = Row(
        "requests/s",
        60_000.0,
        "/s",
        40_000.0,
        "nginx",
        ">= 1.2",
        at_least=1.2,
        of_ratio=True,
        note="5 rounds",
        cpu=2.0,
        reference_cpu=3.0,
        others={"nginx log": Figure(30_000.0, 3.5), "Varnish": Figure(math.nan, note="not run")},
    )
    assert cells(row) == [
        *("requests/s", "60.0 k/s", "2.00", "40.0 k/s nginx", "3.00", "1.500", ">= 1.2", "yes"),
        "nginx log 30.0 k/s (3.50 CPU s); Varnish: not run; 5 rounds",
    ]


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("a", 3.0, at_most=3.0), True),
        (Row("a", 3.1, at_most=3.0), False),
        (Row("a", 1.0, reference=2.0, at_least=0.5, of_ratio=True), True),
        (Row("a", 0.9, reference=2.0, at_least=0.5, of_ratio=True), False),
        (Row("a", 1.0, at_least=0.5, of_ratio=True), None),  # nothing to compare with
        (Row("a", math.nan, at_most=3.0), None),
        (Row("a", 1.0), None),
    ],
)
def test_whether_an_aim_is_met(row: Row, met: bool | None) -> None:
    assert row.met is met
    assert cells(row)[7] == {True: "yes", False: "**no**", None: ""}[met]


def test_a_figure_that_is_not_there_is_no_number() -> None:
    assert cells(Row("a", math.nan, "ms", 2.0, "nginx", note="failed | badly"))[1:6] == [
        *("-", "", "2.00 ms nginx", "", "")
    ]
    assert "failed \\| badly" in markdown([Row("a", math.nan, note="failed | badly")])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (61_234.0, "/s", "61.2 k/s"),
        (87.0, "/s", "87.0 /s"),
        (9.876, "ms", "9.88 ms"),
        (40.12, "ms", "40.1 ms"),
        (1.0, "yes/no", "yes"),
        (0.1234, "s/GiB", "0.123 s/GiB"),
        (1.0, "", "1.0000"),
    ],
)
def test_units(value: float, unit: str, text: str) -> None:
    assert show(value, unit) == text


def test_json_has_what_the_table_has() -> None:
    said = as_json([Row("a", 1.0, reference=2.0, at_most=0.5, of_ratio=True)], machine="this one")
    assert json.loads(json.dumps(said))["machine"] == "this one"
    [row] = said["rows"]
    assert (row["scenario"], row["ratio"], row["met"]) == ("a", 0.5, True)


def test_only_the_marked_block_is_written(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    for _ in range(2):
        write_block(document, "new\n")
        assert document.read_text() == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    document.write_text("no marks\n")
    with pytest.raises(ValueError, match="has no lines"):
        write_block(document, "new")
    assert document.read_text() == "no marks\n"
