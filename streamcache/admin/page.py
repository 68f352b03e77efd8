"""The page for people: files, without a build step, that ask the questions of ``/api/``."""

from __future__ import annotations

import importlib.resources
from functools import partial
from typing import Final

from streamcache.admin.answers import Answer, Question
from streamcache.admin.routes import Routes

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Only what is here, in no frame: whatever a file's name may contain, it runs nothing.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FIELDS: Final = (("Content-Security-Policy", _POLICY), ("Referrer-Policy", "no-referrer"))


class Page:
    """Answers with the files of ``static/``: ``/`` is ``index.html``."""

    def add_to(self, routes: Routes) -> None:
        """Have the page and its parts served. Reads them, once."""
        folder = importlib.resources.files("streamcache.admin") / "static"
        for file in folder.iterdir():
            suffix = file.name.rpartition(".")[2]
            if suffix in _TYPES:
                path = "/" if file.name == "index.html" else f"/static/{file.name}"
                answer = Answer(file.read_bytes(), _TYPES[suffix], fields=_FIELDS)
                routes.add("GET", path, partial(_same, answer))


def _same(answer: Answer, _: Question) -> Answer:
    return answer
