"""``python -m tests.bench.python_servers pywsgi|aiohttp ROOT PORT``: others in Python."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

BLOCK = 64 * 1024


def pywsgi(root: str, port: int) -> None:
    """gevent's WSGI server with an application that wraps an open file."""
    from gevent.pywsgi import WSGIServer

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = os.path.join(root, environ["PATH_INFO"].lstrip("/"))
        try:
            file = io.FileIO(path)
        except OSError:
            start_response("404 Not Found", [("Content-Length", "0")])
            return []
        headers = [
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", str(os.fstat(file.fileno()).st_size)),
        ]
        start_response("200 OK", headers)
        return _Wrapper(file)

    WSGIServer(("127.0.0.1", port), application, log=None).serve_forever()


class _Wrapper:
    """As wsgiref's FileWrapper."""

    def __init__(self, file: BinaryIO) -> None:
        self.close = file.close
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self._file.read(BLOCK), b"")


def aiohttp(root: str, port: int) -> None:
    """aiohttp's static files, which it sends with ``sendfile``."""
    from aiohttp import web

    application = web.Application()
    application.router.add_static("/", root)
    web.run_app(application, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    {"pywsgi": pywsgi, "aiohttp": aiohttp}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
