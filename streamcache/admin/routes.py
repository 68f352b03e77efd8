"""What can be asked: paths and methods, and what answers each; WSGI in, WSGI out.

What cannot be asked, as its head is none, is answered here too.

In a greenlet of the admin listener. A fault of ours is 500 and a line in the log, never the end of
the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final

from streamcache.admin.answers import Answer, Ask, Question, Refusal, read_body, read_query
from streamcache.admin.doors import Doors
from streamcache.errors import StreamCacheError
from streamcache.http.request import BadRequest

log = logging.getLogger(__name__)

MOST_BODY: Final = 1024 * 1024  # bytes of a question
_SAFE: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
)

_LAST: Final = (("Connection", "close"),)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class Routes:
    """The application: ``routes.add("GET", "/api/status", ask)``, then it is called by the server.

    A path that ends with "/" takes all below it; ``Question.rest`` says which.
    """

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._table: dict[str, dict[str, Ask]] = {}

    def add(self, method: str, path: str, ask: Ask) -> None:
        """Have ``ask`` answer that. It may switch, and raise Refusal."""
        self._table.setdefault(path, {})[method] = ask

    @property
    def paths(self) -> dict[str, set[str]]:
        """The methods of each path."""
        return {path: set(methods) for path, methods in self._table.items()}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """See PEP 3333."""
        try:
            answer = self._answer(environ)
        except Refusal as refused:
            answer = Answer.of({"error": refused.why}, refused.status, refused.fields)
        except (StreamCacheError, OSError) as error:  # the catalog, the disk, the source
            log.warning("question not answered path=%r error=%s", environ.get("PATH_INFO"), error)
            answer = Answer.of({"error": str(error)}, 503)
        except Exception:
            log.exception("question failed path=%r", environ.get("PATH_INFO"))
            answer = Answer.of({"error": "a fault of streamcache; its log says more"}, 500)
        return _tell(answer, start_response, bodiless=environ["REQUEST_METHOD"] == "HEAD")

    @staticmethod
    def refuse(refused: BadRequest, start_response: StartResponse) -> Iterable[bytes]:
        """The answer to a head that was refused; the connection ends with it."""
        answer = Answer.of({"error": refused.reason}, refused.status, _LAST)
        return _tell(answer, start_response, bodiless=refused.to_head)

    def _answer(self, environ: Environ) -> Answer:
        # WSGI has the bytes of a path as latin-1.
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "surrogateescape")
        asked = environ["REQUEST_METHOD"]
        method = "GET" if asked == "HEAD" else asked
        self._doors.check(method, path, environ)
        methods, rest = self._find(path)
        ask = methods.get(method)
        if ask is None:
            allowed = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
            raise Refusal(
                405,
                f"{path} cannot be asked with {asked}; allowed: {allowed}",
                (("Allow", allowed),),
            )
        question = Question(
            method=method,
            path=path,
            query=read_query(environ.get("QUERY_STRING", "")),
            body=read_body(_read(environ)),
            accept=environ.get("HTTP_ACCEPT", ""),
            rest=rest,
        )
        return ask(question)

    def _find(self, path: str) -> tuple[dict[str, Ask], str]:
        if path in self._table:
            return self._table[path], ""
        for known, methods in self._table.items():
            if known != "/" and known.endswith("/") and path.startswith(known):
                return methods, path.removeprefix(known)
        raise Refusal(404, f"there is no {path}; /api/openapi.json says what there is")


def _tell(answer: Answer, start_response: StartResponse, *, bodiless: bool) -> list[bytes]:
    fields = [
        ("Content-Type", answer.type),
        ("Content-Length", str(len(answer.body))),
        *_SAFE,
        *answer.fields,
    ]
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", fields)
    return [] if bodiless else [answer.body]


def _read(environ: Environ) -> bytes:
    """The body, which has a length, and is not long."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if not (length.isascii() and length.isdigit()):
        raise Refusal(400, f"Content-Length {length!r} is no number")
    if int(length) > MOST_BODY:
        raise Refusal(413, f"a body has {MOST_BODY} bytes at most")
    data: bytes = environ["wsgi.input"].read(int(length))
    return data
