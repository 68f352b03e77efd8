"""The API is what ``openapi.json`` says: asked in many ways, right and wrong, over HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from streamcache.admin.doors import Doors
from streamcache.admin.site import routes_of
from tests.admin.asking import Admin
from tests.content import content
from tests.daemon_process import DaemonProcess

DESCRIPTION = json.loads(
    (Path(__file__).parents[2] / "streamcache" / "admin" / "openapi.json").read_text()
)

EXAMPLES = 10
# The end of the server is in test_admin.py.
OPERATIONS = [
    (method, path)
    for path, methods in DESCRIPTION["paths"].items()
    for method in methods
    if method != "parameters" and path != "/api/drain"
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    source = tmp_path_factory.mktemp("films")
    for name in ("a.mp4", "b.mp4"):
        (source / name).write_bytes(content(name, 0, 100_000))
        os.utime(source / name, (1, 1))
    with DaemonProcess(source, "--admin", "127.0.0.1:0", workers=2) as process:
        yield process
        assert "Traceback" not in process.log
        assert not process.crashed, process.log


@pytest.fixture(scope="module")
def described(server: DaemonProcess) -> Any:
    url = server.log.partition("admin listener url=")[2].split()[0]
    return schemathesis.openapi.from_url(f"{url}api/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_one_that_is_described(
    described: Any, method: str, path: str, mode: GenerationMode
) -> None:
    """Schemathesis asks right and wrong, and looks at status, fields and values of the answers."""
    operation = described[path][method.upper()]
    asked = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )
    def ask(case: Any) -> None:
        nonlocal asked
        left_out = [positive_data_acceptance] if _is_unsaid(case) else []
        case.call_and_validate(excluded_checks=left_out)
        asked += 1

    try:
        ask()
    except Unsatisfiable:  # nothing about it can be wrong
        assert mode is GenerationMode.NEGATIVE
    else:
        assert asked >= 1


def _is_unsaid(case: Any) -> bool:
    """Whether OpenAPI cannot say what is allowed: of a glob; prefix or glob, and a cursor."""
    body = case.body if isinstance(case.body, dict) else {}
    return case.operation.path == "/api/entries" or "glob" in body


def test_what_is_described_is_what_can_be_asked() -> None:
    routes = routes_of(Doors(""), SimpleNamespace())
    described = {
        path.replace("{id}", ""): {method.upper() for method in methods if method != "parameters"}
        for path, methods in DESCRIPTION["paths"].items()
    }
    page = {path for path in routes.paths if path == "/" or path.startswith("/static/")}
    assert page
    assert described == {path: routes.paths[path] for path in routes.paths.keys() - page}


def test_the_manual_says_which_questions_can_be_about_one_worker(server: DaemonProcess) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "admin.md").read_text()
    sentence = manual.partition("With `?local=1`")[2].partition("take it;")[0]
    said = {word.split()[-1].replace("ID", "{id}") for word in sentence.split("`")[1::2]}
    described = {
        path
        for path, methods in DESCRIPTION["paths"].items()
        for each in methods.values()
        if isinstance(each, dict) and "local" in str(each.get("parameters"))
    }
    assert said == described
    admin = Admin(address_of(server))
    for path, methods in DESCRIPTION["paths"].items():
        if "get" in methods and path.startswith("/api/") and "{" not in path and "js" not in path:
            told = admin.ask("GET", f"{path}?local=1&path=/a")
            taken = "no parameter 'local'" not in told.body.decode()
            assert taken is (path in said), path


def address_of(server: DaemonProcess) -> tuple[str, int]:
    url = server.log.partition("admin listener url=http://")[2].partition("/")[0]
    host, _, port = url.rpartition(":")
    return host, int(port)


def test_the_server_gives_the_description(server: DaemonProcess) -> None:
    assert Admin(address_of(server)).get("/api/openapi.json") == DESCRIPTION
