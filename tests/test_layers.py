"""The layout is the architecture: imports go downwards, and each layer keeps to its subject."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "streamcache"
MODULES = sorted(ROOT.rglob("*.py"))
LONGEST = 600  # lines

# From the bottom up: a module imports from its own layer and those below.
LAYERS = (
    ("errors", "units", "options", "config"),
    ("settings", "reference", "stats"),
    ("http",),
    ("source",),
    ("cache",),
    ("server",),
    ("daemon",),
    ("cli", "__main__"),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
# The library leaves these to the program that embeds it.
DAEMON_ONLY = {"signal", "argparse"}
IMPURE = {"gevent", "greenlet", "socket", "os", "time", "logging", "threading", "random", "io"}
PROGRAM = ("daemon", "cli", "__main__")


def layer(module: Path) -> str:
    """The first part of its name below the package."""
    return module.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(module: Path) -> Iterator[str]:
    """Dotted names of all that is imported, wherever the statement stands."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(modules: list[Path]) -> list[str]:
    return [str(module.relative_to(ROOT)) for module in modules]


LAYERED = [module for module in MODULES if module != ROOT / "__init__.py"]


@pytest.mark.parametrize("module", LAYERED, ids=named(LAYERED))
def test_imports_go_downwards(module: Path) -> None:
    for name in imports(module):
        package, _, rest = name.partition(".")
        if package == "streamcache" and rest and not rest.startswith("__"):
            below = rest.split(".")[0]
            assert HEIGHT[below] <= HEIGHT[layer(module)], f"{name} is above {module}"


def test_the_package_itself_imports_nothing_until_it_is_asked() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in at_import
        for alias in node.names
    }
    assert names == {"__future__", "importlib", "typing"}


@pytest.mark.parametrize("module", [m for m in MODULES if layer(m) == "http"])
def test_http_is_a_function(module: Path) -> None:
    for name in imports(module):
        assert name.split(".")[0] not in IMPURE, f"{module.name} imports {name} (I18)"


@pytest.mark.parametrize("module", [m for m in MODULES if layer(m) not in PROGRAM])
def test_the_library_leaves_the_process_alone(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    for name in imports(module):
        assert name.split(".")[0] not in DAEMON_ONLY, f"{module.name} imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("basicConfig", "patch_all", "addHandler", "setrlimit")


def test_layers_cover_the_package() -> None:
    found = {layer(module) for module in MODULES} - {"__init__"}
    assert found == set(HEIGHT)


@pytest.mark.parametrize("module", MODULES, ids=named(MODULES))
def test_no_module_has_grown_too_long(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= LONGEST
