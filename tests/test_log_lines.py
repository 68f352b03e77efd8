"""Lines of the error log: a value has a name, so it is a member of a JSON line (docs/logs.md)."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcache.daemon.logs import JsonLines

ROOT = Path(__file__).parent.parent / "streamcache"
LAYERS = ("cache", "source")
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).glob("*.py"))


def forms(path: Path) -> Iterator[str]:
    """The forms of the lines that a module logs: "copy complete path=%r bytes=%d name=%s"."""
    for scope in ast.walk(ast.parse(path.read_text())):
        if not isinstance(scope, ast.FunctionDef):
            continue
        called: dict[str, list[str]] = {}  # forms that have a name first
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                for target in node.targets:
                    called.setdefault(ast.unparse(target), []).append(str(node.value.value))
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
                form = node.args[1 if ast.unparse(node.func) == "log.log" else 0]
                if isinstance(form, ast.Constant):
                    yield str(form.value)
                else:
                    yield from called[ast.unparse(form)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_value_of_a_line_has_a_name_of_its_own(path: Path) -> None:
    for form in forms(path):
        values = tuple(range(form.count("%")))
        record = logging.LogRecord("x", logging.INFO, "", 0, form, values, None)
        line = json.loads(JsonLines("").format(record))
        members = list(line.values())[6:]
        assert members == list(values), form
        # Nor is there a word behind a value, such as its unit: it would be lost.
        assert len(form.split()) == len(line["event"].split()) + len(values), form


def test_the_lines_are_seen() -> None:
    assert sum(len(list(forms(path))) for path in MODULES) > 50
