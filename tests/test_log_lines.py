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
LAYERS = ("admin", "cache", "daemon", "server", "source")
OTHERS = {ROOT / "daemon/checks.py", ROOT / "admin/listener.py"}  # sentences, gevent's lines
MODULES = sorted({path for layer in LAYERS for path in (ROOT / layer).glob("*.py")} - OTHERS)
LOGGED = {f"log.{level}" for level in ("debug", "info", "warning", "error", "exception", "log")}


def forms(path: Path) -> Iterator[str]:
    """The forms of the lines that a module logs: "copy complete path=%r bytes=%d name=%s"."""
    for scope in ast.walk(ast.parse(path.read_text())):
        if not isinstance(scope, ast.FunctionDef):
            continue
        called: dict[str, list[str]] = {}  # forms that have a name first
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign) and (text := written(node.value)) is not None:
                for target in node.targets:
                    called.setdefault(ast.unparse(target), []).append(text)
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in LOGGED:
                form = node.args[1 if ast.unparse(node.func) == "log.log" else 0]
                if (text := written(form)) is not None:
                    yield text
                else:
                    yield from called[ast.unparse(form)]


def written(node: ast.expr) -> str | None:
    """The text of a literal, with "x" for what is put into it; None: it is none."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(parts):
            return "".join(p.value if isinstance(p, ast.Constant) else "x" for p in parts)
    return None


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
        # These are in words, so a reader of the text could not tell where they end.
        assert not {"error", "reason"}.intersection(list(line)[6:-1]), form


def test_the_lines_are_seen() -> None:
    assert sum(len(list(forms(path))) for path in MODULES) > 50
