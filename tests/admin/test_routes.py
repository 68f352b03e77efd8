"""What is asked over HTTP: paths, methods, bodies, and whom the doors keep out."""

from __future__ import annotations

import io
import json
from typing import Any

import gevent
import pytest

from streamcache.admin.answers import Answer, Question, Refusal, only, read_query
from streamcache.admin.doors import Doors
from streamcache.admin.routes import MOST_BODY, Routes


def application(host: str = "") -> Routes:
    routes = Routes(Doors(host))
    routes.add("GET", "/api/thing", lambda question: Answer.of({"query": dict(question.query)}))
    routes.add("POST", "/api/thing", lambda question: Answer.of(dict(question.body), 202))
    routes.add("GET", "/api/thing/", lambda question: Answer.of(question.rest))
    routes.add("GET", "/metrics", lambda _: Answer.text("1"))
    routes.add("GET", "/api/fault", _fault)
    return routes


def _fault(_: Question) -> Answer:
    raise ZeroDivisionError


def asked(
    method: str, path: str, body: bytes = b"", *, host: str = "", query: str = "", **fields: str
) -> tuple[int, dict[str, str], bytes]:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **({"CONTENT_TYPE": "application/json"} if method == "POST" else {}),
        **fields,
    }
    told: list[Any] = []
    out = b"".join(application(host)(environ, lambda *started: told.extend(started)))
    return int(told[0].split()[0]), dict(told[1]), out


def test_a_question_finds_its_answer() -> None:
    status, fields, body = asked("GET", "/api/thing", query="a=b%20c")
    assert (status, json.loads(body)) == (200, {"query": {"a": "b c"}})
    assert fields["Content-Type"] == "application/json"
    assert fields["Content-Length"] == str(len(body))
    assert fields["Cache-Control"] == "no-store"
    assert not any(name.startswith("Access-Control") for name in fields)
    status, _, body = asked("POST", "/api/thing", b'{"x": 1}')
    assert (status, json.loads(body)) == (202, {"x": 1})
    assert json.loads(asked("GET", "/api/thing/7/8")[2]) == "7/8"


def test_head_is_get_without_a_body() -> None:
    status, fields, body = asked("HEAD", "/api/thing")
    assert (status, body) == (200, b"")
    assert int(fields["Content-Length"]) > 2


@pytest.mark.parametrize(
    ("method", "path", "body", "fields", "status", "why"),
    [
        ("GET", "/api/none", b"", {}, 404, "there is no /api/none"),
        ("GET", "/api/thin", b"", {}, 404, "there is no"),
        ("PUT", "/api/thing", b"", {}, 405, "allowed: GET, HEAD, POST"),
        ("OPTIONS", "/api/thing", b"", {}, 405, "cannot be asked with OPTIONS"),
        ("POST", "/api/thing", b"{", {}, 400, "no JSON"),
        ("POST", "/api/thing", b"[" * 100_000, {}, 400, "no JSON"),
        ("POST", "/api/thing", b"[]", {}, 400, "JSON object"),
        ("POST", "/api/thing", b"\xff", {}, 400, "no JSON"),
        ("POST", "/api/thing", b'{"dry_run": true, "dry_run": false}', {}, 400, "once"),
        ("POST", "/api/thing", b'{"a": [{"b": 1, "b": 1}]}', {}, 400, "once"),
        ("POST", "/api/thing", b"{}", {"CONTENT_TYPE": "text/plain"}, 415, "Content-Type"),
        ("POST", "/api/thing", b"", {"CONTENT_LENGTH": str(MOST_BODY + 1)}, 413, "at most"),
        ("POST", "/api/thing", b"", {"CONTENT_LENGTH": "-1"}, 400, "no number"),
        ("GET", "/api/thing", b"", {"QUERY_STRING": "a=1&a=2"}, 400, "once"),
        ("GET", "/api/thing", b"", {"QUERY_STRING": "a"}, 400, "query cannot be read"),
        ("GET", "/api/fault", b"", {}, 500, "log says more"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    method: str, path: str, body: bytes, fields: dict[str, str], status: int, why: str
) -> None:
    told, _, out = asked(method, path, body, **fields)
    assert told == status
    assert list(json.loads(out)) == ["error"]
    assert why in json.loads(out)["error"]


def test_405_says_what_is_allowed() -> None:
    assert asked("PUT", "/api/thing")[1]["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[(name, 200) for name in ("127.0.0.1:9100", "[::1]:9100", "10.1.2.3", "localhost:1")],
        *[(name, 200) for name in ("Films.example:9100", "films.example")],
        *[(name, 403) for name in ("evil.example", "127.0.0.1.evil.example", "", "[evil]:80")],
        ("127.0.0.1,evil.example", 403),
    ],
)
def test_over_tcp_a_name_that_is_not_ours_is_refused(host: str, status: int) -> None:
    assert asked("GET", "/api/thing", host="films.example", HTTP_HOST=host)[0] == status
    assert asked("POST", "/api/thing", b"{}", host="films.example", HTTP_HOST=host)[0] == (
        202 if status == 200 else 403
    )


def test_metrics_are_told_to_who_asks_by_any_name_and_a_unix_socket_needs_none() -> None:
    assert asked("GET", "/metrics", host="0.0.0.0", HTTP_HOST="films.example:9100")[0] == 200
    assert asked("GET", "/api/thing", HTTP_HOST="whatever")[0] == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"HTTP_ORIGIN": "http://evil.example"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_ORIGIN": "http://localhost:8000"},
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
    ],
)
def test_another_site_cannot_change_anything(fields: dict[str, str]) -> None:
    given = {"HTTP_HOST": "localhost:9100", **fields}
    assert asked("POST", "/api/thing", b"{}", host="::", **given)[0] == 403


def test_our_own_page_can() -> None:
    given = {"HTTP_ORIGIN": "http://localhost:9100", "HTTP_SEC_FETCH_SITE": "same-origin"}
    given["HTTP_HOST"] = "localhost:9100"
    assert asked("POST", "/api/thing", b"{}", host="::", **given)[0] == 202


def test_a_long_list_is_written_in_pieces_and_others_run_between() -> None:
    turns = 0

    def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    greenlet = gevent.spawn(others)
    try:
        answer = Answer.listing("things", ({"n": n} for n in range(10_000)), {"next": None})
    finally:
        greenlet.kill()
    assert json.loads(answer.body) == {"things": [{"n": n} for n in range(10_000)], "next": None}
    assert turns > 100
    assert json.loads(Answer.listing("things", (), {"next": 1}).body) == {"things": [], "next": 1}


def test_what_is_not_known_is_refused_and_not_ignored() -> None:
    only({"dry_run": True}, ("dry_run", "path"))
    with pytest.raises(Refusal, match="no parameter 'dryrun'; allowed: dry_run, path"):
        only({"dryrun": True}, ("dry_run", "path"))
    assert read_query("") == {}
