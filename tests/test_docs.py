"""What the docs name is there: tests, files, modules, commands, options, and what they link to."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from streamcache import cli
from streamcache.config import TABLE
from streamcache.reference import toml
from streamcache.settings import load, variable

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = [README, *sorted((ROOT / "docs").glob("*.md"))]
# Flags of other programs, and a word of a signature.
OTHERS = {"--headless", "--vfs-cache-mode", "--reflink", "streamcache grant"}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|(?:\A|\n\n)((?:    [^\n]*(?:\n|\Z))+)", re.M | re.S)
TICKED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
OPTION = re.compile(rf"(?<![\w.])({'|'.join(TABLE)})\.([a-z_]+)\b(?![./(])")
# What looks like an option, and is a module, a file, or what programs that embed the cache have.
NO_OPTIONS = {"access.authorize", "access.log", "server.handler", "cache.operations"}

each = pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """The language and text of each block of code."""
    for found in BLOCK.finditer(path.read_text()):
        yield found[1] or "", found[2] or found[3]


def ticked(path: Path) -> set[str]:
    """What stands between two ` in the text."""
    return set(TICKED.findall(BLOCK.sub("\n\n", path.read_text())))


@cache
def written_tests() -> dict[str, set[str]]:
    """The tests in each file: "daemon/test_reload.py"."""
    found = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        functions = (
            node.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        )
        found[path.relative_to(ROOT / "tests").as_posix()] = set(functions)
    return found


@cache
def flags() -> dict[str, set[str]]:
    """The flags of each command, and under "" those of all."""
    parsers = next(
        action.choices
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    found = {
        name: {flag for action in parser._actions for flag in action.option_strings}
        for name, parser in parsers.items()
    }
    return {**found, "": {flag for flags in found.values() for flag in flags}}


def words(line: str) -> list[list[str]]:
    """The simple commands of a line for the shell, each in words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            found.append([])
        else:
            found[-1].append(word)
    return [each for each in found if each]


def shell(path: Path) -> Iterator[str]:
    """Lines for the shell in its blocks of code."""
    for language, text in blocks(path):
        if language in ("", "sh"):
            yield from (line.strip() for line in text.splitlines())


@each
def test_named_tests_are_there(path: Path) -> None:
    known = {name for names in written_tests().values() for name in names}
    for name in ticked(path):
        if re.fullmatch(r"test_\w+", name):
            assert name in known, f"{path.name}: there is no test {name}"


def test_a_test_that_is_named_with_its_file_is_in_it() -> None:
    """`file`: `test`, `test` ..., as the tables of reliability.md have it."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    found = re.findall(r"`([\w/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", text)
    assert len(found) > 10
    for file, names in found:
        known = [each for each in written_tests() if each == file or each.endswith(f"/{file}")]
        assert known, f"there is no {file}"
        here = {name for each in known for name in written_tests()[each]}
        for name in TICKED.findall(names):
            assert name in here, f"{name} is not in {file}"


@each
def test_named_files_are_there(path: Path) -> None:
    for name in ticked(path):
        if not re.fullmatch(r"(?:\w[\w.-]*/)*[\w-]+\.(?:py|md|json|lua)", name):
            continue
        places = [ROOT, ROOT / "tests", ROOT / "streamcache"]
        there = any((place / name).exists() for place in places)
        deeper = any(ROOT.glob(f"streamcache/**/{name}")) or any(ROOT.glob(f"tests/**/{name}"))
        assert there or deeper, f"{path.name}: there is no {name}"


@each
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file) if file else path
        assert linked.exists(), f"{path.name}: {target} is not there"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", linked.read_text(), re.M)
            anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{path.name}: {target} has no such heading"


@each
def test_command_lines_can_be_read(path: Path) -> None:
    """Each "streamcache ..." in a block of code, and each in the text that is whole."""
    parser = cli._parser()
    for line in shell(path):
        if not re.match(r"(?:source <\()?(?:\S*/)?streamcache [a-z]", line):
            continue
        if line.startswith("streamcache ready"):
            continue  # that is what it says
        for simple in words(line):
            if Path(simple[0]).name == "streamcache":
                parser.parse_args(simple[1:])  # exits with 2 if it cannot


@each
def test_commands_and_flags_are_there(path: Path) -> None:
    for text in ticked(path):
        if text.startswith("streamcache ") and (name := text.split()[1]).isalpha():
            assert name in flags(), f"{path.name}: there is no command {text}"
            for flag in re.findall(r"(?<![\w-])--[a-z-]+", text):
                assert flag in flags()[name], f"{path.name}: {text}"
        elif text.startswith("--"):
            flag = re.match(r"--[a-z0-9-]+", text)
            assert flag is not None and flag[0] in flags()[""] | OTHERS, f"{path.name}: {text}"


@each
def test_options_are_there(path: Path) -> None:
    text = BLOCK.sub("\n\n", path.read_text())
    for section, key in OPTION.findall(text):
        name = f"{section}.{key}"
        if name in NO_OPTIONS or key in ("md", "py", "sqlite"):
            continue
        assert key in TABLE[section], f"{path.name}: there is no option {name}"
    variables = {variable(section, key) for section, keys in TABLE.items() for key in keys}
    for name in re.findall(rf"\bSTREAMCACHE_(?:{'|'.join(TABLE).upper()})_[A-Z_]+\b", text):
        assert name in variables, f"{path.name}: there is no {name}"


@each
def test_settings_that_are_shown_can_be_read(path: Path, tmp_path: Path) -> None:
    for language, text in blocks(path):
        if language == "toml":
            file = tmp_path / "shown.toml"
            file.write_text(text)
            load(file=str(file), environ={})  # ConfigError


def test_the_defaults_in_the_readme_are_those() -> None:
    """Those in its table of flags that are values."""
    rows = re.findall(r"^\| `(--[\w-]+)`[^|]*\| `([^`]+)`", README.read_text(), re.M)
    assert {flag for flag, _ in rows} >= {"--listen", "--revalidate"}
    for section in TABLE.values():
        for key, option in section.items():
            if option.flag in dict(rows):
                assert f'\n#{key} = "{dict(rows)[option.flag]}"\n' in toml(), option.flag


def test_architecture_names_each_module_once() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = re.search(r"^```\nstreamcache/\n(.*?)^```$", text, re.M | re.S)
    assert tree is not None
    folder, listed = "", []
    for line in tree[1].splitlines():
        name = line.split()[0] if line.strip() else ""
        if line.startswith("  ") and not line.startswith("   "):
            folder = name if name.endswith("/") else ""
            if name.endswith(".py"):
                listed.append(name)
        elif line.startswith("    ") and not line.startswith("     ") and name.endswith(".py"):
            listed.append(folder + name)
    assert len(listed) == len(set(listed))
    package = ROOT / "streamcache"
    there = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path.name != "__init__.py" or path.parent == package
    }
    assert set(listed) - there == set(), "these are gone"
    # A module for each section, and for each command.
    there = {name for name in there if not name.startswith(("config/", "commands/"))}
    assert there - set(listed) == set(), "these are not described"
