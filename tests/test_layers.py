"""The layers of docs/architecture.md: imports go downwards only, and what is pure stays pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "streamcache"
MODULES = sorted(ROOT.rglob("*.py"))
LONGEST = 600  # lines

# What each layer may import, beside itself. A module beside the layers is a layer of its own.
LEAVES = {"errors", "units", "globs", "extras"}
SETTINGS = {"options", "config", *LEAVES}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "units": {"errors"},
    "globs": set(),
    "extras": set(),
    "stats": set(),
    "options": LEAVES,
    "config": {"options", "access", *LEAVES},
    "settings": SETTINGS,
    "reference": {"settings", *SETTINGS},
    "http": {"errors"},
    "access": {"http", "errors", "extras", "units"},
    "source": {"stats", *SETTINGS},
    "cache": {"source", "stats", *SETTINGS},
    "inspection": {"cache", "source", "errors"},
    "simulation": {"cache", *LEAVES},
    "server": {"access", "http", "cache", "source", "stats", *SETTINGS},
    "admin": {"server", "http", "cache", "source", "stats", "settings", *SETTINGS},
    "daemon": {"admin", "server", "http", "cache", "source", "stats", "settings", *SETTINGS},
    "commands": {
        "access",
        "admin",
        "http",
        "server",
        "simulation",
        "inspection",
        "daemon",
        "cache",
        "source",
        "stats",
        "settings",
        *SETTINGS,
    },
    "cli": {"commands", "daemon", *SETTINGS},
    "__main__": {"cli"},
    "__init__": {"server", "cache", "source", "stats", *SETTINGS},  # when a name is first used
}
IMPURE = {
    "gevent", "greenlet", "socket", "ssl", "select", "selectors", "os", "io", "time", "logging",
    "threading", "subprocess", "signal", "asyncio", "random", "secrets", "pathlib", "tempfile",
    "shutil", "fcntl", "sys",
}  # fmt: skip
WITH_EFFECTS = {"access/passwords.py"}  # a random key
DAEMON = {"daemon", "commands", "cli", "__main__"}
VAGUE = {"manager", "helper", "helpers", "util", "utils", "data", "info", "misc", "common"}


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules it imports, and whether only for the type checker."""
    tree = ast.parse(path.read_text())
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or ""]
            if node.module == "streamcache":
                names = [f"streamcache.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) in checked


def each(*layers: str) -> pytest.MarkDecorator:
    chosen = [path for path in MODULES if not layers or layer_of(path) in layers]
    names = [str(path.relative_to(ROOT)) for path in chosen]
    return pytest.mark.parametrize("path", chosen, ids=names)


def calls(path: Path) -> Iterator[str]:
    """What it calls, as it is written: "logging.basicConfig", "signal.signal" ..."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_every_module_is_in_a_known_layer() -> None:
    assert {layer_of(path) for path in MODULES} == set(MAY_IMPORT)


@each()
def test_imports_go_downwards_only(path: Path) -> None:
    layer = layer_of(path)
    for name, for_types in imports(path):
        package, _, rest = name.partition(".")
        if package != "streamcache" or for_types:
            continue
        target = rest.partition(".")[0] or "__init__"
        # The version stands in the package itself, which imports nothing.
        allowed = {layer, "__init__", "__version__", *MAY_IMPORT[layer]}
        assert target in allowed, f"{layer} must not import {name}"


@each("http", "access")
def test_what_is_pure_stays_pure(path: Path) -> None:
    """I18: same bytes in, same bytes out."""
    if str(path.relative_to(ROOT)) in WITH_EFFECTS:
        return
    for name, _ in imports(path):
        assert name.partition(".")[0] not in IMPURE, name
    for name in calls(path):
        assert name not in ("open", "print", "input", "exec", "eval", "__import__"), name


@each("errors", "units", "options", "config", "settings", "stats", "http", "access", "source")
def test_below_the_cache_nothing_knows_of_sockets_and_http(path: Path) -> None:
    for name, _ in imports(path):
        assert name.partition(".")[0] not in ("socket", "ssl", "select"), name


@each("source", "cache", "inspection")
def test_the_cache_knows_nothing_of_http_and_sockets(path: Path) -> None:
    for name, _ in imports(path):
        assert not name.startswith(("streamcache.http", "http", "socket", "gevent.socket")), name


@each()
def test_no_module_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@each()
def test_modules_are_named_after_what_they_are_about(path: Path) -> None:
    assert path.stem not in VAGUE


@each()
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@each()
def test_nobody_monkey_patches(path: Path) -> None:
    """The library and the daemon must both work when the program has, and when it has not."""
    for name in calls(path):
        assert not name.startswith(("monkey.patch", "gevent.monkey.patch", "patch_all")), name


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if layer_of(path) not in DAEMON],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_library_leaves_the_process_alone(path: Path) -> None:
    """Signals, logging set-up, exit codes, limits and streams are the program's."""
    forbidden = {
        "signal.signal", "gevent.signal_handler", "signal_handler", "logging.basicConfig",
        "logging.disable", "logging.config.dictConfig", "sys.exit", "exit", "os._exit",
        "os.fork", "os.chdir", "os.umask", "resource.setrlimit", "atexit.register",
        "logging.captureWarnings", "os.environ.update", "os.putenv", "os.setsid",
    }  # fmt: skip
    allowed = {"reference.py"} if path.name == "reference.py" else set()
    for name in calls(path):
        assert name not in forbidden, name
        assert not name.endswith((".addHandler", ".setLevel")), name
        if path.name not in allowed:
            assert name != "print" and not name.startswith(("sys.stdout", "sys.stderr")), name
    for name, _ in imports(path):
        assert name.partition(".")[0] not in ("signal", "atexit", "argparse"), name


def _is_harmless(node: ast.stmt) -> bool:
    """Definitions and constants: what may stand in a module, and does nothing at import."""
    if isinstance(
        node,
        ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign,
    ):
        return True
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)  # a docstring
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test) or "__main__" in ast.unparse(node.test)
    return isinstance(node, ast.Assert)


@each()
def test_nothing_is_done_at_import(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        assert _is_harmless(node), ast.unparse(node)[:80]
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            called = [ast.unparse(n.func) for n in ast.walk(node.value) if isinstance(n, ast.Call)]
            for name in called:
                assert not name.startswith(("gevent.", "os.open", "open", "socket.")), name


@each("cache", "server", "admin")
def test_modules_with_greenlets_or_threads_say_which_run_there(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if any(name.endswith((".spawn", "start_new_thread")) for name in calls(path)):
        about = ast.get_docstring(tree) or ""
        source = path.read_text()
        said = ("reenlet" in about or "thread" in about) or "Greenlet:" in source
        assert said, "which greenlets run here?"
